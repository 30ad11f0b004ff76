"""Which matrix of a bank each row has: by lengths of segments, and by index."""

from __future__ import annotations

from itertools import pairwise

import torch
from hypothesis import strategies as st
from torch import Tensor

from tsgu_func.testing.strategies.options import INDEX_DTYPES, Bounds, bounds, choice

__all__ = ["index_vectors", "segments"]

_NUMBER = (0, 14)
_LONGEST = 9


def segments(
    number: Bounds = _NUMBER,
    *,
    longest: int | None = None,
    total: int | None = None,
    index_dtype: torch.dtype | st.SearchStrategy[torch.dtype] = INDEX_DTYPES,
) -> st.SearchStrategy[Tensor]:
    """Draw the lengths of segments.  Many of them are zero.

    Parameters
    ----------
    number : int or (int, int)
        The smallest and the largest number of segments.
    longest : int, optional
        The largest number of rows in a segment.  Default: 9.
    total : int, optional
        Instead of `longest`: the sum of all lengths.
    index_dtype : torch.dtype, or a strategy of them
        Default: int64 and int32.

    Returns
    -------
    SearchStrategy of Tensor, shape (segments,), integer

    Raises
    ------
    TypeError
        If `number` is neither a number nor a pair.
    ValueError
        If a number is negative, if both `longest` and `total` are given, or if there is a total but
        no segment.

    Examples
    --------
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import segments
    >>> find(segments(index_dtype=torch.int64), lambda lengths: int(lengths.sum()) >= 4)
    tensor([4])
    >>> find(segments(3, total=5, index_dtype=torch.int64), lambda lengths: True)
    tensor([0, 0, 5])
    """
    least, most = bounds("number", number)
    if total is None:
        longest = bounds("longest", _LONGEST if longest is None else longest)[0]
        length = st.one_of(st.just(0), st.integers(0, longest))
        lengths = st.lists(length, min_size=least, max_size=most)
        return _tensors(lengths, index_dtype)
    if longest is not None:
        raise ValueError("longest and total both say how many rows there are: give one")
    bounds("total", total)
    least = max(least, min(total, 1))
    if least > most:
        raise ValueError(f"{total} rows need a segment; got number={number!r}: allow more")
    return _tensors(_divisions(total, least, most), index_dtype)


@st.composite
def _divisions(draw: st.DrawFn, total: int, least: int, most: int) -> list[int]:
    number = draw(st.integers(least, most))
    cut = st.integers(0, total)
    cuts = sorted(draw(st.lists(cut, min_size=max(number - 1, 0), max_size=max(number - 1, 0))))
    edges = [0, *cuts, total] if number else []
    return [stop - start for start, stop in pairwise(edges)]


def index_vectors(
    length: Bounds = (0, 12),
    bound: int = 6,
    *,
    ordered: bool = False,
    index_dtype: torch.dtype | st.SearchStrategy[torch.dtype] = INDEX_DTYPES,
) -> st.SearchStrategy[Tensor]:
    """Draw indices: in any order, sorted, or all the same, with repetitions and with gaps.

    Parameters
    ----------
    length : int or (int, int)
        The smallest and the largest number of indices.
    bound : int
        The indices are from 0 to ``bound - 1``.
    ordered : bool
        Whether they are always sorted.
    index_dtype : torch.dtype, or a strategy of them
        Default: int64 and int32.

    Returns
    -------
    SearchStrategy of Tensor, shape (length,), integer

    Raises
    ------
    TypeError
        If `length` is neither a number nor a pair.
    ValueError
        If a number is negative, or if indices are asked for although `bound` is 0.

    Examples
    --------
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import index_vectors
    >>> find(index_vectors(index_dtype=torch.int64), lambda idx: bool((idx.diff() < 0).any()))
    tensor([1, 0])
    """
    least, most = bounds("length", length)
    bounds("bound", bound)
    if bound == 0 and least:
        raise ValueError(f"with bound=0 there are no indices to draw; got length={length!r}")
    return _tensors(_indices(least, most if bound else 0, bound, ordered), index_dtype)


@st.composite
def _indices(draw: st.DrawFn, least: int, most: int, bound: int, ordered: bool) -> list[int]:
    if not most:
        return []
    index = draw(st.lists(st.integers(0, bound - 1), min_size=least, max_size=most))
    order = draw(st.sampled_from(["sorted"] if ordered else ["any", "sorted", "constant"]))
    if order == "constant":
        return index[:1] * len(index)
    return sorted(index) if order == "sorted" else index


def _tensors(
    lists: st.SearchStrategy[list[int]],
    dtype: torch.dtype | st.SearchStrategy[torch.dtype],
) -> st.SearchStrategy[Tensor]:
    return st.builds(
        lambda numbers, dtype: torch.tensor(numbers, dtype=dtype), lists, choice(dtype)
    )
