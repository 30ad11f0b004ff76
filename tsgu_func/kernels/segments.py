"""Products by segment, a segment being consecutive rows that belong together.

    product:   out[s] = a[s] b[r]        for the rows s of segment r
    outer:     out[r] = x[s]ᵀ y[s]

Segment r is the rows from ``offsets[r]`` up to ``offsets[r + 1]``.  On the CPU, MKL takes all of
them in one call, or PyTorch's grouped product a few of float32.  Elsewhere, one that is worth it is
a product of its own, written straight to its place; the short ones are grouped by length, up to the
next power of two, and a group is one batched product: less than half of it is padding.  Time is
O(N D1 D2), memory O(N (D1 + D2) + R D1 D2), whatever the lengths.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import grouped_mm

from tsgu_func.kernels import compiled, mkl
from tsgu_func.kernels.mkl import Operands, multiplies

__all__ = ["by_key", "outer", "product"]

# Fewer multiplications than this take less time than the call that makes them.
_WORTH_A_CALL = 1 << 16
# A group of fewer segments than this is not worth its copies.
_WORTH_A_GROUP = 8
_HALF = (torch.float16, torch.bfloat16)
# What PyTorch's grouped product asks for: strides in whole 16 bytes, on CUDA not too many groups.
_ALIGNED = 16
_MOST_GROUPS = 1023
# On the CPU, for more groups than this MKL takes less time to multiply all at once.
_FEW_GROUPS = 64


def product(a: Tensor, b: Tensor, offsets: Tensor, order: Tensor) -> Tensor:
    """Multiply the rows of each segment with its matrix.

    Parameters
    ----------
    a : Tensor, shape (N, D1)
    b : Tensor, shape (R, D1, D2)
    offsets : Tensor of int64 on the CPU, shape (R + 1,)
    order : Tensor of int64, shape (N,) or (0,)
        The row of `a`, and of the output, that is at each place of a segment; none if they stand
        in place.

    Returns
    -------
    Tensor, shape (N, D2)
    """
    _check(offsets, a.shape[0])
    if not order.shape[0]:
        return _product(a, b, offsets)
    placed = _product(a.index_select(0, order), b, offsets)
    # To fetch rows takes less time than to send them.
    place = torch.empty_like(order)
    place[order] = torch.arange(len(order), device=order.device)
    return placed.index_select(0, place)


def outer(x: Tensor, y: Tensor, offsets: Tensor, order: Tensor) -> Tensor:
    """Multiply the transposed rows of each segment of x with those of y.

    Parameters
    ----------
    x : Tensor, shape (N, D1)
    y : Tensor, shape (N, D2)
    offsets, order : Tensor
        As in `product`.

    Returns
    -------
    Tensor, shape (R, D1, D2)
    """
    _check(offsets, x.shape[0])
    if not order.shape[0]:
        return _outer(x, y, offsets)
    return _outer(x.index_select(0, order), y.index_select(0, order), offsets)


def by_key(keys: np.ndarray, count: int) -> tuple[Tensor, Tensor]:
    """Return the `offsets` and the `order` in which rows with a key are segments, one for each key.

    Parameters
    ----------
    keys : array of int64, shape (N,)
        From 0 to count - 1, which nobody checks here.
    count : int
    """
    offsets = np.zeros(count + 1, np.int64)
    order = np.empty(0, np.int64)
    if not compiled.sorting.starts(keys, offsets):
        order = np.empty_like(keys)
        compiled.sorting.places(keys, offsets, order)
    return torch.from_numpy(offsets), torch.from_numpy(order)


def _check(offsets: Tensor, rows: int) -> None:
    """Check that segments follow each other from the first row to the last.

    Nothing beyond can make a kernel read out of bounds.  Where indices or lengths are known sooner,
    they have been checked sooner.
    """
    starts = offsets.numpy()
    first, last = int(starts[0]), int(starts[-1])
    if first == 0 and last == rows and (starts[1:] >= starts[:-1]).all():
        return
    raise ValueError(
        f"segments cover the rows 0 to {rows} one after the other; got segments from {first} to "
        f"{last}: check that indices are in range, or that lengths are not negative and sum to "
        f"{rows}"
    )


def _product(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    if _suits_grouped_mm(a, b.shape[0], a.shape[1], b.shape[2]):
        return grouped_product(a, b, offsets)
    if a.dtype in _HALF:
        return _product(a.float(), b.float(), offsets).to(a.dtype)
    if not (a.numel() and b.numel()):
        return a.new_zeros(a.shape[0], b.shape[2])
    if multiplies(a, b):
        return _product_by_mkl(a, b, offsets.numpy())
    if length := _common_length(offsets):
        return torch.bmm(a.unflatten(0, (-1, length)), b).flatten(0, 1)
    out = a.new_empty(a.shape[0], b.shape[2])
    single, groups = _plan(offsets, b.shape[1] * b.shape[2])
    for r, first, last in single:
        torch.mm(a[first:last], b[r], out=out[first:last])
    for group in groups:
        found = torch.bmm(group.padded(a), group.of(b)).flatten(0, 1)
        real = group.real.to(a.device)
        out.index_copy_(0, group.rows.to(a.device)[real], found[real])
    return out


def _outer(x: Tensor, y: Tensor, offsets: Tensor) -> Tensor:
    if _suits_grouped_mm(x, offsets.shape[0] - 1, x.shape[1], y.shape[1]):
        return grouped_outer(x, y, offsets)
    if x.dtype in _HALF:
        return _outer(x.float(), y.float(), offsets).to(x.dtype)
    if x.numel() and y.numel() and multiplies(x, y):
        return _outer_by_mkl(x, y, offsets.numpy())
    out = x.new_zeros(offsets.shape[0] - 1, x.shape[1], y.shape[1])
    if not (x.numel() and y.numel()):
        return out
    if length := _common_length(offsets):
        return torch.bmm(x.unflatten(0, (-1, length)).mT, y.unflatten(0, (-1, length)))
    single, groups = _plan(offsets, out.shape[1] * out.shape[2])
    for r, first, last in single:
        torch.mm(x[first:last].mT, y[first:last], out=out[r])
    for group in groups:
        # Both, for zero times a neighbour's infinity is not zero.
        left, right = group.cleared(x), group.cleared(y)
        out.index_copy_(0, group.members.to(x.device), torch.bmm(left.mT, right))
    return out


# ------------------------------------------------------------------------------------- with MKL


def _product_by_mkl(a: Tensor, b: Tensor, offsets: np.ndarray) -> Tensor:
    out = a.new_empty(a.shape[0], b.shape[2])
    which, first, lengths = _that_have_rows(offsets)
    left, result = (Operands.rows_of(x, first) for x in (a, out))
    mkl.multiply((lengths, b.shape[1], b.shape[2]), left, Operands.members_of(b, which), result)
    return out


def _outer_by_mkl(x: Tensor, y: Tensor, offsets: np.ndarray) -> Tensor:
    which, first, lengths = _that_have_rows(offsets)
    shape = len(offsets) - 1, x.shape[1], y.shape[1]
    out = x.new_empty(shape) if len(which) == shape[0] else x.new_zeros(shape)
    left, right = (Operands.rows_of(z, first) for z in (x, y))
    mkl.multiply((shape[1], lengths, shape[2]), left.T, right, Operands.members_of(out, which))
    return out


def _that_have_rows(offsets: np.ndarray) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return the numbers of all segments but empty ones, where they start, and their lengths."""
    lengths = np.diff(offsets)
    which = np.flatnonzero(lengths)
    return which, offsets[which], lengths[which]


# ------------------------------------------------------------------------------------ the plan


class Group(NamedTuple):
    """Segments of similar length, each padded to `width` rows with rows of its neighbours."""

    width: int
    members: Tensor
    rows: Tensor
    real: Tensor

    def padded(self, x: Tensor) -> Tensor:
        """Return the rows of the members, (members, width, columns)."""
        return x.index_select(0, self.rows.to(x.device)).unflatten(0, (-1, self.width))

    def cleared(self, x: Tensor) -> Tensor:
        """Return the rows of the members, with zero for padding."""
        padding = ~self.real.view(-1, self.width, 1)
        return self.padded(x).masked_fill_(padding.to(x.device), 0)

    def of(self, b: Tensor) -> Tensor:
        """Return the members' own matrices."""
        everything = self.members.shape[0] == b.shape[0]
        return b if everything else b.index_select(0, self.members.to(b.device))


def _common_length(offsets: Tensor) -> int:
    """Return the length of all segments if they have but one, else 0."""
    lengths = offsets.diff()
    return int(lengths[0]) if bool((lengths == lengths[0]).all()) else 0


def _plan(offsets: Tensor, work: int) -> tuple[list[tuple[int, int, int]], list[Group]]:
    """Sort segments into those that are multiplied alone and groups; `work` is that of a row."""
    lengths = offsets.diff()
    # The number of binary digits of length - 1: 2 to its power is no less than the length.
    digits = torch.frexp((lengths - 1).double()).exponent
    short = (lengths > 0) & (lengths * work < _WORTH_A_CALL)
    alone, groups = [(lengths > 0) & ~short], []
    for d in digits[short].unique().tolist():
        chosen = short & (digits == d)
        if int(chosen.sum()) < _WORTH_A_GROUP:
            alone.append(chosen)
        else:
            groups.append(_group(offsets, chosen.nonzero().squeeze(1), 1 << d))
    r = torch.stack(alone).any(0).nonzero().squeeze(1)
    columns = r.tolist(), offsets[r].tolist(), offsets[r + 1].tolist()
    return list(zip(*columns, strict=True)), groups


def _group(offsets: Tensor, members: Tensor, width: int) -> Group:
    rows = offsets[members].unsqueeze(1) + torch.arange(width, device="cpu")
    real = rows < offsets[members + 1].unsqueeze(1)
    rows.clamp_(max=int(offsets[-1]) - 1)
    return Group(width, members, rows.flatten(), real.flatten())


# ------------------------------------------------------------------ PyTorch's grouped product


def _suits_grouped_mm(a: Tensor, groups: int, *sizes: int) -> bool:
    """Whether PyTorch's kernel takes such matrices, and is the fastest.

    For bfloat16 on CUDA it is one kernel for all segments, and accumulates in float32.  On the CPU
    it takes the segments one by one, which is the fastest way if there are but a few.
    """
    if not 0 < groups <= _most_groups(a) or not a.shape[0]:
        return False
    return all(n and n * a.element_size() % _ALIGNED == 0 for n in sizes)


def _most_groups(a: Tensor) -> int:
    if a.device.type == "cpu":
        return _FEW_GROUPS if a.dtype == torch.float32 else 0
    if a.device.type != "cuda" or a.dtype != torch.bfloat16:
        return 0
    return _MOST_GROUPS if torch.cuda.get_device_capability(a.device) >= (8, 0) else 0


def grouped_product(a: Tensor, b: Tensor, offsets: Tensor) -> Tensor:
    """Do what `product` does, with PyTorch's kernel."""
    b = b if b.mT.is_contiguous() and b.data_ptr() % _ALIGNED == 0 else _aligned(b)
    return grouped_mm(_aligned(a), b, offs=_ends(a, offsets))


def grouped_outer(x: Tensor, y: Tensor, offsets: Tensor) -> Tensor:
    """Do what `outer` does, with PyTorch's kernel."""
    out = grouped_mm(_aligned(x).mT, _aligned(y), offs=_ends(x, offsets))
    # What an empty sum leaves in the output is not documented.
    empty = offsets[1:] == offsets[:-1]
    return out.masked_fill_(empty.to(x.device).view(-1, 1, 1), 0) if bool(empty.any()) else out


def _ends(a: Tensor, offsets: Tensor) -> Tensor:
    return offsets[1:].int().to(a.device)


def _aligned(x: Tensor) -> Tensor:
    """Return x, or a copy if its memory does not start at a multiple of 16 bytes in row order."""
    x = x.contiguous()
    return x if x.data_ptr() % _ALIGNED == 0 else x.clone()
