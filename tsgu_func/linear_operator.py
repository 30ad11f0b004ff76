"""A matrix that is known by its products alone; derived in `tsgu_func.ops.operators`."""

from __future__ import annotations

import operator
from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.matrix import arguments
from tsgu_func.matrix import compositions as of
from tsgu_func.matrix.pytree import register
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.ops import keys
from tsgu_func.ops.captured import is_watched, uses_captured
from tsgu_func.ops.forms import CURE, Form, Products, adjoint_product, columns, form_of, varies
from tsgu_func.ops.operator_least_squares import operator_least_norm, operator_least_squares
from tsgu_func.ops.operators import operator_solve
from tsgu_func.registration.transforms import pytree

__all__ = ["LinearOperator", "check_takes_operators", "minimize_operator", "solve_operator"]

Product = Callable[[Any, Tensor], Tensor]


class _Static(NamedTuple):
    """What of an operator is no parameter: transforms compare it."""

    function: Product
    adjoint: Product | None = None
    shape: tuple[int, int] | None = None
    dtype: torch.dtype | None = None
    device: torch.device | None = None


class LinearOperator:
    """A matrix that is given by a function that multiplies with it.

    Parameters
    ----------
    function : callable
        ``function(parameters, x) -> A x``.  It has to be linear in the vector x (m,), and made of
        differentiable operations that work under ``vmap``.
    parameters : pytree
        The first argument of `function`.  The tensors in it are what solutions can be
        differentiated with respect to.  They may stand in tuples, lists and dicts, and a
        `SparseMatrix` or a `LinearOperator` may be among them.  All else in it is constant.
        A tensor that is differentiated or mapped over must come in by `parameters`: if `function`
        takes it from outside, that is an error.
    shape : (int, int), optional
        Rows and columns.  By default the operator is square, and as large as what it is
        multiplied with.
    adjoint : callable, optional
        ``adjoint(parameters, y) -> Aᴴ y``, as differentiable as `function`.  Before a solve, it is
        compared with `function` on a pair of vectors.  By default it is derived from `function`, by
        its vjp.
    dtype : torch.dtype, optional
        By default, the dtype to which those of the parameters are promoted.  Give it if `function`
        returns another one, for example complex numbers for real parameters.
    device : torch.device, optional
        By default, that of the parameters.

    Raises
    ------
    TypeError
        If a function is not callable.
    ValueError
        If `shape` is not a pair of sizes.

    Notes
    -----
    An operator is a pytree, whose leaves are those of its parameters.  So ``torch.func.grad`` with
    respect to an operator returns a `LinearOperator` whose parameters are the gradients.

    ``A @ x`` multiplies with a vector (m,) or with the columns of x (m, p), and ``x @ A``
    multiplies from the left.  New operators can be made with ``A + B``, ``A - B`` and the
    composition ``A @ B``, where B is an operator, a `SparseMatrix` or a dense matrix; with
    ``2 * A``, ``A / 2`` and ``-A``, where the factor may be a tensor without axes; and with
    ``A.T``, ``A.mH`` and ``A.conj()``.  The parameters of the result are the parts that it is made
    of.

    In compiled functions, call the methods `matmul` and `mul` instead of ``@``, and of ``*`` with a
    tensor.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import LinearOperator, sparse_solve
    >>> def multiply(a, x):
    ...     return a * x + x.roll(1)
    >>> A = LinearOperator(multiply, torch.tensor([2.0, 3.0, 4.0]))
    >>> sparse_solve(A, torch.tensor([3.0, 4.0, 5.0]))
    tensor([1.0000, 1.0000, 1.0000])
    >>> loss = lambda A: sparse_solve(A, torch.tensor([3.0, 4.0, 5.0])).sum()
    >>> torch.func.grad(loss)(A).parameters
    tensor([-0.3600, -0.2800, -0.1600])
    >>> (A.T @ A + 2 * A) @ torch.ones(3)
    tensor([16., 25., 33.])
    """

    # Binary operators of NumPy arrays leave the operation to this class.
    __array_ufunc__ = None

    def __init__(
        self,
        function: Product,
        parameters: Any,
        shape: tuple[int, int] | None = None,
        *,
        adjoint: Product | None = None,
        dtype: torch.dtype | None = None,
        device: torch.device | str | None = None,
    ) -> None:
        for name, given in (("function", function), ("adjoint", adjoint)):
            if not (callable(given) or (given is None and name == "adjoint")):
                raise TypeError(f"{name} is callable; got {type(given).__name__}")
        shape = None if shape is None else _as_shape(shape)
        device = None if device is None else torch.device(device)
        self.static = _Static(function, adjoint, shape, dtype, device)
        self.parameters = parameters

    @classmethod
    def _of(cls, parameters: Any, static: _Static) -> LinearOperator:
        # Transforms put ints, None and placeholders where leaves were: nothing is checked here.
        self = cls.__new__(cls)
        self.static, self.parameters = static, parameters
        return self

    @classmethod
    def from_matrix(cls, A: SparseMatrix | Tensor) -> LinearOperator:
        """Make an operator of a matrix whose entries are stored.  They become its parameters.

        Parameters
        ----------
        A : SparseMatrix, sparse COO, CSR or CSC Tensor, or dense Tensor, shape (n, m)
            A single matrix.  To use a batch of them, map over it with ``torch.func.vmap``.

        Examples
        --------
        >>> import torch
        >>> from tsgu_func import LinearOperator
        >>> LinearOperator.from_matrix(torch.tensor([[1.0, 2.0, 3.0]])).T @ torch.tensor([2.0])
        tensor([2., 4., 6.])
        """
        if isinstance(A, Tensor) and A.layout != torch.strided:
            A = SparseMatrix.from_torch(A)
        if not isinstance(A, (SparseMatrix, Tensor)):
            raise TypeError(f"A is a SparseMatrix or a tensor; got {type(A).__name__}")
        if A.ndim != 2:
            raise ValueError(f"A is one matrix (n, m); got shape {tuple(A.shape)}")
        shape = (int(A.shape[0]), int(A.shape[1]))
        return cls._of(A, _Static(of.matrix, of.adjoint_of_matrix, shape))

    # ------------------------------------------------------------------------------ attributes

    @property
    def function(self) -> Product:
        """What was given: ``function(parameters, x) -> A x``."""
        return self.static.function

    @property
    def shape(self) -> tuple[int, int]:
        """Rows and columns, if they were given."""
        if self.static.shape is None:
            raise AttributeError(
                "this LinearOperator is square, of whatever size it is multiplied with: give "
                "shape=(n, n) to have it asked for"
            )
        return self.static.shape

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that was given, or the one to which those of the parameters are promoted."""
        if (dtype := self._known_dtype()) is None:
            raise AttributeError("no parameter is floating-point or complex: give dtype=")
        return dtype

    def _known_dtype(self) -> torch.dtype | None:
        if self.static.dtype is not None:
            return self.static.dtype
        dtype = None
        for x in self._tensors():
            if isinstance(x, LinearOperator):
                dtype = _promoted(dtype, x._known_dtype())
            elif varies(x):
                dtype = _promoted(dtype, x.dtype)
        return dtype

    @property
    def device(self) -> torch.device:
        """The device that was given, or that of the parameters."""
        if self.static.device is not None:
            return self.static.device
        found = self._tensors()
        if not found:
            raise AttributeError("no parameter is a tensor: give device=")
        return found[0].device

    def _tensors(self) -> list[Any]:
        """Return the tensors among the parameters, and the operators, which may know better."""
        leaves = pytree.tree_leaves(
            self.parameters, is_leaf=lambda x: isinstance(x, LinearOperator)
        )
        return [x for x in leaves if isinstance(x, (Tensor, LinearOperator))]

    def __repr__(self) -> str:
        name = getattr(self.function, "__qualname__", repr(self.function))
        shape = "" if self.static.shape is None else f", shape={self.static.shape}"
        return f"LinearOperator({name}, {self.parameters!r}{shape})"

    # -------------------------------------------------------------------------------- products

    def matmul(self, x: Any) -> Any:
        """Return ``A @ x``.  The method also works inside of ``torch.compile``.

        Parameters
        ----------
        x : Tensor, shape (m,) or (m, p); or LinearOperator or SparseMatrix, to compose with
        """
        if not isinstance(x, Tensor) and (part := _as_operator(x)) is not None:
            return _composed(self, part)
        _check_factor(x, self.static.shape)
        if x.ndim > 1:
            return columns(self.function, self.parameters, x)
        return self.function(self.parameters, x)

    __call__ = matmul

    def adjoint_matmul(self, y: Tensor) -> Tensor:
        """Multiply the conjugate transpose with a vector (n,): as ``A.mH @ y``."""
        function, adjoint, shape, *_ = self.static
        if adjoint is not None:
            return adjoint(self.parameters, y)
        y = y.to(_promoted(y.dtype, self._known_dtype()))
        size = y.shape[0] if shape is None else shape[1]
        return adjoint_product(lambda x: function(self.parameters, x), y, size)

    def __matmul__(self, other: Any) -> Any:
        known = isinstance(other, (Tensor, LinearOperator, SparseMatrix))
        return self.matmul(other) if known else NotImplemented

    def __rmatmul__(self, other: Any) -> Any:
        if isinstance(other, Tensor):
            return self.T @ other if other.ndim == 1 else (self.T @ other.mT).mT
        part = _as_operator(other)
        return NotImplemented if part is None else _composed(part, self)

    # --------------------------------------------------------------------------------- algebra

    @property
    def T(self) -> LinearOperator:
        """The transpose."""
        return self._turned(of.transpose_of, of.conjugate_of, True)

    mT = T  # noqa: N815 - torch's name for it

    @property
    def mH(self) -> LinearOperator:
        """The conjugate transpose."""
        return self._turned(of.adjoint_of, of.original, True)

    def conj(self) -> LinearOperator:
        """Return the conjugate."""
        return self._turned(of.conjugate_of, of.transpose_of, False)

    def _turned(self, function: Product, adjoint: Product, swapped: bool) -> LinearOperator:
        if self.function is function:  # what is done twice is undone
            return self.parameters
        shape = self.static.shape
        shape = shape if shape is None or not swapped else (shape[1], shape[0])
        return self._of(self, _Static(function, adjoint, shape))

    def __add__(self, other: Any) -> LinearOperator:
        part = _as_operator(other)
        return NotImplemented if part is None else _added(self, part)

    def __radd__(self, other: Any) -> LinearOperator:
        part = _as_operator(other)
        return NotImplemented if part is None else _added(part, self)

    def __neg__(self) -> LinearOperator:
        return self * -1

    def __sub__(self, other: Any) -> LinearOperator:
        part = _as_operator(other)
        return NotImplemented if part is None else _added(self, -part)

    def __rsub__(self, other: Any) -> LinearOperator:
        part = _as_operator(other)
        return NotImplemented if part is None else _added(part, -self)

    def __mul__(self, factor: complex | Tensor) -> LinearOperator:
        known = isinstance(factor, (int, float, complex, Tensor))
        return self.mul(factor) if known else NotImplemented

    __rmul__ = __mul__

    def mul(self, factor: complex | Tensor) -> LinearOperator:
        """Return ``A * factor``.  The method also works inside of ``torch.compile``.

        Parameters
        ----------
        factor : number, or Tensor without axes
            A tensor becomes a parameter of the result.  A number is a constant.
        """
        shape = self.static.shape
        if isinstance(factor, Tensor):
            if factor.ndim:
                raise ValueError(
                    f"an operator is multiplied with numbers, or tensors without axes; got shape "
                    f"{tuple(factor.shape)}: compose it with a diagonal matrix"
                )
            return self._of((factor, self), _Static(of.scaled, of.adjoint_of_scaled, shape))
        # Of a real operator, which parameters may not show, it makes a complex one.
        dtype = self.dtype.to_complex() if isinstance(factor, complex) else None
        both = of.multiple, of.adjoint_of_multiple
        return self._of(of.Multiple(self, factor), _Static(*both, shape, dtype))

    def __truediv__(self, divisor: complex | Tensor) -> LinearOperator:
        if not isinstance(divisor, (int, float, complex, Tensor)):
            return NotImplemented
        return self * (1 / divisor)


register(LinearOperator, "parameters", "static", LinearOperator._of, "tsgu_func.LinearOperator")


def _as_shape(shape: Any) -> tuple[int, int]:
    try:
        rows, cols = map(operator.index, shape)
        if rows >= 0 and cols >= 0:
            return rows, cols
    except (TypeError, ValueError):
        pass
    raise ValueError(f"shape is a pair of sizes (n, m), of rows and columns; got {shape!r}")


def _promoted(dtype: torch.dtype | None, other: torch.dtype | None) -> torch.dtype | None:
    """Promote two, of which each may be unknown."""
    if dtype is None:
        return other
    return dtype if other is None else torch.promote_types(dtype, other)


def _as_operator(x: Any) -> LinearOperator | None:
    """Return a part of a sum or a composition, or None where x cannot be one."""
    if isinstance(x, LinearOperator):
        return x
    matrix = isinstance(x, SparseMatrix) or (isinstance(x, Tensor) and x.ndim == 2)
    return LinearOperator.from_matrix(x) if matrix else None


def _check_factor(x: Any, shape: tuple[int, int] | None) -> None:
    arguments.check_dense("x", x, TypeError)
    if x.ndim not in (1, 2):
        raise ValueError(
            f"x is a vector (m,) or a matrix (m, p); got shape {tuple(x.shape)}: map over a batch "
            f"with torch.func.vmap"
        )
    if shape is not None and x.shape[0] != shape[1]:
        raise ValueError(
            f"A has as many columns as x has rows; got A {shape} and x {tuple(x.shape)}"
        )


def _added(A: LinearOperator, B: LinearOperator) -> LinearOperator:
    p, q = A.static.shape, B.static.shape
    if p is not None and q is not None and p != q:
        raise ValueError(f"operators of one shape can be added; got {p} and {q}")
    shape = p or q
    if shape is not None and None in (p, q) and shape[0] != shape[1]:
        raise ValueError(
            f"operators of one shape can be added; got {shape}, and an operator without a shape, "
            f"which is square: give it shape={shape}"
        )
    return LinearOperator._of((A, B), _Static(of.sum_of, of.adjoint_of_sum, shape))


def _composed(A: LinearOperator, B: LinearOperator) -> LinearOperator:
    p, q = A.static.shape, B.static.shape
    if p is not None and q is not None and p[1] != q[0]:
        raise ValueError(f"A has as many columns as B has rows in A @ B; got {p} and {q}")
    shape = (p[0], q[1]) if p is not None and q is not None else p or q
    return LinearOperator._of((A, B), _Static(of.composition, of.adjoint_of_composition, shape))


# ---------------------------------------------------------------------------------- for the solvers


def check_takes_operators(solver: Any) -> None:
    """Check that a solver asks for products alone."""
    if not getattr(solver, "takes_operators", False):
        raise TypeError(f"{solver!r} needs the entries of A, and a LinearOperator shows none")


def solve_operator(A: LinearOperator, B: Tensor, solver: str) -> tuple[Tensor, Tensor]:
    """Solve by the solver of a key, for B (n,) or (n, p); return what the op does."""
    arguments.check_operator(A.static.shape, B)
    if (shape := A.static.shape) is not None and shape[0] != shape[1]:
        raise ValueError(f"A is square; got shape {shape}: sparse_lstsq takes a tall one")
    return _called(
        lambda flat, X, key: operator_solve(flat, X, key, solver, False, "B"), A, B, A.static.shape
    )


def minimize_operator(
    A: LinearOperator, B: Tensor, solver: str, damp: Tensor | None = None
) -> tuple[Tensor, Tensor]:
    """Minimize ``|A X - B|² + damp² |X|²`` by the solver of a key; return what the op does."""
    arguments.check_operator(A.static.shape, B)
    rows, cols = A.static.shape or (B.shape[0], B.shape[0])
    if damp is not None:
        A = LinearOperator._of(A.parameters, A.static._replace(shape=(rows, cols)))
        shape = rows + cols, cols
        A = LinearOperator._of((damp, A), _Static(of.damped, of.adjoint_of_damped, shape))
        B = torch.cat([B, B.new_zeros(cols, *B.shape[1:])])
        return _called(_least_squares_by(solver), A, B, shape)
    if rows >= cols:
        return _called(_least_squares_by(solver), A, B, (rows, cols))
    return _called(
        lambda flat, X, key: operator_least_norm(flat, X, key, solver, "B"), A.mH, B, (cols, rows)
    )


def _least_squares_by(solver: str) -> Callable[..., tuple[Tensor, Tensor]]:
    return lambda flat, X, key: operator_least_squares(flat, X, key, solver, "B")


def _called(
    op: Callable[..., tuple[Tensor, Tensor]],
    A: LinearOperator,
    B: Tensor,
    shape: tuple[int, int] | None,
) -> tuple[Tensor, Tensor]:
    """Call an op with the parameters, the columns of B and the key of the function."""
    flat, recorded = _flat(A, B), torch.is_grad_enabled()
    _check_captured(A, B)
    products = Products(A.function, A.static.adjoint, shape)
    key, _held = keys.key_of(Form, products, recorded, *form_of(A.parameters))
    X, report = op(flat, B.unsqueeze(-1) if B.ndim == 1 else B, key)
    return (X.squeeze(-1), report.squeeze(-1)) if B.ndim == 1 else (X, report)


def _flat(A: LinearOperator, B: Tensor) -> Tensor:
    """Return all parameters in one vector, of B's dtype."""
    leaves = [x for x in pytree.tree_leaves(A.parameters) if varies(x)]
    for dtype in (A._known_dtype(), *(x.dtype for x in leaves)):
        if dtype is not None and torch.promote_types(dtype, B.dtype) != B.dtype:
            raise ValueError(
                f"A fits into the dtype of B; got {dtype} for B {B.dtype}: convert B, or the "
                f"parameters"
            )
    devices = {x.device for x in leaves} | ({A.static.device} - {None})
    if devices - {B.device}:
        raise ValueError(
            f"parameters of A are on the device of B; got {', '.join(map(str, devices))} for B on "
            f"{B.device}: move one with .to"
        )
    return torch.cat([B.new_zeros(0), *(x.to(B.dtype).flatten() for x in leaves)])


def _check_captured(A: LinearOperator, B: Tensor) -> None:
    """Refuse functions that use a tensor which a transform watches, and which is no parameter."""
    if not is_watched():
        return
    rows, cols = A.static.shape or (B.shape[0],) * 2
    for function, size in ((A.function, cols), (A.static.adjoint, rows)):
        x = torch.ones(size, dtype=B.dtype, device=B.device)
        if function is not None and uses_captured(function, A.parameters, x):
            raise ValueError(f"{keys.name_of(function)} {CURE}")
