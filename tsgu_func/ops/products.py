"""Products of a sparse matrix with dense ones.

Derivation.  Let ``C = A B``.  Both factors enter linearly, so ``dC = dA B + A dB``.  With the inner
product ``<X, Y> = Re tr(Xᴴ Y)`` and the cotangent G of C,

    <G, A dB> = <Aᴴ G, dB>,      <G, dA B> = <G Bᴴ, dA>,

and since dA vanishes where nothing is stored, only those entries of ``G Bᴴ`` count.  So the
cotangent of B is another `spmm` and that of the values an `sddmm`, whose derivatives are `spmm`
again: the pair is closed, and derivatives of every order keep the pattern.

Both ops take compressed rows of a *stored* matrix, S for short; ``transpose`` says that A is its
transpose.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func.kernels import products
from tsgu_func.kernels.structure import structure_of
from tsgu_func.registration.dependence import spread
from tsgu_func.registration.primitive import Primitive

__all__ = ["STORED", "sddmm", "spmm"]

# How rules name the arguments that are the stored matrix S, but for its values.
STORED = {"S": ("crow", "col", "cols")}


def _places(crow: Tensor, col: Tensor, transpose: bool) -> tuple[Tensor, Tensor]:
    """Return row and column of each entry of A."""
    row = torch.arange(len(crow) - 1, device="cpu").repeat_interleave(crow.diff())
    return (col.long(), row) if transpose else (row, col.long())


# ------------------------------------------------------------------------------------- spmm

spmm = Primitive(
    "tsgu_func::spmm(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose) -> Tensor",
    groups=STORED,
)


@spmm.kernel
def _(values, B, S, transpose):
    return products.spmm(structure_of(*S), values, B, transpose=transpose)


@spmm.fake
def _(values, B, crow, col, cols, transpose):
    rows = cols if transpose else crow.shape[0] - 1
    return B.new_empty(*B.shape[:-2], rows, B.shape[-1])


@spmm.vjp("values")
def _(ct, B, S, transpose):
    # An entry of S at (i, j) is the entry of its transpose at (j, i).
    X, Y = (B.conj(), ct) if transpose else (ct, B.conj())
    return sddmm(X, Y, *S)


@spmm.vjp("B")
def _(ct, values, S, transpose):
    return spmm(values.conj(), ct, *S, not transpose)


@spmm.dependence("values")
def _(values, out, crow, col, transpose):
    (own, _), batch = _places(crow, col, transpose), out.shape[:-2]
    return spread(out, batch, 2)[..., own, :], spread(values, batch, 1).unsqueeze(-1)


@spmm.dependence("B")
def _(B, out, crow, col, transpose):
    (to, of), batch = _places(crow, col, transpose), out.shape[:-2]
    return spread(out, batch, 2)[..., to, :], spread(B, batch, 2)[..., of, :]


spmm.linear_in("values", "B")
spmm.fold(values=1, B=2, columns="B")
spmm.autocast("lower")

# ------------------------------------------------------------------------------------- sddmm

sddmm = Primitive(
    "tsgu_func::sddmm(Tensor X, Tensor Y, Tensor crow, Tensor col, SymInt cols) -> Tensor",
    groups=STORED,
)


@sddmm.kernel
def _(X, Y, S):
    return products.sddmm(structure_of(*S), X, Y)


@sddmm.fake
def _(X, Y, crow, col, cols):
    return X.new_empty(*X.shape[:-2], col.shape[0])


@sddmm.vjp("X")
def _(ct, Y, S):
    return spmm(ct, Y.conj(), *S, False)


@sddmm.vjp("Y")
def _(ct, X, S):
    return spmm(ct, X.conj(), *S, True)


@sddmm.dependence("X")
def _(X, out, crow, col):
    row, _ = _places(crow, col, False)
    batch = out.shape[:-1]
    return spread(out, batch, 1).unsqueeze(-1), spread(X, batch, 2)[..., row, :]


@sddmm.dependence("Y")
def _(Y, out, col):
    batch = out.shape[:-1]
    return spread(out, batch, 1).unsqueeze(-1), spread(Y, batch, 2)[..., col.long(), :]


sddmm.linear_in("X", "Y")
sddmm.fold(X=2, Y=2)
sddmm.autocast("lower")
