"""A matrix with its factor at hand, for those who solve with it often."""

from __future__ import annotations

from typing import Any, NamedTuple, Self

import torch
from torch import Tensor

from tsgu_func.kernels.checks import check_finite
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.matrix import arguments
from tsgu_func.matrix.batches import over_batches, over_system
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.matrix.pytree import register
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.ops import keys
from tsgu_func.ops.determinants import logabsdet
from tsgu_func.ops.handles import SolverHandle, handle_of_solver
from tsgu_func.ops.solve import linear_solve
from tsgu_func.registration.transforms import (
    is_batched,
    is_tracing,
    outside_transforms,
    unwrapped,
)
from tsgu_func.solvers import Auto, Solver
from tsgu_func.solvers.cache import Held, holding

__all__ = ["FactorInfo", "Factorization", "factorize"]

_AUTO = Auto()


class FactorInfo(NamedTuple):
    """What a `Factorization` has computed so far.

    Attributes
    ----------
    solver : str
        The solver, as it prints itself.  For `Auto`, it is the one that was chosen.
    made : bool
        Whether a factor exists already.  Inside of a transform, it may be that only the first
        solve computes it.
    bytes : int
        Memory of the factors or preconditioners.
    condition : float
        An estimate of the condition number of A in the 1-norm; of a batch, the largest.  NaN if the
        solver does not estimate it.
    """

    solver: str
    made: bool
    bytes: int
    condition: float


class Factorization:
    """A square matrix and the solver that has factored it.  `factorize` returns it.

    It is a pytree whose only child is `matrix`, so transforms see the values of the matrix.  The
    gradient with respect to a Factorization is again a Factorization, whose `matrix` is the
    gradient; nothing is factored for that.  As long as this object exists, every transform finds
    the factor by the values.

    Attributes
    ----------
    matrix : SparseMatrix ``(*batch, n, n)``
        The matrix.  If its values are changed in place, the next solve factors it again.
    solver : Solver
    """

    matrix: SparseMatrix
    solver: Solver
    _made: _Made | None

    def __init__(self, matrix: SparseMatrix, solver: Solver) -> None:
        self.matrix, self.solver, self._made = matrix, solver, None
        self._hold()

    @classmethod
    def _of(cls, matrix: Any, solver: Solver) -> Self:
        # Transforms put placeholders where the matrix was: nothing is looked at here.
        self = cls.__new__(cls)
        self.matrix, self.solver, self._made = matrix, solver, None
        return self

    def solve(self, B: Tensor, *, adjoint: bool = False) -> Tensor:
        """Solve ``A X = B``, or ``Aᴴ X = B``, with the factor.  Otherwise as `sparse_solve`.

        Parameters
        ----------
        B : Tensor, dense, shape (n,), ``(*batch, n, p)``, or that of ``A.shape[:-1]``
            It has the dtype of A and is on the same device.
        adjoint : bool
            Whether to solve with the conjugate transpose of A.

        Returns
        -------
        Tensor
            X, with the shape of `B`; for a batch of matrices and a vector, ``(*batch, n)``.

        Raises
        ------
        TypeError
            If B is not dense, or `adjoint` is neither True nor False.
        ValueError
            If shapes, dtypes or devices do not fit, or a value is not finite.
        SolveError
            If the matrix is singular.  If the solver did not converge, it is a `ConvergenceError`,
            which is a kind of SolveError.

        Notes
        -----
        Derivatives with respect to `matrix` and `B`, and their costs, are those of `sparse_solve`.
        """
        arguments.check_solve(self.matrix, B)
        arguments.check_dtypes(self.matrix, B)
        arguments.check_flags(adjoint=adjoint)
        adjoint = bool(adjoint)
        self._hold()
        key, _held = keys.key_of(handle_of_solver, self.solver)

        def solved(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Any:
            s, transpose = pattern.structure, pattern.transposed != adjoint
            stored = values, B, s.crow, s.col, s.cols
            return linear_solve(*stored, transpose, adjoint, key, False, "B")

        return over_system(solved, self.matrix, B)[0]

    @property
    def logabsdet(self) -> Tensor:
        r"""``log|det A|``, of shape ``batch``.

        It is computed from the factor of `SuperLU`, `DenseLU`, `Cholesky` or `Substitution`.  If
        `Auto` has chosen an iterative solver, it makes a factor for this.  Other solvers have no
        such factor.

        The derivative is :math:`A^{-H}` where A stores an entry, to any order.  It takes n solves,
        a few columns at a time, and O(nnz + n) memory.  Where they are recorded for a second
        derivative, O(n²) memory is held.

        Raises
        ------
        TypeError
            If the solver has no such factor.
        SolveError
            If the matrix is singular.
        """
        if not hasattr(self.solver, "logabsdet"):
            raise TypeError(
                f"{self.solver!r} does not tell log|det A|: factorize with SuperLU(), DenseLU(), "
                f"Cholesky(), Substitution() or Auto()"
            )
        self._hold()
        key, _held = keys.key_of(handle_of_solver, self.solver)

        def told(pattern: SparsityPattern, values: Tensor, _: Tensor) -> Tensor:
            s = pattern.structure
            return logabsdet(values, s.crow, s.col, s.cols, key)[..., None, None]

        one = self.matrix.values.new_zeros(self.matrix.shape[-1], 1)
        return over_batches(told, self.matrix.pattern, self.matrix.values, one)[..., 0, 0]

    @property
    def info(self) -> FactorInfo:
        """The solver that was chosen, the memory of its factor, and the condition number."""
        self._hold()
        if self._made is None:
            return FactorInfo(repr(self.solver), False, 0, float("nan"))
        with outside_transforms(), torch.no_grad():
            return self._made.info(self.solver)

    def _hold(self) -> None:
        """Prepare, and keep hold of what was, unless values have no data or have not changed."""
        if is_tracing() or is_batched(self.matrix.values):
            return
        with outside_transforms():
            values = unwrapped(self.matrix.values).detach()
            if type(values) is not Tensor:  # a placeholder
                return
            version = None if values.is_inference() else values._version
            if self._made is None or self._made.version != version:
                handle = handle_of_solver(self.solver)
                self._made = _made_for(handle, self.matrix.pattern, values, version)

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self)._of, (self.matrix, self.solver)

    def __repr__(self) -> str:
        A = self.matrix
        if not isinstance(A, SparseMatrix) or not isinstance(A.values, Tensor):
            return f"Factorization({self.solver!r}, {A!r})"
        return f"Factorization({self.solver!r}, shape={tuple(A.shape)}, nnz={A.nnz})"


class _Made(NamedTuple):
    """What was prepared for values of a version, and the list that holds it."""

    version: int | None
    states: list[Any]
    held: list[Held]

    def info(self, solver: Any) -> FactorInfo:
        chosen = [solver]
        if hasattr(solver, "ready"):
            chosen = [each for state in self.states for each in solver.ready(state)]
        name = ", ".join(dict.fromkeys(map(repr, chosen)))
        numbers = [float("nan")]
        if hasattr(solver, "condition"):
            numbers = [_largest(solver.condition(s)) for s in self.states]
        condition = max(numbers, default=float("nan"))
        return FactorInfo(name, True, sum(x.bytes for x in self.held), condition)


def _largest(condition: float | Tensor) -> float:
    return float(condition.max()) if isinstance(condition, Tensor) else float(condition)


def _made_for(
    handle: SolverHandle, pattern: SparsityPattern, values: Tensor, version: int | None
) -> _Made:
    """Prepare by way of `over_batches`, as a solve does: what it finds has the same shape."""
    states: list[Any] = []

    def prepare(pattern: SparsityPattern, values: Tensor, B: Tensor) -> Tensor:
        check_finite("A", values)
        states.extend(handle.prepare(StoredMatrix(pattern.structure, values)))
        return B

    with holding() as held, torch.no_grad():
        if pattern.shape[0]:
            over_batches(prepare, pattern, values, values.new_zeros(pattern.shape[0], 0))
    return _Made(version, states, held)


register(
    Factorization,
    "matrix",
    "solver",
    Factorization._of,
    "tsgu_func.Factorization",
)


def factorize(A: SparseMatrix | Tensor, solver: Solver | None = None) -> Factorization:
    r"""Factor a matrix once, to solve with it many times.

    Parameters
    ----------
    A : SparseMatrix ``(*batch, n, n)``, or sparse COO or CSR Tensor (n, n)
        Square and non-singular; float32, float64, complex64 or complex128.
    solver : Solver, optional
        Default: `Auto()`, which looks at A and chooses.  If it is an iterative solver, there is no
        factor, and its preconditioner is computed instead.

    Returns
    -------
    Factorization
        An object that solves with A and with its adjoint, and knows ``log|det A|``.

    Raises
    ------
    TypeError
        If A is not sparse COO or CSR or a SparseMatrix, or `solver` is no Solver.
    ValueError
        If A is not square, or a value is not finite.
    SolveError
        If the factorization shows that the matrix is singular.
    ImportError
        If the solver needs an optional package that is not installed.

    Notes
    -----
    `sparse_solve` with the same values and solver uses the same factor.  Whichever of the two is
    called first computes it.  The factor is kept as long as the `Factorization` exists, whatever
    the `cache_limit` is.  Under ``vmap`` over A, and where a graph is traced, the matrix is
    factored only in the first solve.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparseMatrix, factorize
    >>> from tsgu_func.solvers import SuperLU
    >>> A = SparseMatrix.from_dense(torch.tensor([[4.0, 1.0], [-2.0, 3.0]]))
    >>> b = torch.tensor([1.0, 2.0])
    >>> F = factorize(A, SuperLU())
    >>> F
    Factorization(SuperLU(), shape=(2, 2), nnz=4)
    >>> F.solve(b), F.solve(b, adjoint=True)
    (tensor([0.0714, 0.7143]), tensor([0.5000, 0.5000]))
    >>> F.logabsdet.exp()
    tensor(14.0000)
    >>> F.info.solver, F.info.made
    ('SuperLU()', True)

    The gradient with respect to the matrix:

    >>> torch.func.grad(lambda A: factorize(A, SuperLU()).solve(b).sum())(A).to_dense()
    tensor([[-0.0255, -0.2551],
            [-0.0153, -0.1531]])
    """
    arguments.check_factorable(A)
    matrix = SparseMatrix.from_torch(A) if isinstance(A, Tensor) else A
    return Factorization(matrix, _AUTO if solver is None else solver)
