"""The root of a user's function, as one op.

Derivation.  Let ``F(θ, x(θ)) = 0``.  Differentiating, with the Jacobian J with respect to x,

    J dx + dF = 0,    dF = ∂F/∂θ dθ,

so ``dx = -J⁻¹ dF``.  With the cotangent G of x and ``W = J⁻ᴴ G``,

    <G, dx> = -<J⁻ᴴ G, dF> = -<W, ∂F/∂θ dθ>,

which is what the vjp of F with respect to θ makes of -W.

J is a matrix that depends on the point (θ, x).  So it is solved with as any matrix with parameters
is, by `operator_solve`, which has the rules for that; what solves gets its entries (`Jacobian`).
The root at which all this is evaluated is the output of the op itself, so the rules differentiate
it in their turn, and derivatives of every order come out.  How it was found never enters, and where
from does not either: the derivative with respect to x0 is zero.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func.kernels.checks import check_computable, check_finite
from tsgu_func.kernels.stored import StoredMatrix
from tsgu_func.ops import keys
from tsgu_func.ops.callback import Callback, callback
from tsgu_func.ops.captured import NOBODY, Watch, observed
from tsgu_func.ops.forms import Form, Packed, Products, form_of
from tsgu_func.ops.handles import root_of
from tsgu_func.ops.operators import operator_solve
from tsgu_func.ops.reporting import beside, solve_by
from tsgu_func.registration.primitive import Primitive
from tsgu_func.registration.transforms import outside_old_vmap, outside_transforms, pytree
from tsgu_func.solvers.members import named
from tsgu_func.solvers.newton import Newton, NewtonInfo, System, newton
from tsgu_func.solvers.protocol import SolveError

__all__ = ["Equation", "Residual", "root"]

_CURE = (
    "uses a tensor that is being differentiated or mapped over, and that is neither x nor among "
    "its parameters, where no derivative would be seen: pass it in `parameters`, or detach it"
)
Stored = Callable[[Tensor, Tensor], StoredMatrix]


# -------------------------------------------------------------------------------- the equation


class Residual(NamedTuple):
    """F as a function of two vectors, of its parameters and of x, to a vector like the latter."""

    F: Callable[..., Any]
    unknown: Packed
    given: Packed | None

    @property
    def sizes(self) -> list[int]:
        """Elements of the parameters, and of x."""
        return [sum(self.given.sizes) if self.given else 0, sum(self.unknown.sizes)]

    def __call__(self, theta: Tensor, x: Tensor) -> Tensor:
        """Return F at a point."""
        return self.raveled(self.F(*self.arguments(theta, x)), x)

    def arguments(self, theta: Tensor, x: Tensor) -> tuple[Any, ...]:
        """Return what F is called with."""
        trees = (self.unknown.parameters(x),)
        return trees if self.given is None else (*trees, self.given.parameters(theta))

    def raveled(self, returned: Any, x: Tensor) -> Tensor:
        """Return what F returned as one vector."""
        leaves = pytree.tree_leaves(returned)
        if not leaves or not all(isinstance(leaf, Tensor) for leaf in leaves):
            kinds = ", ".join(type(leaf).__name__ for leaf in leaves) or "nothing"
            raise TypeError(f"F returns tensors, in any pytree; got {kinds}")
        flat = torch.cat([leaf.reshape(-1) for leaf in leaves])
        if flat.shape != x.shape or flat.dtype != x.dtype:
            shapes = ", ".join(str(tuple(leaf.shape)) for leaf in leaves)
            raise ValueError(
                f"F returns as many elements as x has, {len(x)}, in the same dtype, {x.dtype}; got "
                f"{len(flat)} ({shapes}), {flat.dtype}"
            )
        return flat

    def pulled(self, point: Tensor, w: Tensor) -> Tensor:
        """Return ``Jᴴ w`` at the point (θ, x)."""
        return self._pull(point)(w)

    def pushed(self, point: Tensor, v: Tensor) -> Tensor:
        """Return ``J v``: the adjoint of what is linear in w; there may be no forward mode."""
        both: Any = torch.func.vjp(self._pull(point), torch.zeros_like(v))
        return both[1](v)[0]

    def _pull(self, point: Tensor) -> Callable[[Tensor], Tensor]:
        theta, x = point.split(self.sizes)
        both: Any = torch.func.vjp(partial(self.__call__, theta), x)
        return lambda w: both[1](w)[0]


class Jacobian(Form):
    """J as an operator with the point (θ, x) for its parameters, whose entries are known.

    They are evaluated for each solve, since F may use what changes in between.  What solvers
    prepare is found again by them.
    """

    def __init__(
        self, residual: Residual, stored: Callable[[Tensor, Tensor], StoredMatrix]
    ) -> None:
        point = torch.empty(sum(residual.sizes), device="meta", dtype=residual.unknown.dtype)
        super().__init__(Products(residual.pushed, residual.pulled), False, *form_of(point))
        self.stored, self.sizes = stored, residual.sizes

    def matrix(self, parameters: Tensor, B: Tensor) -> StoredMatrix:
        """Return J at a point (k,), or a batch of such."""
        if parameters.ndim == 1:
            with outside_old_vmap():
                return self.stored(*parameters.split(self.sizes))
        members = [self.matrix(point, B) for point in parameters]
        values = torch.stack([A.values for A in members])
        first = members[0]
        return StoredMatrix(first.structure, values, first.transpose)


class Equation:
    """What the op is named by: a function, and how a root of it is looked for.

    Parameters
    ----------
    residual : Residual
    stored : callable
        ``stored(θ, x) -> J``.
    check : callable
        ``check(θ, x)`` raises if the pattern of J lacks entries.
    settings : Newton
    watch : Watch
        Who looks on: F may use no tensor that is watched, but what it is called with.
    eps : float
        Unit of rounding of x.
    """

    def __init__(
        self,
        residual: Residual,
        stored: Stored,
        check: Callable[[Tensor, Tensor], None],
        settings: Newton,
        watch: Watch,
        eps: float,
    ) -> None:
        self.key = keys.new_name(keys.name_of(residual.F))
        self.residual, self.check, self.settings = residual, check, settings
        self.watch, self.eps = watch, eps
        self.jacobian = Jacobian(residual, stored)
        k, n = residual.sizes
        self.callback = Callback(lambda both: residual(*both.split([k, n])), k + n, n)
        keys.register(self)

    def root(self, solver: str, theta: Tensor, x0: Tensor) -> tuple[Tensor, Tensor]:
        """Return a root, and what is told of it."""
        check_computable(x0)
        check_finite("x0", x0)
        check_finite("a parameter of F", theta)
        system = System(
            self._function(theta),
            partial(self.jacobian.stored, theta),
            lambda J, b: solve_by(solver, J, b.unsqueeze(-1))[0].squeeze(-1),
        )
        try:
            x, numbers = newton(system, x0, self.settings, self.eps)
        except SolveError:
            self.check(theta, x0)  # a pattern that lacks entries is the better reason
            raise
        self.check(theta, x)
        report = torch.tensor(numbers, dtype=torch.float64, device=x.device)
        return x.clone(memory_format=torch.contiguous_format), report

    def _function(self, theta: Tensor) -> Callable[[Tensor], Tensor]:
        """Return F as a function of x alone, which is looked at while it is called first."""
        watch, residual = self.watch, self.residual

        def function(x: Tensor) -> Tensor:
            nonlocal watch
            looked, watch = watch, NOBODY
            returned, uses = observed(looked, residual.F, *residual.arguments(theta, x))
            if uses:
                raise RuntimeError(f"{keys.name_of(residual.F)} {_CURE}")
            return residual.raveled(returned, x).detach()

        return function


# ------------------------------------------------------------------------------------- the op

root = Primitive(
    "tsgu_func::root(Tensor parameters, Tensor x0, str function, str solver)"
    " -> (Tensor value, Tensor report)",
    groups={"by": ("function", "solver")},
)


@root.kernel
def _(parameters, x0, by):
    equation: Equation = keys.named(by[0])
    with outside_transforms():
        if x0.ndim == 1:
            return equation.root(by[1], parameters, x0)
        members = enumerate(zip(parameters, x0, strict=True))
        found = [named(i, equation.root, by[1], *member) for i, member in members]
    values, reports = zip(*found, strict=True)
    return torch.stack(values), torch.stack(reports)


@root.fake
def _(x0, by):
    del by  # a group has what it needs told by name
    numbers = len(NewtonInfo._fields)
    report = x0.new_empty(*x0.shape[:-1], numbers, dtype=torch.float64)
    return torch.empty_like(x0, memory_format=torch.contiguous_format), report


@root.vjp("parameters", "x0")
def _(needs, ct, outs, parameters, by):
    if ct is None:
        return None, None
    nothing = torch.zeros_like(ct)
    if not needs[0]:
        return None, nothing
    point, equation = torch.cat([parameters, outs[0]], -1), keys.named(by[0])
    W = _solved(equation, by, point, ct, adjoint=True)
    pulled = callback(torch.cat([point, W], -1), equation.callback.vjp.key)
    return -pulled[..., : parameters.shape[-1]], nothing


@root.jvp("parameters", "x0")
def _(tangents, outs, parameters, by):
    moved, (x, report) = tangents[0], outs
    if moved is None:
        return beside(torch.zeros_like(x), report)
    point, equation = torch.cat([parameters, x], -1), keys.named(by[0])
    moved = torch.cat([point, moved, torch.zeros_like(x)], -1)
    dF = callback(moved, equation.callback.jvp.key)
    return beside(-_solved(equation, by, point, dF, adjoint=False), report)


def _solved(equation: Equation, by: Any, point: Tensor, b: Tensor, *, adjoint: bool) -> Tensor:
    X, _ = operator_solve(point, b.unsqueeze(-1), equation.jacobian.key, by[1], adjoint)
    return X.squeeze(-1)


@root.retain
def _(by):
    return keys.named(by[0]), root_of(by[1])


root.fold(parameters=1, x0=1)
