"""Products of rows with matrices of a bank; derived in `tsgu_func.ops.segments`."""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from tsgu_func.kernels import segments
from tsgu_func.matrix import arguments
from tsgu_func.ops.segments import segment_product
from tsgu_func.registration.transforms import is_batched, is_tracing, outside_transforms, unwrapped

__all__ = ["gather_mm", "segment_mm"]


def segment_mm(a: Tensor, b: Tensor, seglen_a: Tensor) -> Tensor:
    r"""Multiply segments of consecutive rows of `a`, each with its own matrix of `b`.

    Parameters
    ----------
    a : Tensor, shape (N, D1)
        The rows of all segments, one segment after the other.  float16, bfloat16, float32, float64,
        complex64 or complex128.
    b : Tensor, shape (R, D1, D2)
        One matrix for each segment.  They have the dtype of `a` and are on the same device.
    seglen_a : Tensor, shape (R,), integers
        How many rows each segment has.  Their sum has to be N.  On the CPU or on the device of `a`.

    Returns
    -------
    Tensor, shape (N, D2)
        ``a[s] @ b[r]`` for the rows s of each segment r, in the order of `a`.

    Raises
    ------
    ValueError
        If an argument is not a dense tensor of the shape above, if dtypes or devices differ, if a
        length is negative, or if the lengths do not add up to N.

    Notes
    -----
    For a cotangent :math:`G`, with the sum over the rows of segment r,

    .. math:: \bar a_s = G_s b_r^H, \qquad \bar b_r = \sum_s a_s^H G_s,

    to any order, in forward and reverse mode and under ``vmap``, which adds batch axes to any of
    the three arguments.

    This takes O(N D1 D2) time and O(N (D1 + D2) + R D1 D2) memory, whatever the lengths are.  Half
    precision is accumulated in float32.  In a compiled function, the lengths are checked when it
    runs.

    To multiply segment by segment, without padding to the longest, is the grouped product of Gale
    et al., *MegaBlocks: Efficient Sparse Training with Mixture-of-Experts*, MLSys 2023.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import segment_mm
    >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> b = torch.stack([torch.eye(2), torch.ones(2, 2), 2 * torch.eye(2)])
    >>> segment_mm(a, b, torch.tensor([2, 0, 1]))
    tensor([[ 1.,  2.],
            [ 3.,  4.],
            [10., 12.]])
    >>> torch.func.grad(lambda b: segment_mm(a, b, torch.tensor([2, 0, 1])).sum())(b)[0]
    tensor([[4., 4.],
            [6., 6.]])
    """
    _check_factors(a, b)
    _check_integers("seglen_a", seglen_a, b.shape[0], "one length for each matrix of b", a)
    offsets = _consecutive(seglen_a.long(), a.shape[0])
    in_place = torch.empty(0, dtype=torch.int64, device=a.device)
    return segment_product(a, b, offsets.cpu(), in_place)


def _consecutive(lengths: Tensor, rows: int) -> Tensor:
    """Return where segments start and end that follow each other."""
    if (numbers := _numbers(lengths)) is not None and len(numbers) and numbers.min() >= 0:
        offsets = np.zeros(len(numbers) + 1, np.int64)
        numbers.cumsum(out=offsets[1:])
        if offsets[-1] == rows:
            return torch.from_numpy(offsets)
    if (known := _known(lengths)) is not None:
        _check_range("seglen_a", known, None)
        _check_sum(_known(lengths.sum()), rows)
    return torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])


def gather_mm(a: Tensor, b: Tensor, idx_b: Tensor) -> Tensor:
    r"""Multiply each row of `a` with the matrix of `b` that the index of the row names.

    Parameters
    ----------
    a : Tensor, shape (N, D1)
        float16, bfloat16, float32, float64, complex64 or complex128.
    b : Tensor, shape (R, D1, D2)
        The matrices.  They have the dtype of `a` and are on the same device.
    idx_b : Tensor, shape (N,), integers
        For each row, which matrix it is multiplied with, from 0 to R - 1.  On the CPU or on the
        device of `a`.

    Returns
    -------
    Tensor, shape (N, D2)
        ``out[i] = a[i] @ b[idx_b[i]]``.

    Raises
    ------
    ValueError
        If an argument is not a dense tensor of the shape above, if dtypes or devices differ, or if
        an index is out of range.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar a_i = G_i b_{r(i)}^H, \qquad \bar b_r = \sum_{i : r(i) = r} a_i^H G_i,

    to any order, in forward and reverse mode and under ``vmap``, which adds batch axes to any of
    the three arguments.

    The rows are sorted by their index, multiplied as in `segment_mm`, and put back in their order.
    So neither ``b[idx_b]`` nor a gradient of `b` for each row is ever formed.  This takes
    O(N D1 D2 + N log N) time, on the CPU O(N D1 D2 + R), and O(N (D1 + D2) + R D1 D2) memory.  Half
    precision is accumulated in float32.  In a compiled function, the indices are checked when it
    runs.

    To sort rows by their matrix is the permutation of Gale et al., *MegaBlocks: Efficient Sparse
    Training with Mixture-of-Experts*, MLSys 2023.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import gather_mm
    >>> a = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]])
    >>> b = torch.stack([torch.eye(2), 2 * torch.eye(2)])
    >>> idx = torch.tensor([1, 0, 1])
    >>> gather_mm(a, b, idx)
    tensor([[ 2.,  4.],
            [ 3.,  4.],
            [10., 12.]])
    >>> torch.func.grad(lambda b: gather_mm(a, b, idx).sum())(b)[1]
    tensor([[6., 6.],
            [8., 8.]])
    """
    _check_factors(a, b)
    _check_integers("idx_b", idx_b, a.shape[0], "one index for each row of a", a)
    index = idx_b.long()
    offsets, order = _sorted(index, b.shape[0])
    return segment_product(a, b, offsets.cpu(), order.to(a.device))


def _sorted(index: Tensor, matrices: int) -> tuple[Tensor, Tensor]:
    """Return the segments of each matrix, and the order of rows in them; empty if they are."""
    if (numbers := _numbers(index)) is not None and _are_within(numbers, matrices):
        return segments.by_key(numbers, matrices)
    if (known := _known(index)) is not None:
        _check_range("idx_b", known, matrices)
    order = index.new_empty(0)
    if not _in_order(index):
        index, order = torch.sort(index, stable=True)
    # The sum gives each member of a batch its own bounds, or PyTorch warns of their strides.
    bounds = index.new_zeros(matrices + 1) + torch.arange(matrices + 1, device=index.device)
    return torch.searchsorted(index.contiguous(), bounds), order


# -------------------------------------------------------------------------------- their checks


def _check_factors(a: Tensor, b: Tensor) -> None:
    """Check everything of a and b but their numbers."""
    arguments.check_dense("a", a)
    arguments.check_dense("b", b)
    if a.ndim != 2 or b.ndim != 3:
        raise ValueError(
            f"a has shape (N, D1) and b (R, D1, D2); got {tuple(a.shape)} and {tuple(b.shape)}: "
            f"torch.func.vmap adds batch axes"
        )
    if a.shape[1] != b.shape[1]:
        raise ValueError(
            f"a has as many columns as each matrix of b has rows; got a {tuple(a.shape)} and b "
            f"{tuple(b.shape)}"
        )
    arguments.check_devices(a, b, ("a", "b"))
    arguments.check_dtypes(a, b, ("a", "b"))


def _check_integers(name: str, x: Tensor, size: int, meaning: str, a: Tensor) -> None:
    """Check everything of indices or lengths but their numbers."""
    arguments.check_dense(name, x)
    if x.dtype.is_floating_point or x.dtype.is_complex or x.dtype == torch.bool:
        raise ValueError(f"{name} holds integers; got {x.dtype}: convert it with .long()")
    if tuple(x.shape) != (size,):
        raise ValueError(f"{name} has {meaning}, shape ({size},); got shape {tuple(x.shape)}")
    if x.device.type != "cpu" and x.device != a.device:
        raise ValueError(
            f"{name} is on the CPU or on the device of a, {a.device}; got {x.device}: move it"
        )


def _known(x: Tensor) -> Tensor | None:
    """Return the numbers of x, of all members of a batch; or None while the graph is compiled."""
    if torch.compiler.is_compiling():
        return None
    plain = unwrapped(x)
    return plain if type(plain) is Tensor and not plain.is_meta else None


def _numbers(x: Tensor) -> np.ndarray | None:
    """Return the numbers of x if it is nothing else: no batch, no part of a graph, on the CPU."""
    if is_tracing() or type(x) is not Tensor or x.device.type != "cpu" or unwrapped(x) is not x:
        return None
    return x.contiguous().numpy()


def _are_within(x: np.ndarray, size: int) -> bool:
    return not len(x) or bool(x.min() >= 0 and x.max() < size)


def _in_order(index: Tensor) -> bool:
    """Whether an index is sorted, as far as may be seen: a graph must serve others as well."""
    if is_tracing() or is_batched(index) or _known(index) is None:
        return False
    with outside_transforms():
        return bool((unwrapped(index).diff() >= 0).all())


def _check_range(name: str, x: Tensor, size: int | None) -> None:
    """Check that no number is negative, or as large as size."""
    with outside_transforms():
        if not x.numel() or (int(x.min()) >= 0 and (size is None or int(x.max()) < size)):
            return
        bad = (x < 0) if size is None else (x < 0) | (x >= size)
        place = tuple(int(i) for i in bad.nonzero()[0])
        allowed = "0 or more" if size is None else f"from 0 to {size - 1}"
        allowed = "in a bank without matrices: none" if size == 0 else allowed
        raise ValueError(f"each entry of {name} is {allowed}; got {int(x[place])} at {place}")


def _check_sum(sums: Tensor | None, rows: int) -> None:
    """Check that the lengths, of each member of a batch, are those of all rows."""
    with outside_transforms():
        if sums is not None and bool((wrong := sums != rows).any()):
            got = int(sums[wrong][0])
            raise ValueError(f"seglen_a sums to the number of rows of a, {rows}; got {got}")
