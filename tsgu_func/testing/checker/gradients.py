"""The gradient of a function against that of a reference."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from tsgu_func.testing.checker.comparison import Comparison, Tolerance, Verdict, judge
from tsgu_func.testing.checker.problem import problem_of
from tsgu_func.testing.checker.report import RuleError
from tsgu_func.testing.checker.transforms import backward

__all__ = ["assert_grad_matches"]


def assert_grad_matches(
    fn: Callable[..., Any],
    args: Any,
    reference: Callable[..., Any],
    *,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
) -> None:
    r"""Assert that a function has the same value and the same gradient as a reference.

    Parameters
    ----------
    fn, reference : callable
        Functions of the same tensors and pytrees of tensors.
    args : tuple
        The arguments to call them with.  Gradients are taken with respect to every floating-point
        or complex tensor among them.
    rtol : float, optional
        Tolerance relative to the largest entry.  Default: the square root of the rounding unit.
    atol : float, optional
        Absolute tolerance.  Default: 0, and what rounding explains is allowed in any case.
    seed : int
        The seed of the cotangent.

    Raises
    ------
    RuleError
        An ``AssertionError`` that names the argument and the entry.

    Notes
    -----
    It compares the values, and the pullbacks :math:`J^H G` that ``torch.autograd`` computes for a
    random cotangent G of all results.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing import assert_grad_matches
    >>> x = torch.tensor([1.0, 2.0])
    >>> assert_grad_matches(torch.tan, (x,), lambda x: x.sin() / x.cos())
    """
    problem = problem_of(fn, args, reference=reference, seed=seed)
    tolerance = Tolerance.of(problem.eps, rtol, atol)
    f, g, x, w = problem.function, problem.reference, problem.x, problem.directions()
    assert g is not None
    names = [f"tensor {i} that comes out" for i in range(len(w.scale))]
    _compare(f(*x), g(*x), names, tolerance)
    names = [f"the gradient with respect to {name}" for name in problem.names]
    _compare(backward(f, x, w), backward(g, x, w), names, tolerance)


def _compare(got: Any, expected: Any, names: list[str], tolerance: Tolerance) -> None:
    finding = judge(Comparison(got, expected, tolerance.exact), tolerance.absolute)
    if finding.verdict is not Verdict.HOLDS:
        at = f" at {list(finding.index)}" if finding.index else ""
        raise RuleError(
            f"{names[finding.leaf]}{at}: expected {finding.expected}, got {finding.got}; "
            f"{finding.detail}"
        )
