"""The strategy of matrices: places and values, of a kind that promises what it says."""

from __future__ import annotations

from typing import Any, Unpack

import torch
from hypothesis import strategies as st

from tsgu_func.testing.strategies.condition import conditioned
from tsgu_func.testing.strategies.coordinates import Entries, ordered
from tsgu_func.testing.strategies.kinds import BUILT, KINDS, Kind, Making
from tsgu_func.testing.strategies.options import (
    DTYPES,
    batches,
    bounds,
    choice,
    condition_bounds,
    one_of_names,
)
from tsgu_func.testing.strategies.places import ENTRIES, SIZES, Places, Where, patterns
from tsgu_func.testing.strategies.values import SEEDS, VALUES, numbers_of

__all__ = ["entries"]

# Shares of the logarithm of a range of condition numbers.
_SHARES = st.integers(0, 8).map(lambda k: k / 8)
# Which side of a matrix is the shorter one.
_SHORTER = {"tall": "cols"}


def entries(
    kind: str | st.SearchStrategy[str] = "general",
    *,
    batch: tuple[int, ...] | st.SearchStrategy[tuple[int, ...]] = (),
    dtype: torch.dtype | st.SearchStrategy[torch.dtype] = DTYPES,
    magnitudes: float | st.SearchStrategy[float] = 1.0,
    values: str | st.SearchStrategy[str] = "random",
    condition: tuple[float, float] | None = None,
    **where: Unpack[Where],
) -> st.SearchStrategy[Entries]:
    """Draw the entries of a matrix: first the pattern, then a seed for the values.

    A failing example shrinks to few entries, whose values are ones.

    Parameters
    ----------
    kind : str, or a strategy of them
        ``"general"`` is any entries at any places, so the matrix may be singular.  The following
        kinds have a condition number of at most 5, up to rounding, unless `condition` is given:

        - ``"dominant"``: square, diagonally dominant by rows and by columns;
        - ``"definite"``: Hermitian, to the last bit if duplicates are added up in order, and
          positive definite;
        - ``"indefinite"``: Hermitian likewise, with eigenvalues of both signs (from two rows on);
        - ``"skew"``: the negative of its adjoint, of even size;
        - ``"lower"``, ``"upper"``: triangular;
        - ``"strictly lower"``, ``"strictly upper"``: triangular without a diagonal; the bound is
          that of ``I + A``;
        - ``"arrow"``: as ``"dominant"``, with a full row, a full column, or both;
        - ``"tall"``, ``"wide"``: of full rank, with at least (at most) as many rows as columns.

        The remaining kinds are hard:

        - ``"laplacian"``: the Laplacian of a graph with positive weights, connected or not.  It is
          symmetric and singular, and its rows sum to zero.  With a `condition` it is shifted;
        - ``"graded"``: ``"dominant"``, with rows, columns or both multiplied with powers of two
          that are up to 2⁴⁰ apart;
        - ``"penalty"``: ``"definite"``, with one to three rows, or entries of the diagonal, times
          1e6 to 1e12.  `right_hand_sides` draws what goes with them;
        - ``"dependent"``: ``"dominant"``, but one row is a copy of another row, to which 2⁻²⁰, 2⁻³⁴
          or 2⁻⁵⁰ of what it was is added, or nothing.
    batch : tuple of int, or a strategy of them
        The shape of a batch of matrices that share the pattern.
    dtype : torch.dtype, or a strategy of them
        Default: float64 and complex128.
    magnitudes : float, or a strategy of them
        A factor for all values.  The default is 1, because finite differences and absolute
        tolerances are made for numbers of this size.  `magnitudes` draws huge and tiny factors, and
        `scales` powers of two.
    values : str, or a strategy of them
        ``"random"``, or ``"special"``, which is 0, 1, -1 and powers of two: they cancel each other,
        and tie.
    condition : (float, float), optional
        The smallest and the largest condition number in the 2-norm, with 1 <= smallest <= largest
        and 5 <= largest <= 1e14.  It is for the kinds of the first list, apart from the strictly
        triangular ones, and for ``"laplacian"``.

        A large condition number is reached by scaling rows and columns, which can be undone, and by
        rows, columns and pivots that nearly depend on each other, which cannot.  A matrix stays
        triangular, Hermitian or definite, but not dominant.  If the smallest condition number
        exceeds 1, there are at least two rows and columns (four if ``"skew"``).  If not, there may
        be fewer, and the condition number of such a matrix is 1.
    **where
        Options of `patterns`, apart from `form` and `triangle`, which follow from the kind.  The
        bounds of `nnz` and `density` count the entries that are drawn beside the diagonal, their
        mirror images, and the full rows of an arrow.

    Returns
    -------
    SearchStrategy of Entries

    Raises
    ------
    TypeError
        If a bound is neither a number nor a pair.
    ValueError
        If there is no such kind, or if bounds contradict each other or the kind.

    Examples
    --------
    >>> import torch
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import entries
    >>> e = find(entries("definite"), lambda e: bool((e.dense() != 0).all()) and e.shape[0] == 2)
    >>> e.dense()
    tensor([[1.0000, 0.5000],
            [0.5000, 1.0000]], dtype=torch.float64)

    The Laplacian of a graph with one edge, which is singular, and a matrix that is close to it:

    >>> find(entries("laplacian"), lambda e: bool(e.values.any())).dense()
    tensor([[ 1., -1.],
            [-1.,  1.]], dtype=torch.float64)
    >>> e = find(entries("laplacian", condition=(1e9, 1e12)), lambda e: True)
    >>> 1e9 <= float(torch.linalg.cond(e.dense())) < 1.01e9
    True
    """
    one_of_names("kind", kind, KINDS)
    one_of_names("values", values, VALUES)
    range_of_condition = None if condition is None else condition_bounds(condition)
    if isinstance(kind, str):  # what is wrong is refused here, and not when a test runs
        _places(kind, range_of_condition, where)
    options = choice(kind), batches(batch), choice(dtype), choice(magnitudes), choice(values)
    return _entries(*options, range_of_condition, where)


@st.composite
def _entries(
    draw: st.DrawFn,
    kinds: st.SearchStrategy[str],
    batch_sizes: st.SearchStrategy[tuple[int, ...]],
    dtypes: st.SearchStrategy[torch.dtype],
    factors: st.SearchStrategy[float],
    values: st.SearchStrategy[str],
    condition: tuple[float, float] | None,
    where: Where,
) -> Entries:
    name = draw(kinds)
    one_of_names("kind", name, KINDS)
    kind = BUILT[name]
    places = draw(_places(name, condition, where))
    batch, dtype, seed = draw(batch_sizes), draw(dtypes), draw(SEEDS)
    numbers = numbers_of(draw(values))
    drawn = numbers((*batch, places.row.shape[0]), dtype, seed)
    e = Entries(places.row, places.col, drawn, places.shape)
    if kind is not None:
        variant = draw(st.integers(0, kind.variants - 1))
        making = Making(numbers, seed, where.get("unique", False), variant)
        e = kind.build(e, making)
        if condition is not None:
            way, share = draw(st.sampled_from(kind.ways)), draw(_SHARES)
            e = conditioned(e, kind, way, making, condition, share)
        e = ordered(e) if where.get("ordered", False) else e
    return e._replace(values=e.values * draw(factors))


def triangle_of(name: str, given: str | None) -> str | None:
    """Return the triangle that all entries of a kind are in, or None if they may be anywhere.

    A general matrix has the one that was given.
    """
    kind = BUILT[name]
    return given if kind is None else kind.triangle


def is_square(name: str, form: str | None) -> bool:
    """Say whether all matrices of a kind are square, or general ones of a form."""
    kind = BUILT[name]
    return (form if kind is None else kind.form) in ("square", "even")


def _places(
    name: str, condition: tuple[float, float] | None, where: Where
) -> st.SearchStrategy[Places]:
    kind = BUILT[name]
    if condition is not None and (kind is None or not kind.ways):
        raise ValueError(f"the kind {name!r} does not reach a condition number: leave it out")
    if kind is None:
        return patterns(**where)
    for option in ("form", "triangle"):
        if option in where:
            raise ValueError(f"the kind {name!r} decides on {option}: leave it out")
    decided: Where = {**where, "form": kind.form, "triangle": kind.drawn}
    if condition is not None and condition[0] > 1:
        decided = _with_room_for(kind, decided)
    return patterns(**decided)


def _with_room_for(kind: Kind, where: Where) -> Where:
    """Leave out sizes with a condition number of one, and graphs without an edge."""
    changed: dict[str, Any] = dict(where)
    side = _SHORTER.get(kind.form, "rows")
    least, most = bounds(side, changed.get(side, SIZES))
    if most < kind.smallest:
        raise ValueError(
            f"the condition number of less than {kind.smallest} {side} is 1: allow more {side}, or "
            f"let the range begin at 1"
        )
    changed[side] = max(least, kind.smallest), most
    if "shift" in kind.ways and "density" not in changed:
        least, most = bounds("nnz", changed.get("nnz", ENTRIES))
        changed["nnz"] = max(least, 1), max(most, 1)
    return Where(**changed)
