"""What is shared by the functions that make sparse derivatives."""
