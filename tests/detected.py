"""Detected patterns beside those of dense derivatives, which are the oracle."""

import torch
from torch.func import jacfwd


def dense(pattern):
    """Return a pattern as a matrix of truth values."""
    row, col = pattern.row.long(), pattern.col.long()
    found = torch.zeros(pattern.shape, dtype=torch.bool)
    found[row, col] = True
    assert int(found.sum()) == pattern.nnz
    return found


def true_pattern(f, *x, derivative=jacfwd, draws=12):
    """Return where the derivative in the first argument is not zero, at one of several inputs."""
    found = torch.zeros((), dtype=torch.bool)
    for _ in range(draws):
        value = derivative(f)(torch.randn_like(x[0]), *x[1:])
        found = found | (value.reshape(-1, x[0].numel()) != 0)
    return found


def check(pattern, true, exact=True):
    """Check that no entry is missing; and that there is none too many, where rules are exact."""
    found = dense(pattern)
    assert found.shape == true.shape
    missing = (true & ~found).nonzero().tolist()
    assert missing == [], f"entries are missing: {missing[:5]}"
    if exact:
        extra = (found & ~true).nonzero().tolist()
        assert extra == [], f"entries too many: {extra[:5]}"
