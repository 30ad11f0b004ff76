"""Products of a sparse matrix with dense ones.

Derivation.  Let ``C = A B``.  Both factors enter linearly, so ``dC = dA B + A dB``.  With the inner
product ``<X, Y> = Re tr(Xᴴ Y)`` and the cotangent G of C,

    <G, A dB> = <Aᴴ G, dB>,      <G, dA B> = <G Bᴴ, dA>,

and since dA vanishes where nothing is stored, only those entries of ``G Bᴴ`` count.  So the
cotangent of B is another `spmm` and that of the values an `sddmm`, whose derivatives are `spmm`
again: the pair is closed, and derivatives of every order keep the pattern.

Both ops take compressed rows of a *stored* matrix S; ``transpose`` says that A is its transpose.
"""

from __future__ import annotations

from torch import Tensor

from tsgu_func import check
from tsgu_func.batching import over_matrix
from tsgu_func.functions import OpFunction
from tsgu_func.kernels import products
from tsgu_func.kernels.structure import structure_of
from tsgu_func.matrix import SparseMatrix
from tsgu_func.pattern import SparsityPattern
from tsgu_func.primitive import Primitive

__all__ = ["SparseMatMul", "sddmm", "sparse_mm", "spmm"]

# ------------------------------------------------------------------------------------- spmm

spmm = Primitive(
    "tsgu_func::spmm(Tensor values, Tensor B, Tensor crow, Tensor col, SymInt cols,"
    " bool transpose) -> Tensor"
)


@spmm.kernel
def _(values, B, crow, col, cols, transpose):
    return products.spmm(structure_of(crow, col, cols), values, B, transpose=transpose)


@spmm.fake
def _(values, B, crow, col, cols, transpose):
    rows = cols if transpose else crow.shape[0] - 1
    return B.new_empty(*B.shape[:-2], rows, B.shape[-1])


@spmm.vjp("values")
def _(ct, B, crow, col, cols, transpose):
    # An entry of S at (i, j) is the entry of its transpose at (j, i).
    X, Y = (B.conj(), ct) if transpose else (ct, B.conj())
    return sddmm(X, Y, crow, col, cols)


@spmm.vjp("B")
def _(ct, values, crow, col, cols, transpose):
    return spmm(values.conj(), ct, crow, col, cols, not transpose)


spmm.linear_in("values", "B")
spmm.fold(values=1, B=2, columns="B")
spmm.autocast("lower")

# ------------------------------------------------------------------------------------- sddmm

sddmm = Primitive(
    "tsgu_func::sddmm(Tensor X, Tensor Y, Tensor crow, Tensor col, SymInt cols) -> Tensor"
)


@sddmm.kernel
def _(X, Y, crow, col, cols):
    return products.sddmm(structure_of(crow, col, cols), X, Y)


@sddmm.fake
def _(X, Y, crow, col, cols):
    return X.new_empty(*X.shape[:-2], col.shape[0])


@sddmm.vjp("X")
def _(ct, Y, crow, col, cols):
    return spmm(ct, Y.conj(), crow, col, cols, False)


@sddmm.vjp("Y")
def _(ct, X, crow, col, cols):
    return spmm(ct, X.conj(), crow, col, cols, True)


sddmm.linear_in("X", "Y")
sddmm.fold(X=2, Y=2)
sddmm.autocast("lower")

# -------------------------------------------------------------------------- public function


def sparse_mm(A: SparseMatrix | Tensor, B: Tensor) -> Tensor:
    r"""Multiply a sparse matrix with a dense one; the gradient of `A` keeps its pattern.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, n, m)``, or sparse COO or CSR Tensor (n, m) or (b, n, m)
        float16, bfloat16, float32, float64, complex64 or complex128.  The members of a sparse
        tensor's batch may store different entries.
    B : Tensor, dense, shape (m, p) or (b, m, p)
        Of the dtype and on the device of `A`.  For a SparseMatrix also (m,), or ``(*batch, m, p)``
        with batches that broadcast.

    Returns
    -------
    Tensor
        ``A @ B``, dense: (n, p), (b, n, p), ``(*batch, n, p)``; or ``(*batch, n)`` for a vector.

    Raises
    ------
    ValueError
        If an argument is no tensor of the layout above, or shapes, dtypes or devices differ.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar B = A^H G, \qquad \bar A_{ij} = \sum_k G_{ik} \overline{B_{jk}}
        \quad\text{where } A \text{ stores an entry,}

    to any order, in forward and reverse mode and under ``vmap``.

    Time is O(nnz p) for the product and each derivative, memory O(nnz + (n + m) p).  Half
    precision is accumulated in float32.  The transpose is formed when a derivative with respect
    to `B` is first asked for, once per pattern.

    The scheme is sampled dense-dense multiplication, as in Nisa et al., *Sampled Dense Matrix
    Multiplication for High-Performance Machine Learning*, HiPC 2018.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, sparse_mm
    >>> A = torch.tensor([[1.0, 0.0, 2.0], [0.0, 3.0, 0.0]]).to_sparse_coo()
    >>> sparse_mm(A, torch.ones(3, 1))
    tensor([[3.],
            [3.]])
    >>> A = A.requires_grad_()
    >>> sparse_mm(A, torch.ones(3, 1)).sum().backward()
    >>> A.grad.to_dense()
    tensor([[1., 0., 1.],
            [0., 1., 0.]])
    >>> S = SparseMatrix.from_torch(A.detach())
    >>> energy = lambda values: sparse_mm(S.with_values(values), torch.ones(3)).square().sum()
    >>> torch.func.hessian(energy)(S.values)
    tensor([[2., 2., 0.],
            [2., 2., 0.],
            [0., 0., 2.]])
    """
    check.matmul(A, B)
    return over_matrix(_mm, A, B, A.shape[-2])


def _mm(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
    s = pattern.structure
    return spmm(values, B, s.crow, s.col, s.cols, pattern.transposed)


class SparseMatMul(OpFunction):
    """`sparse_mm` for code that calls ``SparseMatMul.apply(A, B)``.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.sparse_matmul import SparseMatMul
    >>> SparseMatMul.apply(torch.eye(2).to_sparse_csr(), torch.ones(2, 1))
    tensor([[1.],
            [1.]])
    """

    @staticmethod
    def forward(A: SparseMatrix | Tensor, B: Tensor) -> Tensor:  # pyright: ignore
        """Multiply."""
        return sparse_mm(A, B)
