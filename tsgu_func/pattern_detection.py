"""Where the Jacobian or the Hessian of a function may have entries."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch

from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.registration.transforms import outside_transforms

__all__ = ["hessian_pattern", "jacobian_pattern"]


def jacobian_pattern(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    detect: str = "global",
    unknown: str = "error",
) -> SparsityPattern:
    """Find where the Jacobian of a function may have entries, without computing any.

    The program of the derivative is recorded, and which inputs each number in it depends on is
    followed through it.  So the pattern is never too small: an entry that is not in it is zero
    for all inputs of these shapes.  It may be too large, since numbers are not looked at: an entry
    that cancels, or is multiplied by a zero, counts.

    Parameters
    ----------
    f : callable
        A function of tensors or pytrees of them, which returns one tensor or a pytree of them.
        Index tensors and masks that it is closed over count as constants.
    *args : Any
        Arguments of f; only shapes, dtypes and devices of tensors are used.
    argnums : int or tuple of int
        Which of them are differentiated with respect to.
    has_aux : bool
        Whether f returns a pair, of which the second is no output.
    detect : {"global", "local"}
        With "global" the pattern is right for all inputs, and f may not look at numbers that
        depend on them: an ``if`` is an error.  With "local" f is traced at these arguments, and the
        pattern is right wherever f takes the same branches; the ``repr`` of the pattern says so.
    unknown : {"error", "dense"}
        What becomes of an op that nothing is known of: an error, or each of its outputs depends on
        all that its arguments depend on.

    Returns
    -------
    SparsityPattern
        Of the shape (elements of the output, elements of the arguments).  Elements are numbered as
        ``ravel`` does, leaves of a pytree one after the other, arguments in the order of `argnums`.

    Raises
    ------
    ValueError
        If f looks at numbers that depend on its inputs (see `detect`), or an option is not one of
        the above, or the derivative has more entries than a pattern can store.
    NotImplementedError
        If an op has no rule (see `unknown`).
    TypeError
        If what is differentiated, or an output, is no tensor of floating-point or complex numbers.

    Notes
    -----
    Time and memory are linear in the ops of f, the sizes of their results, and the entries of
    their patterns.

    What is followed is a product of the Jacobian with a vector (forward mode), where each element
    of the vector is an input of its own; or, for functions with no rule for that, a product from
    the left.  `sparse_jacobian` that detects a pattern takes what was found to be there; where it
    is given one, pass ``mode="reverse"`` for such functions.

    Ops that only move elements are run on positions; a result that is indexed by something computed
    of the inputs depends on all that the index may choose; ops of linear algebra depend on whole
    matrices, and `Primitive` ops on what their `Primitive.dependence` says.

    Detection on the program of the derivative is due to the authors of asdex; following index sets
    is from Walther, *Computing sparse Hessians with automatic differentiation*, ACM TOMS 34, 2008.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import jacobian_pattern
    >>> pattern = jacobian_pattern(lambda x: x[1:] * x[:-1], torch.zeros(4))
    >>> pattern.row, pattern.col
    (tensor([0, 0, 1, 1, 2, 2], dtype=torch.int32), tensor([0, 1, 1, 2, 2, 3], dtype=torch.int32))
    """
    return detected(False, f, args, argnums, has_aux, detect, unknown)[0]


def hessian_pattern(
    f: Callable[..., Any],
    *args: Any,
    argnums: int | tuple[int, ...] = 0,
    has_aux: bool = False,
    detect: str = "global",
    unknown: str = "error",
) -> SparsityPattern:
    """Find where the Hessian of a scalar function may have entries, without computing any.

    As `jacobian_pattern`, of the gradient; the pattern is symmetric.

    Parameters
    ----------
    f : callable
        A function that returns a tensor with one element and no axes; with `has_aux`, a pair of it
        and anything else.
    *args, argnums, has_aux, detect, unknown
        As for `jacobian_pattern`.

    Returns
    -------
    SparsityPattern
        Square, with a row and a column for each element of the arguments.

    Raises
    ------
    ValueError, NotImplementedError, TypeError
        As `jacobian_pattern`; and a ValueError if f is not scalar.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import hessian_pattern
    >>> pattern = hessian_pattern(lambda x: (x[1:] * x[:-1]).sum(), torch.zeros(3))
    >>> pattern.row, pattern.col
    (tensor([0, 1, 1, 2], dtype=torch.int32), tensor([1, 0, 2, 1], dtype=torch.int32))
    """
    return detected(True, f, args, argnums, has_aux, detect, unknown)[0]


def detected(
    hessian: bool,
    f: Callable[..., Any],
    args: Sequence[Any],
    argnums: int | tuple[int, ...],
    has_aux: bool,
    detect: str = "global",
    unknown: str = "error",
) -> tuple[SparsityPattern, bool]:
    """Return a pattern, and whether it was detected in reverse mode for want of a forward rule."""
    from tsgu_func.derivatives.detection import tracing
    from tsgu_func.derivatives.detection.calls import Call

    if torch.compiler.is_compiling():
        raise RuntimeError(
            "a sparsity pattern cannot be detected inside of a compiled function: detect it "
            "outside, and hand it over"
        )
    _check_choice("detect", detect, ("global", "local"))
    _check_choice("unknown", unknown, ("error", "dense"))
    call = Call(f, args, argnums, has_aux, hessian)
    of = tracing.gradient if hessian else tracing.jacobian
    problem = tracing.Problem(call, call.inputs, call.others, detect == "local", unknown)
    found = tracing.places(problem, of)
    with outside_transforms():
        pattern = (found.symmetric() if hessian else found).pattern().to(call.device)
    pattern.detected = "" if detect == "global" else "locally"
    return pattern, found.reverse


def _check_choice(name: str, given: str, choices: tuple[str, ...]) -> None:
    if given not in choices:
        raise ValueError(f"{name} is {' or '.join(map(repr, choices))}; got {given!r}")
