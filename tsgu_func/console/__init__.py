"""What all commands share: how they end, what their options take, what shows how far they are."""
