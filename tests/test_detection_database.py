"""Patterns of all operators in PyTorch's own database hold what their derivatives do."""

import pytest
import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from tests.detected import dense
from tsgu_func import jacobian_pattern

pytest.importorskip("expecttest")
from tsgu_func.selfcheck.database import names, samples

ROWS = 24  # elements of results that are differentiated, of a sample

# Operators that are refused by name, and what with.
REFUSED = {
    "to_sparse": (ValueError, "layout torch.sparse_coo to aten::_to_sparse"),
    "nn.functional.embedding_bag": (NotImplementedError, "no rule .*embedding_bag"),
}
# Entries of which PyTorch says that they are there, and they are not.
WRONG = {
    "as_strided_scatter": "what is overwritten has a gradient in reverse mode",
}


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


@pytest.mark.filterwarnings("ignore")  # of operators that are about to go
@pytest.mark.parametrize("name", names(torch.float64))
def test_operator(name):
    for number, (f, x) in enumerate(samples(name, torch.float64)):
        if name in REFUSED:
            error, message = REFUSED[name]
            with pytest.raises(error, match=message):
                detected(f, x)
            continue
        found = dense(detected(f, x))
        rows = range(0, len(found), -(-len(found) // ROWS) or 1)
        if not rows:
            continue
        true = true_rows(f, x, rows)
        if not number:
            true |= true_rows(f, nearby(x), rows)
        missing = [(rows[i], j) for i, j in (true & ~found[rows]).nonzero().tolist()]
        assert bool(missing) == (name in WRONG), missing[:5]
