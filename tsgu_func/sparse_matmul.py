"""Products of a sparse matrix with dense ones; derived in `tsgu_func.ops.products`."""

from __future__ import annotations

from torch import Tensor

from tsgu_func.legacy import OpFunction
from tsgu_func.matrix import arguments
from tsgu_func.matrix.batches import over_matrix
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.ops.products import spmm

__all__ = ["SparseMatMul", "sparse_mm"]


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
    precision is accumulated in float32.  The transpose is formed once per pattern, when a
    derivative with respect to `B` is first asked for that needs it: of many columns, or in several
    threads.

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
    arguments.check_matmul(A, B)
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

    apply = forward = staticmethod(sparse_mm)
