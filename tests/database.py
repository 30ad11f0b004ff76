"""Patterns of the operators in PyTorch's database: a program, since its import changes settings.

``python -m tests.database DTYPE`` prints a line for each operator whose pattern is refused, or
lacks entries that its derivative has: the name, a tab, and what is the matter.
"""

import sys
import warnings

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.detected import dense
from tsgu_func import jacobian_pattern

ROWS = 8  # elements of results that are differentiated, of a sample


def outputs(f, x):
    leaves = pytree.tree_leaves(f(*x))
    tensors = [y for y in leaves if isinstance(y, Tensor)]
    return [y for y in tensors if y.is_floating_point() or y.is_complex()]


def true_rows(f, x, rows):
    """Return where derivatives are finite and not zero, by plain autograd, for some rows."""
    x = [t.detach().clone().requires_grad_() for t in x]
    elements = [element for y in outputs(f, x) for element in y.reshape(-1)]
    return torch.stack([row(elements[i], x) for i in rows])


def row(element, x):
    found = torch.zeros(sum(t.numel() for t in x), dtype=torch.bool)
    for u in (1, 1j) if element.is_complex() else (1,):
        if element.requires_grad:
            ct = torch.full_like(element, u)
            ct = torch.autograd.grad(element, x, ct, retain_graph=True, allow_unused=True)
            pairs = zip(ct, x, strict=True)
            flat = [(torch.zeros_like(t) if g is None else g).reshape(-1) for g, t in pairs]
            found |= torch.cat([g.isfinite() & (g != 0) for g in flat])
    return found


def nearby(x):
    """Return another point, which an operator takes, too."""
    generator = torch.Generator().manual_seed(0)
    return [t * (1 + 0.01 * torch.rand(t.shape, generator=generator)) for t in x]


def detected(f, x):
    """Return the pattern; that of the same branches, where an operator looks at numbers."""
    call = lambda detect: jacobian_pattern(
        lambda *x: outputs(f, x), *x, argnums=tuple(range(len(x))), detect=detect
    )
    try:
        return call("global")
    except ValueError as error:
        if 'detect="local"' not in str(error):
            raise
        return call("local")


def trouble(f, x, again):
    """Say what is the matter with the pattern at a sample, and with it nearby."""
    try:
        found = dense(detected(f, x))
    except (ValueError, NotImplementedError) as error:
        return f"{type(error).__name__}: {error}"
    rows = range(0, len(found), -(-len(found) // ROWS) or 1)
    if not rows:
        return ""
    true = true_rows(f, x, rows)
    if again:
        true |= true_rows(f, nearby(x), rows)
    missing = [(rows[i], j) for i, j in (true & ~found[rows]).nonzero().tolist()]
    return f"lacks {missing[:5]}" if missing else ""


def main(dtype):
    from tsgu_func.selfcheck.database import names, samples

    dtype = getattr(torch, dtype)
    warnings.simplefilter("ignore")  # of operators that are about to go
    for name in names(dtype):
        told = {trouble(f, x, not k) for k, (f, x) in enumerate(samples(name, dtype))}
        for line in sorted(told - {""}):
            print(name, line.partition("\n")[0], sep="\t")


if __name__ == "__main__":
    main(sys.argv[1])
