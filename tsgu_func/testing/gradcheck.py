"""`check_rules` for those who have tests with ``torch.autograd.gradcheck``."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor
from torch.autograd.gradcheck import GradcheckError as TorchGradcheckError

from tsgu_func.testing.checker.check_rules import check_rules
from tsgu_func.testing.checker.checks import CHECKS
from tsgu_func.testing.checker.comparison import Verdict
from tsgu_func.testing.checker.problem import inner, leaves_of, problem_of
from tsgu_func.testing.checker.programs import name_of
from tsgu_func.testing.checker.report import Cell, Report, RuleError

__all__ = ["GradcheckError", "gradcheck", "gradgradcheck"]

# Cells that gradcheck runs where it is asked to, or never.
_ASKED_FOR = ("is_grads_batched", "linearize", "vjp is linear")


class GradcheckError(RuleError, TorchGradcheckError):
    """A derivative is wrong or could not be judged.  The message is the report.

    It is an ``AssertionError``, like the error of `assert_rules`, and also a
    ``torch.autograd.gradcheck.GradcheckError``.
    """


def gradcheck(
    fn: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    *,
    eps: float = 1e-6,
    atol: float | None = None,
    rtol: float | None = None,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_batched_forward_grad: bool = False,
    check_forward_ad: bool = False,
    check_backward_ad: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Check first derivatives, as ``torch.autograd.gradcheck`` does, but more closely.

    It takes the same arguments as PyTorch's function, and returns the same, so in a test only the
    import changes.  The checks are those of `check_rules`.

    Parameters
    ----------
    fn : callable
        A function of tensors that returns a tensor or a tuple of tensors.  Results without
        ``requires_grad`` count as constants, unless no result has it.
    inputs : Tensor or sequence
        Derivatives are taken with respect to the tensors with ``requires_grad=True``.  Lower
        precisions are converted to double precision, if fn accepts that.
    eps : float
        Accepted, but not used: steps are chosen for each function, and their error is estimated.
    atol, rtol : float, optional
        Tolerances.  The defaults are those of `check_rules`, which are far tighter than PyTorch's
        1e-5 and 1e-3.
    raise_exception : bool
        Whether to raise an error instead of returning False.
    nondet_tol : float
        How far apart the results of two runs may be, beyond rounding.
    check_undefined_grad : bool
        Whether to check the gradient of each single number of the result, and of each tensor of the
        result, while the other tensors have no cotangent.
    check_grad_dtypes : bool
        Accepted, but not used: dtypes are always compared.
    check_batched_grad : bool
        Whether to check ``torch.autograd.grad(is_grads_batched=True)``.
    check_batched_forward_grad : bool
        Whether to check a batch of tangents.
    check_forward_ad, check_backward_ad : bool
        Which modes of differentiation are checked.
    fast_mode : bool
        Whether to leave out the whole Jacobian, unless `check_undefined_grad` asks for it.
        Derivatives along random directions, to which every entry contributes, are always checked.
    masked : bool, optional
        This is about torch sparse tensors, which are not accepted here, so it must not be True.

    Returns
    -------
    bool
        True if every cell that was run holds.

    Raises
    ------
    GradcheckError
        If a derivative is wrong, or cannot be judged because the function is noisy or not smooth at
        this point.
    ValueError
        If no input requires a gradient, or options contradict each other.
    TypeError
        If an input is a torch sparse tensor, or no result is floating-point or complex.

    Notes
    -----
    If ``torch.func`` cannot differentiate fn, because it is an ``autograd.Function`` without
    ``setup_context``, only plain autograd is checked.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing import gradcheck
    >>> x = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    >>> gradcheck(torch.sin, (x,), check_forward_ad=True)
    True
    >>> halved = lambda x: x.square() / 2 + x.square().detach() / 2      # half of the gradient
    >>> gradcheck(halved, (x,), raise_exception=False)
    False
    """
    _refuse_masked(masked)
    _need("check_forward_ad or check_backward_ad", check_forward_ad or check_backward_ad)
    _need("check_backward_ad, for check_batched_grad", check_backward_ad or not check_batched_grad)
    _need(
        "check_forward_ad, for check_batched_forward_grad",
        check_forward_ad or not check_batched_forward_grad,
    )
    letters = "r" * check_backward_ad + "f" * check_forward_ad
    extra = {
        "is_grads_batched": check_batched_grad,
        "vjp is linear": check_backward_ad and check_undefined_grad,
        "functional.jacobian": check_backward_ad and (check_undefined_grad or not fast_mode),
        "functional.jacobian, vectorized": check_batched_forward_grad,
    }
    cells = [*_first_order(letters), *(name for name, wanted in extra.items() if wanted)]
    function, args = _of_moving(fn, _as_tuple(inputs))
    report = _report(name_of(fn), function, args, cells, (atol, rtol, nondet_tol))
    return _told(report, raise_exception)


def gradgradcheck(
    fn: Callable[..., Any],
    inputs: Tensor | Sequence[Any],
    grad_outputs: Tensor | Sequence[Tensor] | None = None,
    *,
    eps: float = 1e-6,
    atol: float | None = None,
    rtol: float | None = None,
    gen_non_contig_grad_outputs: bool = False,
    raise_exception: bool = True,
    nondet_tol: float = 0.0,
    check_undefined_grad: bool = True,
    check_grad_dtypes: bool = False,
    check_batched_grad: bool = False,
    check_fwd_over_rev: bool = False,
    check_rev_over_rev: bool = True,
    fast_mode: bool = False,
    masked: bool | None = None,
) -> bool:
    """Check second derivatives, as ``torch.autograd.gradgradcheck`` does, but more closely.

    Parameters
    ----------
    fn, inputs, eps, atol, rtol, raise_exception, nondet_tol, check_grad_dtypes, masked
        As for `gradcheck`.
    grad_outputs : Tensor or sequence, optional
        The cotangents of the results.  By default they are random.
    gen_non_contig_grad_outputs : bool
        Whether to check first derivatives with cotangents that are not contiguous.
    check_undefined_grad : bool
        As for `gradcheck`, for first derivatives.
    check_batched_grad : bool
        Whether to check a batch of cotangents.
    check_fwd_over_rev, check_rev_over_rev : bool
        Which ways to differentiate twice are checked.
    fast_mode : bool
        Accepted, but not used: second derivatives are always taken along random directions.

    Returns
    -------
    bool
        True if every cell that was run holds.

    Raises
    ------
    GradcheckError, ValueError, TypeError
        As for `gradcheck`.

    Notes
    -----
    The first derivative is also differentiated with respect to its cotangent: the function that is
    differentiated twice is fn followed by a sine.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing import gradgradcheck
    >>> x = torch.tensor([0.5, 2.0], dtype=torch.float64, requires_grad=True)
    >>> gradgradcheck(torch.sin, x, check_fwd_over_rev=True)
    True
    """
    _refuse_masked(masked)
    _need("check_fwd_over_rev or check_rev_over_rev", check_fwd_over_rev or check_rev_over_rev)
    _need(
        "check_rev_over_rev, for check_batched_grad", check_rev_over_rev or not check_batched_grad
    )
    wanted = {
        "rr": check_rev_over_rev,
        "double backward": check_rev_over_rev,
        "backward through vjp": check_rev_over_rev,
        "fr": check_fwd_over_rev,
        "jacrev(jacrev)": check_batched_grad,
        "functional.jacobian": check_undefined_grad,
        "vjp of strided arguments": gen_non_contig_grad_outputs,
    }
    cells = ["backward", *(name for name, is_wanted in wanted.items() if is_wanted)]
    function, args = _of_moving(fn, _as_tuple(inputs))
    if grad_outputs is not None:
        function = _weighed(function, args, _as_tuple(grad_outputs))
    if _refusal_of_func(function, args) is not None and check_rev_over_rev:
        # The cells have torch.func for an oracle: plain autograd is differentiated by differences.
        function, args = _pullback(function, args)
        cells = ["backward", *(["fr"] if check_fwd_over_rev else [])]
    report = _report(name_of(fn), function, args, cells, (atol, rtol, nondet_tol))
    return _told(report, raise_exception)


# ------------------------------------------------------------------------------------- options


def _need(what: str, given: object) -> None:
    if not given:
        raise ValueError(f"this takes {what}; it is False")


def _refuse_masked(masked: bool | None) -> None:
    if masked:
        raise ValueError(
            "masked=True is about torch.sparse tensors, which are not taken: differentiate with "
            "respect to the values of a tsgu_func.SparseMatrix"
        )


def _first_order(letters: str) -> Iterable[str]:
    """Return all cells of first order in these modes, but for those that must be asked for."""
    for check in CHECKS.values():
        if check.group not in ("value", "first", "eager") or check.name in _ASKED_FOR:
            continue
        if check.order <= 1 and set(check.modes) <= set(letters) and check.name != "repeatable":
            yield check.name


# ------------------------------------------------------------------------------------- the run


def _as_tuple(x: Any) -> tuple[Any, ...]:
    return tuple(x) if isinstance(x, (tuple, list)) else (x,)


def _of_moving(
    fn: Callable[..., Any], inputs: tuple[Any, ...]
) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """See fn as a function of the inputs that move, without constant outputs; and these inputs."""
    moving = [i for i, a in enumerate(inputs) if isinstance(a, Tensor) and a.requires_grad]
    if not moving:
        raise ValueError("no input has requires_grad=True: mark those to differentiate")
    args = tuple(inputs[i].detach() for i in moving)
    out = fn(*inputs)
    kept = [isinstance(a, Tensor) and a.requires_grad for a in _as_tuple(out)]
    several = not isinstance(out, Tensor) and any(kept) and not all(kept)
    if len(moving) == len(inputs) and not several:
        return fn, args  # itself: the report can name it

    def function(*x: Tensor) -> Any:
        whole = list(inputs)
        for i, a in zip(moving, x, strict=True):
            whole[i] = a
        out = fn(*whole)
        return tuple(a for a, keep in zip(out, kept, strict=True) if keep) if several else out

    return function, args


def _weighed(
    fn: Callable[..., Any], args: tuple[Tensor, ...], cts: tuple[Tensor, ...]
) -> Callable[..., Any]:
    """Return the number of which the gradient is the pullback of given cotangents."""
    shapes, given = ([tuple(a.shape) for a in x] for x in (leaves_of(fn(*args)), cts))
    if shapes != given:
        raise ValueError(f"grad_outputs have the shapes of what comes out, {shapes}; got {given}")
    return lambda *x: inner([ct.detach() for ct in cts], leaves_of(fn(*x)))


def _report(
    name: str,
    fn: Callable[..., Any],
    args: tuple[Tensor, ...],
    cells: Sequence[str],
    tolerances: tuple[float | None, float | None, float],
) -> Report:
    atol, rtol, noise = tolerances
    if len({a.is_complex() for a in args}) > 1:
        fn, args = _as_pairs(fn, args)
    wide = torch.complex128 if args[0].is_complex() else torch.float64
    dtypes = dict.fromkeys((wide, args[0].dtype))
    # What an absolute tolerance allows to a derivative it does not allow to a second run.
    again = check_rules(
        fn, args, transforms=("repeatable",), dtypes=dtypes, rtol=rtol, atol=noise or None
    )
    atol = max(atol or 0.0, noise) or None
    rest = check_rules(fn, args, transforms=cells, dtypes=dtypes, rtol=rtol, atol=atol)
    return Report(name, (*again.cells, *_by_autograd(fn, args, rest.cells)))


def _told(report: Report, raise_exception: bool) -> bool:
    if raise_exception and not report.holds:
        raise GradcheckError(f"\n{report}")
    return report.holds


def _as_pairs(
    fn: Callable[..., Any], args: tuple[Tensor, ...]
) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """See complex arguments as pairs of reals: those beside them are real and must stay so."""
    was = [a.is_complex() for a in args]

    def function(*x: Tensor) -> Any:
        both = zip(x, was, strict=True)
        return fn(*(torch.complex(a[..., 0], a[..., 1]) if c else a for a, c in both))

    return function, tuple(
        torch.view_as_real(a.resolve_conj()) if a.is_complex() else a for a in args
    )


def _pullback(
    fn: Callable[..., Any], args: tuple[Tensor, ...]
) -> tuple[Callable[..., Any], tuple[Tensor, ...]]:
    """See the pullback by plain autograd as a function of the point and the cotangents."""
    n = len(args)

    def pullback(*both: Tensor) -> tuple[Tensor, ...]:
        with torch.enable_grad():
            x = [a if a.requires_grad else a.detach().requires_grad_() for a in both[:n]]
            out = leaves_of(fn(*x))
            graph = any(a.requires_grad for a in both)
            return torch.autograd.grad(
                out, x, both[n:], create_graph=graph, allow_unused=True, materialize_grads=True
            )

    return pullback, (*args, *problem_of(fn, args).directions().ct_out[0])


def _by_autograd(
    fn: Callable[..., Any], args: tuple[Tensor, ...], cells: tuple[Cell, ...]
) -> list[Cell]:
    """Leave out the cells of torch.func, where torch.func does not take the function at all."""
    reason = _refusal_of_func(fn, args)
    if reason is None:
        return list(cells)
    text = f"torch.func does not take this function: {reason}"
    return [_not_run(cell, text) if cell.group == "first" else cell for cell in cells]


def _refusal_of_func(fn: Callable[..., Any], args: tuple[Tensor, ...]) -> str | None:
    try:
        torch.func.vjp(problem_of(fn, args).function, *args)
    except Exception as error:  # reported with the cells that are not run for it
        return f"{type(error).__name__}: {error}".splitlines()[0]
    return None


def _not_run(cell: Cell, reason: str) -> Cell:
    return replace(cell, verdict=Verdict.NOT_RUN, detail=reason, counterexample=None)
