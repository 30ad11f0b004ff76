r"""Finite differences: the oracle that knows nothing of derivative rules.

Central differences along a direction, with shrinking steps, extrapolated
to zero (Romberg's scheme, as in Ridders, *Accurate computation of F'(x) and F'(x)F''(x)*, Advances
in Engineering Software 4, 1982).  The entries of the tableau that agree best are the result, and by
how much they differ is the estimate of its error, beside what rounding alone must do.  So a
function that is too noisy, or that has a kink here, shows itself by an error that does not fall.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import optree
import torch
from torch import Tensor

from tsgu_func.testing.checker.problem import Function, Leaves, problem_of, size

__all__ = ["Estimate", "along", "finite_difference_jacobian", "total"]

_LEVELS = 18  # steps, at most
_RATIO = 1.7  # between them: halving would be in step with the rounding of what is rounded twice
_COLUMNS = 5  # of the tableau: more than these would magnify rounding


class Estimate(NamedTuple):
    """A derivative, likely bounds on the errors of its leaves, and how large the function is.

    Along a direction as long as the point, a derivative that is small beside the function itself is
    known only as well as the function is.
    """

    value: Leaves
    error: tuple[float, ...]
    sizes: tuple[float, ...]


def total(slopes: Sequence[Estimate]) -> Estimate:
    """Return the derivative along a sum of directions."""
    values, errors, sizes = (zip(*parts, strict=True) for parts in zip(*slopes, strict=True))
    return Estimate(
        tuple(torch.stack(v).sum(0) for v in values),
        tuple(map(sum, errors)),
        tuple(map(max, sizes)),
    )


@dataclass
class _Best:
    """The best entry of the tableau for one leaf, and how far from smooth the function looked."""

    value: Tensor
    error: float = float("inf")
    kink: float = float("inf")


def along(
    f: Function, x: Leaves, u: Leaves, tolerance: float = 1e-9, rounding: float = 0.0
) -> Estimate:
    """Differentiate f at x along u.

    Steps start at 4 ε^(1/5), ε the rounding unit, or `rounding` if f is known to be less precise:
    where a first extrapolation has about the least error for a function that changes over distances
    of the size of u.  They shrink until the error is below `tolerance`, relative to the derivative,
    or has stopped falling.
    """
    center = f(*x)
    eps = max(rounding, *(torch.finfo(a.dtype).eps for a in (*x, *center)))
    tableau = _Tableau(center)
    h, stalled = 4 * eps**0.2, 0
    failure: Exception | None = None
    for _ in range(_LEVELS):
        try:
            ahead, behind = _moved(f, x, u, h), _moved(f, x, u, -h)
        except Exception as error:  # the step may lead out of the domain: a shorter one will not
            failure = error
        else:
            if all(bool(torch.isfinite(a).all()) for a in (*ahead, *behind)):
                stalled = 0 if tableau.add(ahead, behind, h, eps) else stalled + 1
        if tableau.settled(tolerance) or stalled == 3:
            break
        h /= _RATIO
    if not tableau.rows and failure is not None:
        raise failure
    best = tableau.best
    errors = tuple(max(b.error, b.kink) for b in best)
    return Estimate(tuple(b.value for b in best), errors, tuple(map(_largest, center)))


class _Tableau:
    """Slopes for falling steps; column j is free of the errors h², h⁴, ..., h²ʲ."""

    def __init__(self, center: Leaves) -> None:
        self.center = center
        self.rows: list[list[Leaves]] = []
        self.bends: list[Leaves] = []
        self.best = [_Best(torch.full_like(c, torch.nan)) for c in center]

    def add(self, ahead: Leaves, behind: Leaves, h: float, eps: float) -> bool:
        """Add what was found with one step; say whether the errors are still falling."""
        row = [tuple((p - m) / (2 * h) for p, m in zip(ahead, behind, strict=True))]
        for j, before in enumerate(self.rows[-1][: _COLUMNS - 1] if self.rows else []):
            factor = _RATIO ** (2 * j + 2) - 1
            row.append(tuple(a + (a - b) / factor for a, b in zip(row[-1], before, strict=True)))
        bend = tuple(
            (p - 2 * c + m) / (2 * h) for p, c, m in zip(ahead, self.center, behind, strict=True)
        )
        self.rows.append(row)
        self.bends.append(bend)
        if len(self.rows) == 1:
            return True
        rounding = [eps * _largest(c) / h for c in self.center]
        return sum(self._improve(i, floor) for i, floor in enumerate(rounding)) > 0

    def _improve(self, i: int, rounding: float) -> bool:
        (*_, last, row), best = self.rows, self.best[i]
        # How the slopes ahead and behind differ falls with h where the function is smooth: what is
        # left at h = 0 is a kink, which central differences do not see.
        kink = _largest(_RATIO * self.bends[-1][i] - self.bends[-2][i]) / (_RATIO - 1)
        falling = kink < best.kink / 2
        best.kink = min(best.kink, kink)
        # Noise agrees with itself by chance, now and then: one step may not gain too much.
        least = rounding if best.error == float("inf") else max(rounding, best.error / 1024)
        for j in range(1, len(row)):
            spread = max(_largest(row[j][i] - row[j - 1][i]), _largest(row[j][i] - last[j - 1][i]))
            error = max(2 * spread, least)
            if error < best.error:
                falling |= error < best.error / 2
                best.value, best.error = row[j][i], error
        return falling

    def settled(self, tolerance: float) -> bool:
        """Whether all errors are below the tolerance."""
        return all(max(b.error, b.kink) <= tolerance * _largest(b.value) for b in self.best)


def _moved(f: Function, x: Leaves, u: Leaves, h: float) -> Leaves:
    return f(*(a + h * d for a, d in zip(x, u, strict=True)))


def _largest(x: Tensor) -> float:
    return float(x.detach().abs().max()) if x.numel() else 0.0


# -------------------------------------------------------------------------------- the public one


def finite_difference_jacobian(
    fn: Callable[..., Any], args: Any, argnum: int = 0, *, tolerance: float = 1e-6
) -> Any:
    """Compute a Jacobian by finite differences with respect to each entry of an argument.

    Parameters
    ----------
    fn : callable
        A function of tensors and pytrees of tensors.
    args : tuple
        The arguments to call it with.
    argnum : int, default 0
        Which argument to differentiate with respect to: a tensor or a pytree.
    tolerance : float, default 1e-6
        Which error, relative to the largest entry, is accepted without a warning.

    Returns
    -------
    Tensor or pytree
        It has the structure of ``torch.func.jacrev(fn, argnum)(*args)``.  For each tensor of the
        result, that is the structure of the argument, whose leaves have the shape of the result
        followed by that of the leaf.  For a complex leaf it is the complex derivative.

    Raises
    ------
    TypeError
        If there is nothing to differentiate.
    ValueError
        If a leaf is complex and the function is not holomorphic, so that no such derivative exists.

    Warns
    -----
    UserWarning
        If the function is too noisy for the tolerance.

    Notes
    -----
    It takes 6 to 24 evaluations for each entry of the argument, and twice as many if the entry is
    complex.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing import finite_difference_jacobian
    >>> x = torch.tensor([1.0, 2.0], dtype=torch.float64)
    >>> finite_difference_jacobian(lambda x: x**3, (x,)).round(decimals=6) + 0.0
    tensor([[ 3.,  0.],
            [ 0., 12.]], dtype=torch.float64)
    """
    args = args if isinstance(args, tuple) else (args,)
    if not -len(args) <= argnum < len(args):
        raise ValueError(f"argnum is one of the {len(args)} arguments; got {argnum}")
    argnum %= len(args)

    def of_one(argument: Any) -> Any:
        return fn(*args[:argnum], argument, *args[argnum + 1 :])

    problem = problem_of(of_one, (args[argnum],))
    columns = [_columns(problem.function, problem.x, i, tolerance) for i in range(len(problem.x))]
    spec: Any = optree.tree_structure(of_one(args[argnum]))
    outs = [problem.rebuild(leaves)[0] for leaves in zip(*columns, strict=True)]
    return outs[0] if spec.is_leaf() else optree.tree_unflatten(spec, outs)


def _columns(f: Function, x: Leaves, i: int, tolerance: float) -> list[Tensor]:
    """Return the Jacobians of all outputs with respect to leaf i."""
    slopes: list[Leaves] = []
    for k in range(x[i].numel()):
        # As long as the entry itself, which may be much smaller than the others.
        length = float(x[i].reshape(-1)[k].abs()) or size(x[i])
        step = torch.zeros_like(x[i], memory_format=torch.contiguous_format)
        step.view(-1)[k] = length
        slopes.append(tuple(s / length for s in _column(f, x, i, step, tolerance)))
    out = f(*x)
    if not slopes:
        return [o.new_zeros(*o.shape, *x[i].shape) for o in out]
    return [
        torch.stack(column, -1).reshape((*o.shape, *x[i].shape))
        for o, column in zip(out, zip(*slopes, strict=True), strict=True)
    ]


def _column(f: Function, x: Leaves, i: int, step: Tensor, tolerance: float) -> Leaves:
    def derivative(u: Tensor) -> Estimate:
        still = tuple(torch.zeros_like(a) for a in x)
        estimate = along(f, x, (*still[:i], u, *still[i + 1 :]), tolerance * 1e-3)
        for value, error, _ in zip(*estimate, strict=True):
            if not error <= tolerance * max(_largest(value), size(value)):  # NaN is not
                warnings.warn(
                    f"differences agree to {error:.1e} only, at a derivative of size "
                    f"{_largest(value):.1e}: the function is noisy, or not smooth, here",
                    stacklevel=5,
                )
        return estimate

    real = derivative(step)
    if step.is_complex():
        turned = derivative(1j * step)
        for a, b, error in zip(real.value, turned.value, turned.error, strict=True):
            if _largest(b - 1j * a) > 10 * error + tolerance * _largest(a):
                raise ValueError(
                    "the function is not holomorphic, so it has no complex derivative; see it as "
                    "one of reals with torch.view_as_real"
                )
    return real.value
