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
        float16, bfloat16, float32, float64, complex64 or complex128.  In a batch that is a torch
        sparse tensor, the members may store different entries.
    B : Tensor, dense, shape (m, p) or (b, m, p)
        It has the dtype of `A` and is on the same device.  If A is a SparseMatrix, B may also be a
        vector (m,), or ``(*batch, m, p)`` with a batch that broadcasts with that of A.

    Returns
    -------
    Tensor
        ``A @ B``, a dense tensor of shape (n, p), (b, n, p) or ``(*batch, n, p)``; for a vector B
        ``(*batch, n)``.

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

    The product and each derivative take O(nnz p) time, and O(nnz + (n + m) p) memory.  Half
    precision is accumulated in float32.  With many columns or several threads, the derivative with
    respect to `B` uses the transpose of A, which is formed once for a pattern.

    The gradient of A computes the product :math:`G B^H` only at the stored entries (sampled
    dense-dense multiplication): Nisa et al., *Sampled Dense Matrix Multiplication for
    High-Performance Machine Learning*, HiPC 2018.

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
