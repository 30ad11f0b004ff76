"""Detection of the sparsity pattern of a derivative, from its program."""
