"""The closed set of ops, one family a file."""
