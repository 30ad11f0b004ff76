"""Roots of sparse systems of equations; derived in `tsgu_func.ops.roots`."""

from __future__ import annotations

import weakref
from collections.abc import Callable, Hashable
from typing import Any, Literal, NamedTuple, overload

import torch
from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.coloring import Coloring, color
from tsgu_func.derivatives.evaluation import SparseJacobian
from tsgu_func.derivatives.flat import Layout
from tsgu_func.derivatives.missing import NotFiniteError, check_entries
from tsgu_func.derivatives.verification import precision
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.ops import keys
from tsgu_func.ops.captured import watch
from tsgu_func.ops.forms import Packed, form_of, varies
from tsgu_func.ops.roots import Equation, Residual, root
from tsgu_func.pattern_detection import detected
from tsgu_func.registration.transforms import has_tangent, outside_old_vmap, pytree
from tsgu_func.solvers import Auto, Solver
from tsgu_func.solvers.newton import Newton, NewtonInfo
from tsgu_func.sparse_jacobian import Mode, sparse_jacobian
from tsgu_func.sparse_solve import judged_handle

__all__ = ["sparse_root"]

_AUTO = Auto()
_CHANGED = (
    "F uses what is none of its arguments, and that has changed since the pattern of its Jacobian "
    "was detected: pass it in `parameters`, or make F anew"
)
# Colourings by the function, and what it is called with.
_colorings = Store("colorings of roots", most=64)


@overload
def sparse_root(
    F: Callable[..., Any],
    x0: Any,
    parameters: Any = None,
    *,
    solver: Solver | Callable[[Tensor, Tensor], Tensor] | None = None,
    pattern: SparsityPattern | Coloring | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int = 50,
    return_info: Literal[False] = False,
) -> Any: ...


@overload
def sparse_root(
    F: Callable[..., Any],
    x0: Any,
    parameters: Any = None,
    *,
    solver: Solver | Callable[[Tensor, Tensor], Tensor] | None = None,
    pattern: SparsityPattern | Coloring | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int = 50,
    return_info: Literal[True],
) -> tuple[Any, NewtonInfo]: ...


def sparse_root(
    F: Callable[..., Any],
    x0: Any,
    parameters: Any = None,
    *,
    solver: Solver | Callable[[Tensor, Tensor], Tensor] | None = None,
    pattern: SparsityPattern | Coloring | None = None,
    rtol: float | None = None,
    atol: float = 0.0,
    max_iterations: int = 50,
    return_info: bool = False,
) -> Any:
    r"""Solve ``F(x, parameters) = 0`` for x, by Newton's method with a sparse Jacobian.

    Parameters
    ----------
    F : callable
        ``F(x, parameters)``, or ``F(x)`` if there are no parameters.  It is differentiable, and
        returns as many elements as x has, in the dtype of x; element i, in raveled order, is
        equation i.  A tensor that is being differentiated or mapped over has to reach F in
        `parameters`: it is an error if F is closed over one.
    x0 : Tensor or pytree of Tensor
        Where Newton's method starts: float32, float64, complex64 or complex128.  If you have solved
        a similar problem, its solution is a good start.
    parameters : pytree, optional
        The tensors with respect to which the root can be differentiated, in tuples, lists or dicts;
        a `SparseMatrix` can be among them.  They are converted to the dtype of x0, into which they
        have to fit.  Everything else in the tree, as tensors of integers, is constant.
    solver : Solver or callable, optional
        What solves linear systems with the Jacobian, and for derivatives with its adjoint, as in
        `sparse_solve`.
    pattern : SparsityPattern or Coloring, optional
        Which entries of the Jacobian may differ from zero, as in `sparse_jacobian`.  By default the
        pattern is detected at the first call with F and arguments of these shapes, and kept as long
        as F lives; a lambda that is written in a loop is another function each time, and has its
        pattern detected each time.  The pattern is checked at the root: what F uses beside its
        arguments may change the numbers in the Jacobian, but not which of them are zero.  For a
        function without forward mode, pass no Coloring or one of "reverse" mode.
    rtol : float, optional
        How long the last step may be, relative to x, in the 2-norm.  Default: ``eps ** (2 / 3)`` of
        the dtype.  Steps shrink quadratically, so the error of x is smaller than that.
    atol : float
        If the norm of ``F(x)`` is not larger than this, x is taken for a root, whatever the steps
        are.  Give it where the root is zero up to rounding, so that no step is small relative to x.
    max_iterations : int
        The largest number of steps.
    return_info : bool
        Whether to return a `NewtonInfo` as well, which says how the root was reached.

    Returns
    -------
    Tensor or pytree, or (it, NewtonInfo)
        A root, with the tree, shapes and dtypes of `x0`.  If there are several roots, it is often,
        but not always, the one closest to x0.

    Raises
    ------
    TypeError
        If F is not callable, returns something else than tensors, or is not a function that
        `sparse_jacobian` takes; or if x0, `solver` or `pattern` has the wrong type.
    ValueError
        If shapes, dtypes or devices do not fit, a setting is out of range, the pattern lacks
        entries, F is not complex differentiable, or F or its Jacobian is not finite at x0 or at an
        iterate.
    SolveError
        If the Jacobian is singular at an iterate, or at the root when a derivative is taken.
    ConvergenceError
        If no step reduces the residual, as where there is no root, or if `max_iterations` steps
        were not enough.
    RuntimeError
        If F uses a tensor that is being differentiated or mapped over, and that is neither x nor
        among the parameters: the derivative with respect to it would be missing.

    Warns
    -----
    IllConditionedWarning
        If the Jacobian is close to singular at the root, which makes derivatives inaccurate.

    Notes
    -----
    With the Jacobian J of F with respect to x at the root, and a cotangent :math:`G`,

    .. math:: \frac{dx}{d\theta} = -J^{-1} \frac{\partial F}{\partial \theta}, \qquad
        \bar\theta = -\left(\frac{\partial F}{\partial \theta}\right)^H J^{-H} G,

    by the implicit function theorem, to any order, in forward and reverse mode and under ``vmap``:
    the steps are not differentiated.  A derivative is as accurate as x and the solver are.  That
    with respect to x0 is zero.  See Blondel et al., *Efficient and Modular Implicit
    Differentiation*, NeurIPS 2022.

    A step is halved until it reduces the residual (Armijo): Dennis and Schnabel, *Numerical Methods
    for Unconstrained Optimization and Nonlinear Equations* (1983), chapter 6.  Whether x is a root
    is judged by F itself, so a wrong Jacobian cannot lead to a wrong root.

    Cost: each step evaluates the Jacobian, by one product for each colour of its pattern,
    factorizes it, and evaluates F once or more.  To check the pattern costs one more Jacobian.  A
    first derivative takes a Jacobian, a solve, and one product with the derivative of F.  Memory is
    O(colors n + nnz), and that of a factor.  Under ``vmap`` the members are solved one after the
    other.

    Examples
    --------
    The Bratu problem, :math:`-u'' = \lambda e^u` with u = 0 at both ends:

    >>> import torch
    >>> from tsgu_func import sparse_root
    >>> def bratu(u, strength):
    ...     wide = torch.nn.functional.pad(u, (1, 1))
    ...     second = (wide[2:] - 2 * u + wide[:-2]) * (len(u) + 1) ** 2
    ...     return second + strength * u.exp()
    >>> u0, strength = torch.zeros(7, dtype=torch.float64), torch.tensor(1.0).double()
    >>> u, info = sparse_root(bratu, u0, strength, return_info=True)
    >>> u.max()
    tensor(0.1408, dtype=torch.float64)
    >>> int(info.iterations), float(info.residual) < 1e-12
    (4, True)
    >>> torch.func.grad(lambda s: sparse_root(bratu, u0, s).max())(strength)
    tensor(0.1597, dtype=torch.float64)
    """
    if not callable(F):
        raise TypeError(f"F is a function of x, or of x and parameters; got {describe(F)}")
    unknown = Layout.of(x0, "x0")
    x = unknown.ravel(x0)
    theta = _flat(parameters, x)
    _check_pattern(pattern, unknown)
    settings = rtol, atol, max_iterations
    forms = form_of(x0), None if parameters is None else form_of(parameters)
    solver = _AUTO if solver is None else solver
    key, _held = keys.key_of(_equation, F, *forms, pattern, settings, precision(unknown))
    solver_key, _held_solver = keys.key_of(judged_handle, solver, "raise", True)
    value, report = root(theta, x, key, solver_key)
    found = unknown.unravel(value)
    return (found, _info(report, value)) if return_info else found


def _flat(parameters: Any, x: Tensor) -> Tensor:
    """Return all parameters in one vector, of the dtype of x."""
    leaves = [leaf for leaf in pytree.tree_leaves(parameters) if varies(leaf)]
    for leaf in leaves:
        if torch.promote_types(leaf.dtype, x.dtype) != x.dtype:
            raise ValueError(
                f"parameters fit into the dtype of x0; got {leaf.dtype} for x0 {x.dtype}: convert "
                f"one of them; of complex parameters of real equations, pass torch.view_as_real"
            )
        if leaf.device != x.device:
            raise ValueError(
                f"parameters are on the device of x0; got {leaf.device} for x0 on {x.device}: move "
                f"one with .to"
            )
    return torch.cat([x.new_zeros(0), *(leaf.to(x.dtype).reshape(-1) for leaf in leaves)])


def _check_pattern(pattern: Any, unknown: Layout) -> None:
    if pattern is None:
        return
    if not isinstance(pattern, (SparsityPattern, Coloring)):
        raise TypeError(
            f"pattern is a SparsityPattern or a Coloring; got {describe(pattern)}: leave it out "
            f"to have it detected"
        )
    shape = (pattern.pattern if isinstance(pattern, Coloring) else pattern).shape
    if shape != (unknown.size, unknown.size):
        raise ValueError(
            f"the pattern is that of the Jacobian, {(unknown.size, unknown.size)} for {unknown}; "
            f"got {shape}"
        )


def _info(report: Tensor, value: Tensor) -> NewtonInfo:
    steps, evaluations, *norms = report.detach().unbind(-1)
    real = value.real.dtype  # the compiler does not know `to_real`
    return NewtonInfo(steps.long(), evaluations.long(), *(norm.to(real) for norm in norms))


# ---------------------------------------------------------------------------- what the op is given


def _equation(
    F: Callable[..., Any],
    unknown: tuple[Any, ...],
    given: tuple[Any, ...] | None,
    pattern: SparsityPattern | Coloring | None,
    settings: tuple[Any, ...],
    eps: float,
) -> Equation:
    residual = Residual(F, Packed.of(*unknown), None if given is None else Packed.of(*given))
    jacobian = _Jacobian(residual, pattern, (unknown, given))
    return Equation(residual, jacobian, jacobian.check, Newton(*settings), watch(), eps)


class _Jacobian:
    """The Jacobian of a residual, by the colouring that is given or known, or detected at first.

    PyTorch cannot nest its two kinds of forward mode, so inside of the eager one it is by reverse.
    """

    def __init__(self, residual: Residual, pattern: Any, forms: tuple[Any, ...]) -> None:
        self.residual, self.pattern, self.forms = residual, pattern, forms
        self._by_mode: dict[Mode, SparseJacobian] = {}

    def __call__(self, theta: Tensor, x: Tensor) -> StoredMatrix:
        """Return J at a point."""
        A = self._colored(theta, x)(theta, x)
        return StoredMatrix(A.pattern.structure, A.values, A.pattern.transposed)

    def check(self, theta: Tensor, x: Tensor) -> None:
        """Raise if the pattern lacks entries.

        Where F has no derivative that is finite, a root is one all the same, but a pattern that was
        given cannot be relied on.
        """
        try:
            with outside_old_vmap():
                check_entries(self._colored(theta, x), (theta, x), 0)
        except NotFiniteError:
            if self.pattern is not None:
                raise
        except ValueError as error:
            if self.pattern is not None:
                raise
            raise ValueError(f"{_CHANGED}: {error}") from error

    def _colored(self, theta: Tensor, x: Tensor) -> SparseJacobian:
        mode = "reverse" if has_tangent(None) else "auto"
        if mode not in self._by_mode:
            coloring = self._coloring(theta, x, mode)
            by: Mode = "reverse" if coloring.mode == "reverse" else mode
            made = sparse_jacobian(self.residual, coloring, argnums=1, mode=by)
            self._by_mode[mode] = made
        return self._by_mode[mode]

    def _coloring(self, theta: Tensor, x: Tensor, mode: Mode) -> Coloring:
        given = self.pattern
        if isinstance(given, Coloring):
            return color(given.pattern, mode) if mode == "reverse" else given
        F = self.residual.F
        key, owners = _described((id(F), given, mode, x.device, self.forms), F)
        found = None if key is None else _colorings.get(key)
        if found is None:
            pattern, reverse = (given, False) if given is not None else self._detected(theta, x)
            found = _Kept(color(pattern, "reverse" if reverse else mode))
            if key is not None:
                _colorings.keep(key, found, *owners)
        else:
            _colorings.measure(key)  # it keeps seeds since it was evaluated
        return found.coloring

    def _detected(self, theta: Tensor, x: Tensor) -> tuple[SparsityPattern, bool]:
        """Return the pattern, and whether F has reverse mode alone."""
        return detected(False, self.residual, (theta, x), argnums=1, has_aux=False)


class _Kept(NamedTuple):
    coloring: Coloring

    @property
    def bytes(self) -> int:
        return self.coloring.nbytes


def _described(what: tuple[Any, ...], F: Any) -> tuple[Hashable | None, list[Any]]:
    """Return a key of what a colouring belongs to, and those with whom it ends.

    None if it cannot be compared, or nobody knows when F ends.
    """
    leaves, tree = pytree.tree_flatten(what)
    owners = [F, *(leaf for leaf in leaves if isinstance(leaf, Tensor))]
    described = [
        (id(leaf), leaf._version) if isinstance(leaf, Tensor) else (type(leaf), leaf)
        for leaf in leaves
    ]
    key = tree, *described
    try:
        hash(key)
        weakref.ref(F)
    except TypeError:
        return None, []
    return key, owners
