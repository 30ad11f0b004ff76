"""Functions with one mistake each, and which checkers tell."""
