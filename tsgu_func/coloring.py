"""Colourings of a sparsity pattern: which few products tell all entries of a sparse derivative."""

from __future__ import annotations

import hashlib
import operator
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from tsgu_func.kernels import coloring as kernels
from tsgu_func.kernels.coloring import MODES, ORDERS, Incidence
from tsgu_func.matrix import pictures
from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.assembly import as_index
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.registration.transforms import (
    constant_when_traced,
    mark_static,
    outside_transforms,
    unwrapped,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes

__all__ = ["Coloring", "color"]

_FEW = 4  # times the elements of the index, that seeds may have to be kept


def color(
    pattern: SparsityPattern, mode: str = "auto", *, order: str = "best", seed: int = 0
) -> Coloring:
    """Colour a sparsity pattern, so that one product for each colour is enough to read all entries.

    A seed is the sum of the unit vectors of one colour.  So the product ``J @ seed``, a jvp, is the
    sum of all columns of that colour, and ``seed @ J``, a vjp, the sum of all rows.  An entry can
    be read from such a sum if nothing was added to it: if no other entry in its row has a column of
    the same colour, or no other entry in its column a row of the same colour.

    Parameters
    ----------
    pattern : SparsityPattern, shape (n, m)
        Which entries of the derivative may differ from zero.  For a Jacobian there are
        ``f(x).numel()`` rows and ``x.numel()`` columns.
    mode : {"auto", "forward", "reverse", "bidirectional", "symmetric"}
        What gets a colour:

        - "forward": columns, so that no row has two entries in columns of the same colour (a
          partial distance-2 colouring);
        - "reverse": rows, so that no column has two entries in rows of the same colour;
        - "bidirectional": some columns and some rows, so that each entry can be read one way or
          the other.  It is for patterns with dense rows and dense columns: a star colouring of
          ``[0 Jᵀ; J 0]``;
        - "symmetric": columns of a symmetric pattern, as that of a Hessian, so that each entry or
          its mirror image can be read: a star colouring;
        - "auto": the cheapest of the first three, where a vjp counts as two jvps, and the first of
          those that cost the same.  A mode that cannot be cheaper is not tried.  A pattern does not
          know whether its function has a forward mode: for one without, pass "reverse".
    order : {"best", "natural", "largest_first", "smallest_last", "random"}
        The order in which columns and rows are coloured, each with the first colour that is
        permitted.  "best" tries all orders but the random one, and a few more ways, where they may
        help: it colours again class by class, breaks ties another way, sets dense rows or columns
        apart, and colours a symmetric pattern as if it were not symmetric.  It keeps what needs the
        fewest colours.
    seed : int, default 0
        The seed of the random order.

    Returns
    -------
    Coloring
        It is the same for the same arguments, on every machine.

    Raises
    ------
    TypeError
        If `pattern` is not a pattern, or `seed` not an integer.
    ValueError
        If `mode` or `order` is not one of these, if the pattern is on the meta device, if it is not
        symmetric and the mode is "symmetric", or if `seed` is negative.
    RuntimeError
        Inside of a compiled function.  Make the colouring outside.

    Notes
    -----
    Memory is O(nnz).  Each order takes O(nnz d) time, where d is the mean length of the row of an
    entry; rows and columns that are dense cost no more than others.  It is done on the host.  A row
    or column gets no colour, -1, if it is empty, or if all its entries are read from other
    products.

    Sources: Gebremedhin, Manne, Pothen, *What Color Is Your Jacobian? Graph Coloring for Computing
    Derivatives*, SIAM Review 47, 2005; Gebremedhin, Tarafdar, Manne, Pothen, *New Acyclic and Star
    Coloring Algorithms with Application to Computing Hessians*, SIAM J. Sci. Comput. 29, 2007;
    Coleman, Verma, *The Efficient Computation of Sparse Jacobian Matrices Using Automatic
    Differentiation*, SIAM J. Sci. Comput. 19, 1998.

    Examples
    --------
    A tridiagonal matrix takes three products, however large it is:

    >>> import torch
    >>> from tsgu_func import SparseMatrix, color
    >>> A = SparseMatrix.diag(torch.ones(6)) + SparseMatrix.diag(torch.ones(5), 1)
    >>> tridiagonal = (A + A.T).pattern
    >>> coloring = color(tridiagonal)
    >>> coloring
    Coloring(forward, 3 colors for 6 columns)
    >>> coloring.forward_seeds()
    tensor([[1., 0., 0., 1., 0., 0.],
            [0., 1., 0., 0., 1., 0.],
            [0., 0., 1., 0., 0., 1.]])

    A dense row and a dense column take one product each, and the diagonal one:

    >>> arrow = torch.eye(100)
    >>> arrow[0, :] = arrow[:, 0] = 1.0
    >>> color(SparseMatrix.from_dense(arrow).pattern)
    Coloring(bidirectional, 2 colors for 100 columns, 1 color for 100 rows)
    """
    _check_arguments(pattern, mode, order)
    try:
        seed = operator.index(seed)
    except TypeError:
        raise TypeError(f"seed is an integer; got {describe(seed)}") from None
    if seed < 0:
        raise ValueError(f"seed is not negative; got {seed}")
    with outside_transforms():
        A = _incidence(pattern)
        if mode == "symmetric":
            _check_symmetric(pattern, A)
            return Coloring(pattern, mode, kernels.symmetric(A, order, seed))
        if mode == "auto":
            mode, (column, row) = kernels.cheapest(A, order, seed)
        elif mode == "bidirectional":
            column, row = kernels.bidirectional(A, order, seed)
        else:
            column, row = kernels.one_way(A, mode, order, seed)
        given = {"forward": (column,), "reverse": (None, row), "bidirectional": (column, row)}
        return Coloring(pattern, mode, *given[mode])


class Coloring:
    """Which columns, and which rows, of a sparse derivative are summed by one product each.

    `color` makes colourings.  You can also make one from colours of your own, which are checked.  A
    colouring is immutable, can be compared, hashed and pickled, and can be used under every
    transform, and inside of a compiled function that is closed over it.

    Parameters
    ----------
    pattern : SparsityPattern, shape (n, m)
    mode : {"forward", "reverse", "bidirectional", "symmetric"}
    column_color : Tensor or sequence of int, shape (m,), optional
        Colour of each column, from 0 without gaps; -1: none.  For all modes but "reverse".
    row_color : Tensor or sequence of int, shape (n,), optional
        The same for rows, for "reverse" and "bidirectional".

    Raises
    ------
    ValueError
        If some entry cannot be read; the message names it, and the entry that is added to it.  If
        colours are missing that the mode takes, or given that it does not take, or if they are not
        numbered from 0 without gaps.
    TypeError
        If an argument has the wrong type.

    Notes
    -----
    With S = `forward_seeds` (colours, m) and R = `reverse_seeds` (colours, n), the products are
    ``F = S @ J.T``, a jvp a row, and ``G = R @ J``, a vjp a row; then
    ``torch.cat([F.flatten(), G.flatten()])[index]`` are the values, in the order of the pattern's.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import Coloring, SparseMatrix, color
    >>> J = SparseMatrix.from_dense(torch.tensor([[1.0, 2.0, 0.0], [0.0, 3.0, 4.0]]))
    >>> coloring = color(J.pattern)
    >>> coloring.column_color
    tensor([0, 1, 0])
    >>> products = coloring.forward_seeds() @ J.T.to_dense()
    >>> products.flatten()[coloring.index]
    tensor([1., 2., 3., 4.])
    >>> Coloring(J.pattern, "forward", [0, 0, 1])
    Traceback (most recent call last):
        ...
    ValueError: no product tells the entry (0, 0): column 1, which row 0 stores too, ...
    """

    def __init__(
        self,
        pattern: SparsityPattern,
        mode: str,
        column_color: Any = None,
        row_color: Any = None,
    ) -> None:
        _check_arguments(pattern, mode, "best", MODES)
        with outside_transforms():
            A, (n, m) = _incidence(pattern), pattern.shape
            if mode == "symmetric":
                _check_symmetric(pattern, A)
            column = _checked("column_color", column_color, m, mode, mode != "reverse")
            row = _checked("row_color", row_color, n, mode, mode in ("reverse", "bidirectional"))
            given = (A, column.numpy(), row.numpy())
            index, readable = (
                kernels.reading_of_symmetric(*given[:2])
                if mode == "symmetric"
                else kernels.reading(*given)
            )
            if not readable.all():
                raise ValueError(kernels.unreadable(*given, mode, int(readable.argmin())))
            self._pattern, self._mode = pattern, mode
            self._forward_colors, self._reverse_colors = map(_count, (column, row))
            said = hashlib.blake2b(digest_size=16)
            for part in given[1:]:
                said.update(part.data)
            self._digest = said.digest()
            self._column, self._row, self._index = (
                x.to(pattern.device) for x in (column, row, torch.from_numpy(index))
            )
            for x in (self._column, self._row, self._index):
                mark_static(x)

    # ------------------------------------------------------------------------------ attributes

    @property
    def pattern(self) -> SparsityPattern:
        """What is coloured."""
        return self._pattern

    @property
    def mode(self) -> str:
        """Which products are taken: "forward", "reverse", "bidirectional" or "symmetric"."""
        return self._mode

    @property
    def forward_colors(self) -> int:
        """Number of products J v; of a symmetric matrix, of all products."""
        return self._forward_colors

    @property
    def reverse_colors(self) -> int:
        """Number of products v J."""
        return self._reverse_colors

    @property
    def colors(self) -> int:
        """Number of all products."""
        return self._forward_colors + self._reverse_colors

    @property
    def column_color(self) -> Tensor | None:
        """Colour of each column (m,), on the CPU: a copy.  None where only rows are coloured."""
        return None if self._mode == "reverse" else self._column.to("cpu", copy=True)

    @property
    def row_color(self) -> Tensor | None:
        """Colour of each row (n,), on the CPU: a copy.  None where only columns are coloured."""
        has_rows = self._mode in ("reverse", "bidirectional")
        return self._row.to("cpu", copy=True) if has_rows else None

    @property
    def index(self) -> Tensor:
        """Where each value lies in the products, int64 (nnz,), on the pattern's device: a copy.

        That is, in the forward ones (colours, n), flattened, followed by the reverse ones
        (colours, m).
        """
        return self._index.clone()

    def places(self) -> Tensor:
        """Return `index` itself, which is not to be written to."""
        return self._index

    @property
    def nbytes(self) -> int:
        """Size of the colours, of the index and of seeds that are kept, without the pattern."""
        return sum(x.nbytes for x in vars(self).values() if isinstance(x, Tensor))

    def seeds(self, directions: str, dtype: torch.dtype) -> Tensor:
        """Return the ``"forward"`` or ``"reverse"`` seeds, for a function that may write to them.

        They are copied from some that are kept, where these take no more than a few times the
        memory of the index.  Of such a copy a compiled evaluation makes nothing, and reads seeds
        that it would compute as often as they are used (``bench jacobian``).
        """
        color, colors = (
            (self._column, self._forward_colors)
            if directions == "forward"
            else (self._row, self._reverse_colors)
        )
        if colors * len(color) > _FEW * len(self._index):
            return _seeds(color, colors, dtype, None)
        return getattr(self, _kept_seeds(self, directions, dtype)).clone()

    def forward_seeds(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Return the directions of the products J v, (colours, m): 1 for columns of the colour.

        Parameters
        ----------
        dtype : torch.dtype, optional
            Default: the default dtype.
        device : torch.device, optional
            Default: that of the pattern.
        """
        return _seeds(self._column, self._forward_colors, dtype, device)

    def reverse_seeds(
        self, dtype: torch.dtype | None = None, device: torch.device | str | None = None
    ) -> Tensor:
        """Return the directions of the products v J, (colours, n): 1 for rows of the colour."""
        return _seeds(self._row, self._reverse_colors, dtype, device)

    # ------------------------------------------------------------------------------ comparison

    @property
    def _content(self) -> tuple[SparsityPattern, str, bytes]:
        return self._pattern, self._mode, self._digest

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Coloring):
            return NotImplemented
        return self._content == other._content

    def __hash__(self) -> int:
        return hash(self._content)

    def __repr__(self) -> str:
        n, m = self._pattern.shape
        parts = []
        if self._mode != "reverse":
            parts.append(f"{_counted(self._forward_colors, 'color')} for {_counted(m, 'column')}")
        if self._mode in ("reverse", "bidirectional"):
            parts.append(f"{_counted(self._reverse_colors, 'color')} for {_counted(n, 'row')}")
        return f"Coloring({self._mode}, {', '.join(parts)})"

    # -------------------------------------------------------------------------------- pictures

    def _repr_html_(self) -> str:
        facts = {
            "mode": self._mode,
            "colors of columns": self._forward_colors,
            "colors of rows": self._reverse_colors,
            "shape": " × ".join(map(str, self._pattern.shape)),
            "stored entries": self._pattern.nnz,
            "pattern": self._pattern.structure.label,
        }
        return pictures.card("Coloring", pictures.thumbnail(self._pattern, self._paints()), facts)

    def spy(self, ax: Axes | None = None, **options: Any) -> Axes:
        """Draw the pattern, with each entry in the colour of the product that tells it.

        With matplotlib (``pip install "tsgu_func[demo]"``).  Products in both directions are told
        apart: forward ones are cold, from green to violet, reverse ones warm, from red to yellow.
        A cell is an entry, or for a pattern with more than 256 rows or columns a rectangle of them,
        in the colour of its first entry.  O(nnz) time.

        Parameters
        ----------
        ax : Axes, optional
            Where to draw.  Default: the current ones of ``matplotlib.pyplot``.
        **options
            For ``Axes.imshow``.

        Returns
        -------
        Axes
        """
        return pictures.spy_painted(self._pattern, self._paints(), ax, options)

    def _paints(self) -> pictures.Paints:
        (n, m), index = self._pattern.shape, self._index.cpu().numpy()
        ahead = self._forward_colors * n
        number = index // max(n, 1)
        back = index >= ahead
        number[back] = self._forward_colors + (index[back] - ahead) // max(m, 1)
        return pictures.painted(number, self._forward_colors, self._reverse_colors)

    # --------------------------------------------------------------------------------- copies

    def to(self, device: torch.device | str) -> Coloring:
        """Return the same colours for the pattern on a device; itself where it is there already."""
        pattern = self._pattern.to(device)
        if pattern is self._pattern:
            return self
        return Coloring(pattern, self._mode, self.column_color, self.row_color)

    def __copy__(self) -> Coloring:
        return self

    def __deepcopy__(self, memo: dict[int, Any]) -> Coloring:
        return self  # immutable

    def __reduce__(self) -> tuple[Any, ...]:
        return Coloring, (self._pattern, self._mode, self.column_color, self.row_color)


torch.serialization.add_safe_globals([Coloring])


def _incidence(pattern: SparsityPattern) -> Incidence:
    there = pattern.to("cpu")
    return Incidence.of(there.structure, there.transposed)


def _seeds(
    color: Tensor, colors: int, dtype: torch.dtype | None, device: torch.device | str | None
) -> Tensor:
    color = color if device is None else color.to(device)
    number = torch.arange(colors, device=color.device)
    return (number[:, None] == color).to(dtype or torch.get_default_dtype())


@constant_when_traced
def _kept_seeds(coloring: Coloring, directions: str, dtype: torch.dtype) -> str:
    """Return which attribute has the seeds, by which a graph finds them as well."""
    name = f"_{directions}_{str(dtype).removeprefix('torch.')}"
    if not hasattr(coloring, name):
        with outside_transforms():
            seeds: Tensor = getattr(coloring, f"{directions}_seeds")(dtype)
        mark_static(seeds)
        setattr(coloring, name, seeds)
    return name


def _count(color: Tensor) -> int:
    return int(color.max()) + 1 if color.numel() else 0


def _counted(number: int, what: str) -> str:
    return f"{number} {what}" if number == 1 else f"{number} {what}s"


# ------------------------------------------------------------------------------------- checks


def _check_arguments(
    pattern: Any, mode: str, order: str, modes: tuple[str, ...] = ("auto", *MODES)
) -> None:
    if torch.compiler.is_compiling():
        raise RuntimeError(
            "a colouring cannot be made inside of a compiled function: make it outside, with "
            "color(pattern), and close over it"
        )
    if not isinstance(pattern, SparsityPattern):
        hint = "; that of a SparseMatrix A is A.pattern" if hasattr(pattern, "pattern") else ""
        raise TypeError(f"pattern is a SparsityPattern; got {type(pattern).__name__}{hint}")
    for name, given, known in (("mode", mode, modes), ("order", order, ("best", *ORDERS))):
        if given not in known:
            raise ValueError(f"{name} is one of {', '.join(map(repr, known))}; got {given!r}")
    if pattern.device.type == "meta":
        raise ValueError(
            "a pattern on the meta device keeps no numbers, so it cannot be colored: color it "
            "where it was made"
        )


def _check_symmetric(pattern: SparsityPattern, A: Incidence) -> None:
    """Check that the pattern is that of its transpose; name an entry that stands alone."""
    n, m = pattern.shape
    if n != m:
        raise ValueError(f'mode "symmetric" takes a square pattern; got shape {(n, m)}')
    if A.is_symmetric:
        return
    row, col = (torch.from_numpy(index).long() for index in A.places())
    alone = ~torch.isin(row * n + col, col * n + row)
    k = int(alone.nonzero()[0])
    raise ValueError(
        f'mode "symmetric" takes the pattern of a symmetric matrix; this one stores '
        f"({int(row[k])}, {int(col[k])}), but not ({int(col[k])}, {int(row[k])})"
    )


def _checked(name: str, color: Any, size: int, mode: str, taken: bool) -> Tensor:
    """Return colours as a tensor on the CPU, -1 where the mode takes none."""
    if not taken:
        if color is not None:
            raise ValueError(f"mode {mode!r} takes no {name}")
        return torch.full((size,), -1, dtype=torch.long, device="cpu")
    if color is None:
        raise ValueError(f"mode {mode!r} takes a {name} of {size} entries; got none")
    color = as_index(name, color)
    if color.is_floating_point() or color.is_complex() or color.dtype == torch.bool:
        raise TypeError(f"{name} holds integers; got {color.dtype}")
    if tuple(color.shape) != (size,):
        raise ValueError(f"{name} has {size} entries; got shape {tuple(color.shape)}")
    color = unwrapped(color).detach().to("cpu", torch.long, copy=True)
    used = color.unique()
    if used.numel() and (int(used[0]) < -1 or int(used[-1]) != int((used >= 0).sum()) - 1):
        raise ValueError(
            f"{name} numbers colors from 0 without gaps, with -1 for none; got "
            f"{used[:8].tolist()}{'...' if len(used) > 8 else ''}"
        )
    return color
