"""Options that the strategies share: sizes, choices, and the checks of both."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from hypothesis import strategies as st

__all__ = [
    "DTYPES",
    "INDEX_DTYPES",
    "Bounds",
    "batches",
    "bounds",
    "choice",
    "condition_bounds",
    "one_of_names",
]

Bounds = int | tuple[int, int]
T = TypeVar("T")

# Double precision: what finite differences and a dense composite can judge to many digits.
DTYPES = st.sampled_from([torch.float64, torch.complex128])
INDEX_DTYPES = st.sampled_from([torch.int64, torch.int32])


def bounds(name: str, given: Any) -> tuple[int, int]:
    """Return the least and the most of a size, which is a number or a pair.

    Parameters
    ----------
    name : str
        What to call the option in a message.
    given : int or (int, int)

    Raises
    ------
    TypeError
        If it is neither a number nor a pair of numbers.
    ValueError
        If it is negative, or the first number exceeds the second.

    Examples
    --------
    >>> from tsgu_func.testing.strategies.options import bounds
    >>> bounds("rows", 3), bounds("rows", (0, 6))
    ((3, 3), (0, 6))
    """
    pair = (given, given) if isinstance(given, int) else given
    if (
        not isinstance(pair, tuple)
        or len(pair) != 2
        or not all(isinstance(x, int) and not isinstance(x, bool) for x in pair)
    ):
        raise TypeError(f"{name} is a number, or a pair (least, most) of them; got {given!r}")
    least, most = pair
    if not 0 <= least <= most:
        raise ValueError(f"{name} is (least, most) with 0 <= least <= most; got {given!r}")
    return least, most


def condition_bounds(given: Any) -> tuple[float, float]:
    """Return the least and the most of condition numbers.

    Parameters
    ----------
    given : (float, float)

    Raises
    ------
    TypeError
        If it is no pair of numbers.
    ValueError
        If they are not in order, below 1, or out of reach: what was drawn for a matrix may have a
        condition number of 5 already, and one above 1e14 is not told from that of a singular one.

    Examples
    --------
    >>> from tsgu_func.testing.strategies.options import condition_bounds
    >>> condition_bounds((1, 1e12))
    (1.0, 1000000000000.0)
    """
    if (
        not isinstance(given, tuple)
        or len(given) != 2
        or not all(isinstance(x, (int, float)) and not isinstance(x, bool) for x in given)
    ):
        raise TypeError(f"condition is a pair (least, most) of numbers; got {given!r}")
    least, most = given
    if not 1 <= least <= most or not 5 <= most <= 1e14:
        raise ValueError(
            f"condition is (least, most) with 1 <= least <= most and 5 <= most <= 1e14; got "
            f"{given!r}"
        )
    return float(least), float(most)


def choice(given: T | st.SearchStrategy[T]) -> st.SearchStrategy[T]:
    """Return a strategy: the one given, or the one that always draws what was given.

    Parameters
    ----------
    given : object or SearchStrategy

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.strategies.options import choice
    >>> choice(torch.int32)
    just(torch.int32)
    """
    return given if isinstance(given, st.SearchStrategy) else st.just(given)


def batches(given: Any) -> st.SearchStrategy[tuple[int, ...]]:
    """Return a strategy of batches: the one given, or the one that always draws what was given.

    Parameters
    ----------
    given : tuple of int, or SearchStrategy of them

    Raises
    ------
    TypeError
        If it is neither.

    Examples
    --------
    >>> from tsgu_func.testing.strategies.options import batches
    >>> batches((2,))
    just((2,))
    """
    tuples = isinstance(given, tuple) and all(isinstance(size, int) for size in given)
    if not tuples and not isinstance(given, st.SearchStrategy):
        raise TypeError(f"batch is a tuple of sizes, as in batch=(3,); got {given!r}")
    return choice(given)


def one_of_names(name: str, given: Any, names: Sequence[str | None]) -> None:
    """Check that what was given, unless it is a strategy, is one of some names.

    Parameters
    ----------
    name : str
        What to call the option in a message.
    given : object or SearchStrategy
        A strategy is checked when it draws.
    names : sequence of str or None

    Raises
    ------
    ValueError
        If it is none of them.

    Examples
    --------
    >>> from tsgu_func.testing.strategies.options import one_of_names
    >>> one_of_names("layout", "dense", ("coo", "csr"))
    Traceback (most recent call last):
    ...
    ValueError: layout is one of 'coo', 'csr'; got 'dense'
    """
    if not isinstance(given, st.SearchStrategy) and given not in names:
        raise ValueError(f"{name} is one of {', '.join(map(repr, names))}; got {given!r}")
