"""What sparse derivatives share: pytrees as vectors, detected patterns, compressed products."""
