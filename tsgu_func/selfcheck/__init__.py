"""The command that checks every op of this library."""
