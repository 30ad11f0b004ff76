"""Products of rows with matrices of a bank: by segment, or by an index of each row.

Derivation.  Let ``C_s = a_s b_r`` for the rows s of each segment r.  Both factors enter linearly,
so ``dC_s = da_s b_r + a_s db_r``.  With the inner product ``<X, Y> = Re tr(Xᴴ Y)`` and the
cotangent G of C,

    <G, da b> = sum_s <G_s b_rᴴ, da_s>,      <G, a db> = sum_r <sum_s a_sᴴ G_s, db_r>.

So the cotangent of a is the same product with the matrices bᴴ, and that of b a sum of outer
products over each segment, never one for each row.  That sum is bilinear again, with cotangents
that are `segment_product`: the pair is closed.

Both ops take ``offsets`` (R + 1,), where segments start and end, and ``order`` (N,), which row
stands at each place of them; (0,) says that the rows stand in place.  Rows with an index are sorted
by it once: a derivative uses the same order.  `offsets` is on the CPU, where kernels need it.
"""

from __future__ import annotations

import torch
from torch import Tensor

from tsgu_func import check
from tsgu_func.kernels import segments
from tsgu_func.primitive import Primitive, is_batched, is_tracing, outside_transforms, unwrapped

__all__ = ["gather_mm", "segment_mm", "segment_outer", "segment_product"]

# -------------------------------------------------------------------------- segment_product

segment_product = Primitive(
    "tsgu_func::segment_product(Tensor a, Tensor b, Tensor offsets, Tensor order) -> Tensor"
)


@segment_product.kernel
def _(a, b, offsets, order):
    return segments.product(a, b, offsets, order)


@segment_product.fake
def _(a, b, offsets, order):
    return a.new_empty(a.shape[0], b.shape[2])


@segment_product.vjp("a")
def _(ct, b, offsets, order):
    return segment_product(ct, b.mH, offsets, order)


@segment_product.vjp("b")
def _(ct, a, offsets, order):
    return segment_outer(a.conj(), ct, offsets, order)


@segment_product.batch
def _(size, dims, args):
    a, b, offsets, order = _in_front(args, dims)
    indexed = dims.offsets is not None or dims.order is not None
    if indexed and dims.b is None:
        n = args.a.shape[0] if dims.a is None else a.shape[1]
        offsets, order = _merged(size, offsets, order, n)
        out = segment_product(_flat(size, a, dims.a), b, offsets, order)
        return out.unflatten(0, (size, n)), 0
    if indexed or (dims.a is not None and dims.b is not None):
        return _member_by_member(segment_product, size, dims, (a, b, offsets, order))
    if dims.a is not None:
        # More rows in each segment: those of all members for the first row, for the second, ...
        n = a.shape[1]
        member = torch.arange(size, device=order.device)
        order = (order.unsqueeze(1) * size + member).flatten()
        out = segment_product(a.movedim(0, 1).flatten(0, 1), b, offsets * size, order)
        return out.unflatten(0, (n, size)), 1
    out = segment_product(a, b.movedim(0, -2).flatten(-2), offsets, order)
    return out.unflatten(-1, (size, b.shape[-1])), -2


segment_product.linear_in("a", "b")
segment_product.autocast("lower")

# ---------------------------------------------------------------------------- segment_outer

segment_outer = Primitive(
    "tsgu_func::segment_outer(Tensor x, Tensor y, Tensor offsets, Tensor order) -> Tensor"
)


@segment_outer.kernel
def _(x, y, offsets, order):
    return segments.outer(x, y, offsets, order)


@segment_outer.fake
def _(x, y, offsets, order):
    return x.new_empty(offsets.shape[0] - 1, x.shape[1], y.shape[1])


@segment_outer.vjp("x")
def _(ct, y, offsets, order):
    return segment_product(y.conj(), ct.mT, offsets, order)


@segment_outer.vjp("y")
def _(ct, x, offsets, order):
    return segment_product(x.conj(), ct, offsets, order)


@segment_outer.batch
def _(size, dims, args):
    x, y, offsets, order = _in_front(args, dims)
    indexed = dims.offsets is not None or dims.order is not None
    if indexed or (dims.x is not None and dims.y is not None):
        return _member_by_member(segment_outer, size, dims, (x, y, offsets, order))
    if dims.x is not None:
        out = segment_outer(x.movedim(0, -2).flatten(-2), y, offsets, order)
        return out.unflatten(1, (size, x.shape[-1])), 1
    out = segment_outer(x, y.movedim(0, -2).flatten(-2), offsets, order)
    return out.unflatten(-1, (size, y.shape[-1])), -2


segment_outer.linear_in("x", "y")
segment_outer.autocast("lower")

# ------------------------------------------------------------------------------ their batches


def _in_front(args, dims):
    """Move the mapped axis of each argument to the front."""
    return (x if d is None else x.movedim(d, 0) for x, d in zip(args, dims, strict=True))


def _flat(size: int, x: Tensor, dim: int | None) -> Tensor:
    """(size, n, ...) -> (size * n, ...); what is not mapped over is repeated."""
    return (x.expand(size, *x.shape) if dim is None else x).flatten(0, 1)


def _member_by_member(op, size, dims, args):
    """Give each member rows and segments of its own, one after the other."""
    first, second, offsets, order = args
    rows = first.shape[0 if dims[0] is None else 1]
    first, second = _flat(size, first, dims[0]), _flat(size, second, dims[1])
    offsets, order = _spread(size, offsets, order)
    shift = torch.arange(size).unsqueeze(1) * rows
    starts = (offsets[:, :-1] + shift).flatten()
    joined = torch.cat([starts, starts.new_full((1,), size * rows)]) + _spoiled(offsets, rows)
    order = (order + shift.to(order.device)).flatten()
    out = op(first, second, joined, order)
    return out.unflatten(0, (size, out.shape[0] // size)), 0


def _merged(size: int, offsets: Tensor, order: Tensor, rows: int) -> tuple[Tensor, Tensor]:
    """Let segment r have the rows of segment r of all members, so that they share its matrix."""
    offsets, order = _spread(size, offsets, order)
    if not order.shape[1]:
        order = torch.arange(rows, device=order.device).expand(size, rows)
    place = torch.arange(rows).expand(size, rows).contiguous()
    segment = torch.searchsorted(offsets.contiguous(), place, right=True).flatten()
    shift = torch.arange(size, device=order.device).unsqueeze(1) * rows
    by_segment = torch.argsort(segment, stable=True).to(order.device)
    order = (order + shift).flatten().index_select(0, by_segment)
    return offsets.sum(0) + _spoiled(offsets, rows), order


def _spread(size: int, offsets: Tensor, order: Tensor) -> tuple[Tensor, Tensor]:
    """Give each member its own row of offsets and order."""
    offsets = offsets if offsets.ndim == 2 else offsets.expand(size, -1)
    return offsets, order if order.ndim == 2 else order.expand(size, -1)


def _spoiled(offsets: Tensor, rows: int) -> Tensor:
    """Return 1 if the segments of some member do not cover its rows, else 0.

    Added to the offsets of all, it lets the kernel refuse them: joined, the excess of one member
    and the lack of another would cancel.
    """
    falls = (offsets.diff(dim=1) < 0).any()
    return (falls | (offsets[:, 0] != 0).any() | (offsets[:, -1] != rows).any()).to(offsets.dtype)


# ---------------------------------------------------------------------------- public functions


def segment_mm(a: Tensor, b: Tensor, seglen_a: Tensor) -> Tensor:
    r"""Multiply consecutive rows of `a`, segment by segment, with the matrices of `b`.

    Parameters
    ----------
    a : Tensor, shape (N, D1)
        All segments, one after the other.  float16, bfloat16, float32, float64, complex64 or
        complex128.
    b : Tensor, shape (R, D1, D2)
        One matrix for each segment; of the dtype and on the device of `a`.
    seglen_a : Tensor, shape (R,), integers
        How many rows each segment has; the sum is N.  On the CPU or on the device of `a`.

    Returns
    -------
    Tensor, shape (N, D2)
        ``a[s] @ b[r]`` for the rows s of each segment r, in the order of `a`.

    Raises
    ------
    ValueError
        If an argument is no dense tensor of that shape, dtypes or devices differ, a length is
        negative, or the lengths do not sum to N.

    Notes
    -----
    For a cotangent :math:`G`, with the sum over the rows of segment r,

    .. math:: \bar a_s = G_s b_r^H, \qquad \bar b_r = \sum_s a_s^H G_s,

    to any order, in forward and reverse mode and under ``vmap``, which adds batch axes to any of
    the three arguments.

    Time is O(N D1 D2), memory O(N (D1 + D2) + R D1 D2), whatever the lengths.  Half precision is
    accumulated in float32.  Lengths that `torch.compile` does not know are checked when the
    compiled function runs.

    Multiplying segment by segment, without padding to the longest, is the grouped product of Gale
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
    lengths = seglen_a.long()
    if (known := _known(lengths)) is not None:
        _check_range("seglen_a", known, None)
        _check_sum(_known(lengths.sum()), a.shape[0])
    offsets = torch.cat([lengths.new_zeros(1), lengths.cumsum(0)])
    in_place = torch.empty(0, dtype=torch.int64, device=a.device)
    return segment_product(a, b, offsets.cpu(), in_place)


def gather_mm(a: Tensor, b: Tensor, idx_b: Tensor) -> Tensor:
    r"""Multiply each row of `a` with the matrix of `b` that its index names.

    Parameters
    ----------
    a : Tensor, shape (N, D1)
        float16, bfloat16, float32, float64, complex64 or complex128.
    b : Tensor, shape (R, D1, D2)
        The matrices; of the dtype and on the device of `a`.
    idx_b : Tensor, shape (N,), integers
        The matrix of each row, from 0 to R - 1.  On the CPU or on the device of `a`.

    Returns
    -------
    Tensor, shape (N, D2)
        ``out[i] = a[i] @ b[idx_b[i]]``.

    Raises
    ------
    ValueError
        If an argument is no dense tensor of that shape, dtypes or devices differ, or an index is
        out of range.

    Notes
    -----
    For a cotangent :math:`G`,

    .. math:: \bar a_i = G_i b_{r(i)}^H, \qquad \bar b_r = \sum_{i : r(i) = r} a_i^H G_i,

    to any order, in forward and reverse mode and under ``vmap``, which adds batch axes to any of
    the three arguments.

    Rows are sorted by their index once, multiplied as in `segment_mm`, and put back: neither
    ``b[idx_b]`` nor a gradient for each row is ever formed.  Time is O(N D1 D2 + N log N), memory
    O(N (D1 + D2) + R D1 D2).  Half precision is accumulated in float32.  Indices that
    `torch.compile` does not know are checked when the compiled function runs.

    Sorting rows by their matrix is the permutation of Gale et al., *MegaBlocks: Efficient Sparse
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
    if (known := _known(index)) is not None:
        _check_range("idx_b", known, b.shape[0])
    order = index.new_empty(0)
    if not _in_order(index):
        index, order = torch.sort(index, stable=True)
    # The sum gives each member of a batch its own bounds, or PyTorch warns of their strides.
    bounds = index.new_zeros(b.shape[0] + 1) + torch.arange(b.shape[0] + 1, device=index.device)
    offsets = torch.searchsorted(index.contiguous(), bounds)
    return segment_product(a, b, offsets.cpu(), order.to(a.device))


# -------------------------------------------------------------------------------- their checks


def _check_factors(a: Tensor, b: Tensor) -> None:
    """Check everything of a and b but their numbers."""
    check.dense("a", a)
    check.dense("b", b)
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
    check.devices(a, b, ("a", "b"))
    check.dtypes(a, b, ("a", "b"))


def _check_integers(name: str, x: Tensor, size: int, meaning: str, a: Tensor) -> None:
    """Check everything of indices or lengths but their numbers."""
    check.dense(name, x)
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
