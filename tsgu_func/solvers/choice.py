"""Which solver suits a matrix: what is looked at, what the candidates would cost, and the choice.

Costs are counted in one unit, an entry of a matrix that a product or a sweep goes over.  They are
estimates, good to a factor of two or three, and the constants among them were fitted once to a few
model problems; what differs from machine to machine is `dense_speed`.  docs/solvers.md has the
measurements.

    cost = prepare + columns * solve
"""

from __future__ import annotations

import importlib.util
import math
from dataclasses import dataclass
from functools import cache
from typing import Any

import torch

from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.solvers.cache import Parts, prepared
from tsgu_func.solvers.direct.dense import DenseLU
from tsgu_func.solvers.direct.pardiso import Pardiso
from tsgu_func.solvers.direct.substitution import Substitution
from tsgu_func.solvers.direct.superlu import SuperLU
from tsgu_func.solvers.judgement import small
from tsgu_func.solvers.krylov.bicgstab import BiCGStab
from tsgu_func.solvers.krylov.cg import CG
from tsgu_func.solvers.krylov.iccg import ICCG
from tsgu_func.solvers.machine import dense_speed
from tsgu_func.solvers.preconditioners import AMG, DIC, IC0, ILU0, Jacobi
from tsgu_func.solvers.preconditioners.incomplete_cholesky import levels_of
from tsgu_func.solvers.protocol import Solver
from tsgu_func.solvers.traits import Traits, dense_rows, traits_of, triangular, width

__all__ = ["TINY", "Cost", "Inspection", "Plan", "choose", "inspect", "installed", "plan"]

# Up to here dense wins, whatever is stored.
TINY = 64
# Up to here SuperLU's factorization wins, whatever the entries.
_SMALL = 2000
# A factorization that costs more than this is tried only after an iterative solver.
_LONG = 2e10
# An iterative solver that another may replace is not waited for without end.
_PATIENCE = 1000


@dataclass(frozen=True)
class Inspection:
    """What was seen of a matrix; None where it was not looked at, because nothing depends on it.

    Attributes
    ----------
    rows, entries : int
    dtype, device : str
    triangular : bool, optional
        Whether nothing is stored on one side of the diagonal.
    traits : Traits, optional
        Symmetry, diagonal and signs.
    width : int, optional
        Size of the largest set of rows at one distance from an end of the graph.
    dense_rows : int, optional
        Rows that were left out of the search for that.
    levels : int, optional
        Levels of the lower triangle, each of which waits for those before it.
    regular : bool, optional
        Whether rows are in an order that goes along the graph, and entries do not jump.
    """

    rows: int
    entries: int
    dtype: str
    device: str
    triangular: bool | None = None
    traits: Traits | None = None
    width: int | None = None
    dense_rows: int | None = None
    levels: int | None = None
    regular: bool | None = None

    def __str__(self) -> str:
        return "\n".join(f"  {name:<14} {text}" for name, text in self._lines())

    def _lines(self) -> list[tuple[str, str]]:
        lines = [("size", f"{self.rows} rows, {self.entries} entries, {self.dtype}, {self.device}")]
        if self.triangular is not None:
            lines.append(("pattern", "triangular" if self.triangular else "not triangular"))
        if (seen := self.traits) is not None:
            lines.append(("symmetry", "Hermitian" if seen.hermitian else "not Hermitian"))
            lines.append(("diagonal", "positive" if seen.positive else "not positive"))
            signs = "those of a symmetric M-matrix: diffusion, or a graph Laplacian"
            lines.append(("signs", signs if seen.dominant else "not those of diffusion"))
        if self.width is not None:
            text = f"{self.width} rows at one distance from an end of the graph"
            text += f", {self.dense_rows} dense rows set aside" if self.dense_rows else ""
            lines.append(("width", text))
        if self.levels is not None:
            order = "along the graph, no jumps" if self.regular else "not along the graph, or jumps"
            lines.append(("order of rows", f"{order}; {self.levels} levels"))
        return lines


@dataclass(frozen=True)
class Cost:
    """What a solver is expected to cost: to prepare a matrix, and for each column."""

    prepare: float
    solve: float

    def of(self, columns: int) -> float:
        """Return the cost of all."""
        return self.prepare + columns * self.solve


@dataclass(frozen=True)
class Plan:
    """The solvers to try for a matrix, one after the other, and the reasons.  Print it to read it.

    Attributes
    ----------
    solvers : tuple of Solver
        The last one cannot fail to converge.
    hermitian : bool
        Whether the matrix was found to be equal to its adjoint, so that no transpose is needed.
    columns : int
        For how many right-hand sides the plan was made.
    seen : Inspection, optional
        What was looked at.
    costs : tuple of (Solver, Cost)
        The estimated costs that were compared.  Empty if a simple rule decided.
    reason : str
        Why the first solver is the first.
    """

    solvers: tuple[Solver, ...]
    hermitian: bool = False
    columns: int = 1
    seen: Inspection | None = None
    costs: tuple[tuple[Solver, Cost], ...] = ()
    reason: str = ""

    def __str__(self) -> str:
        first, *others = map(repr, self.solvers)
        parts = [f"{first}, because {self.reason}"]
        parts += [f"then {', then '.join(others)}"] if others else []
        parts += [f"looked at\n{self.seen}"] if self.seen is not None else []
        if self.costs:
            noun = "column" if self.columns == 1 else "columns"
            parts.append(f"weighed, in entries gone over, for {self.columns} {noun}")
            width = max(len(repr(solver)) for solver, _ in self.costs)
            parts += [
                f"  {solver!r:<{width}} {cost.of(self.columns):8.1e} = "
                f"{cost.prepare:.1e} + {self.columns} * {cost.solve:.1e}"
                for solver, cost in self.costs
            ]
        return "\n".join(parts)


# ------------------------------------------------------------------------------ the inspection


def inspect(A: StoredMatrix) -> Inspection:
    """Look at what the choice of a solver depends on.  O(nnz) time."""
    s = A.structure
    seen: dict[str, Any] = {"rows": A.shape[0], "entries": s.nnz}
    seen |= {"dtype": str(A.dtype).removeprefix("torch."), "device": A.values.device.type}
    if A.shape[0] <= TINY:
        return Inspection(**seen)
    seen["triangular"] = triangular(s)
    if seen["triangular"]:
        return Inspection(**seen)
    on_cpu = A.values.device.type == "cpu"
    if on_cpu and A.shape[0] <= _SMALL:
        return Inspection(**seen)
    seen["traits"] = traits_of(A)
    if not on_cpu:
        return Inspection(**seen)
    seen |= {"width": width(s), "dense_rows": dense_rows(s)}
    if seen["traits"].dominant:
        seen["levels"] = levels_of(s)
        # An incomplete factorization does well where rows are in an order that goes along the
        # graph, so that it has about as many levels as the graph is long, and entries do not jump,
        # so that `DIC` could be relaxed.
        along = seen["levels"] * seen["width"] >= A.shape[0]
        seen["regular"] = along and prepared(DIC(), A).relaxation > 0
    return Inspection(**seen)


# ----------------------------------------------------------------------------------- the choice


def choose(seen: Inspection, columns: int = 1, rtol: float | None = None) -> Plan:
    """Choose by what was seen, for so many right-hand sides; O(1) time."""
    row_by_row = small(getattr(torch, seen.dtype))
    settings: dict[str, Any] = {
        "rtol": rtol, "max_iterations": _PATIENCE, "componentwise": row_by_row
    }  # fmt: skip
    if seen.rows <= TINY:
        return _ruled(seen, f"there are at most {TINY} rows", DenseLU())
    if seen.triangular:
        return _ruled(seen, "the pattern is triangular", Substitution())
    if seen.device != "cpu":  # products and a diagonal run there
        iterative = CG if _definite(seen) else BiCGStab
        reason = "products and a diagonal run on this device"
        return _ruled(seen, reason, iterative(Jacobi(), **settings), SuperLU())
    if seen.rows <= _SMALL:
        return _ruled(seen, f"there are at most {_SMALL} rows", SuperLU())
    return _weighed(seen, columns, settings)


def _ruled(seen: Inspection, reason: str, *solvers: Solver) -> Plan:
    hermitian = seen.traits is not None and seen.traits.hermitian
    return Plan(solvers, hermitian, seen=seen, reason=reason)


def _weighed(seen: Inspection, columns: int, settings: dict[str, Any]) -> Plan:
    """Order solvers by what they are expected to cost, up to one that cannot fail."""
    direct = _factorizations(seen)
    costs = dict(direct)
    assert seen.traits is not None
    if seen.traits.dominant:
        costs |= _for_diffusion(seen, settings)
    order = sorted(costs, key=lambda solver: costs[solver].of(columns))
    sure = min(direct, key=lambda solver: direct[solver].of(columns))
    solvers, reason = tuple(order[: order.index(sure) + 1]), "it is expected to cost least"
    if not seen.traits.dominant and direct[sure].of(1) >= _LONG:
        first = CG(IC0(), **settings) if _definite(seen) else BiCGStab(ILU0(), **settings)
        solvers, reason = (first, sure), f"a factorization is expected to cost {_LONG:.0e} or more"
    weighed = tuple((solver, costs[solver]) for solver in order)
    return Plan(solvers, seen.traits.hermitian, columns, seen, weighed, reason)


def _definite(seen: Inspection) -> bool:
    return seen.traits is not None and seen.traits.hermitian and seen.traits.positive


def _for_diffusion(seen: Inspection, settings: dict[str, Any]) -> dict[Solver, Cost]:
    """Estimate what iterations cost with the matrices of diffusion."""
    n, levels = seen.rows, seen.levels or 0
    costs: dict[Solver, Cost] = {}
    if seen.regular:
        # Iterations grow with the root of the length (Gustafsson); each sweeps down and up.
        iterations = 4.5 * (levels / 2) ** 0.5
        costs[ICCG(**settings)] = Cost(0, 2 * iterations * seen.entries)
    if installed("pyamg"):
        harder = 1 if seen.regular else 4
        costs[CG(AMG(), **settings)] = Cost(4e7 + 1300 * harder * n, 2000 * harder * n)
    return costs


def _factorizations(seen: Inspection) -> dict[Solver, Cost]:
    """Estimate what factorizations cost.

    By nested dissection on a graph with separators of w unknowns: O(w³) operations for the largest
    of them, and a term for the many small ones; k dense rows take n k² more.  A factor has O(n log
    n) entries, or the O(w²) of the largest separator if that is more.
    """
    n, w, k = seen.rows, seen.width or 1, seen.dense_rows or 0
    dense, many = (w**3 + n * k**2) / dense_speed(), n * math.log2(n)
    fill = max(2.8 * many, 20 * w**2) + 2 * n * k
    costs: dict[Solver, Cost] = {SuperLU(): Cost(3000 * n + 3 * dense, 10 * n + 1.4 * fill)}
    # PARDISO, which analyses a pattern once, takes real matrices.
    if not seen.dtype.startswith("complex") and installed("pypardiso"):
        fill = max(1.8 * many, 8 * w**2) + 2 * n * k
        costs[Pardiso()] = Cost(3e6 + 110 * many + 0.4 * dense, 60 * n + 1.5 * fill)
    return costs


@cache
def installed(package: str) -> bool:
    """Say whether an optional package can be imported."""
    return importlib.util.find_spec(package) is not None


# -------------------------------------------------------------------------------- the explanation


def plan(A: Any, columns: int = 1, *, rtol: float | None = None) -> Plan:
    """Explain what `sparse_solve` chooses for a matrix, without solving.

    Parameters
    ----------
    A : SparseMatrix (n, n)
        A single matrix.  For a batch, make a plan for each member ``A[i]``.
    columns : int
        How many right-hand sides there are.
    rtol : float, optional
        As for `Auto`.

    Returns
    -------
    Plan
        Print it to read which solvers would be tried, why, and what was looked at.

    Raises
    ------
    TypeError
        If A is not a SparseMatrix.
    ValueError
        If A is a batch, or not square, or `columns` is not positive.

    Notes
    -----
    It takes O(nnz) time.  If `DIC` is a candidate, it also takes the time to prepare that.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix
    >>> from tsgu_func.solvers import plan
    >>> print(plan(SparseMatrix.eye(3)))
    DenseLU(), because there are at most 64 rows
    looked at
      size           3 rows, 3 entries, float32, cpu
    """
    stored = _stored(A)
    if isinstance(columns, bool) or not isinstance(columns, int) or columns < 1:
        raise ValueError(f"columns is the number of right-hand sides, 1 or more; got {columns!r}")
    with Parts().collecting():
        return choose(inspect(stored), columns, rtol)


def _stored(A: Any) -> StoredMatrix:
    pattern, values = getattr(A, "pattern", None), getattr(A, "values", None)
    if pattern is None or values is None:
        raise TypeError(
            f"a plan is made for a SparseMatrix; got {type(A).__name__}: "
            f"SparseMatrix.from_torch(A) makes one of a torch sparse tensor"
        )
    if values.ndim > 1:
        raise ValueError(
            f"a plan is made for one matrix; got a batch {tuple(A.shape[:-2])}: take one of it, "
            f"A[0], because members are chosen for one by one"
        )
    if A.shape[0] != A.shape[1]:
        raise ValueError(f"A is square; got shape {tuple(A.shape)}: sparse_lstsq takes any")
    return StoredMatrix(pattern.structure, values.detach())
