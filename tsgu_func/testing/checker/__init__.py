"""How rules are checked."""
