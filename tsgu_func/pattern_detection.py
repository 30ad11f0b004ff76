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
    """Find where the Jacobian of a function may have entries, without computing any of them.

    The program that computes the derivative is recorded, and it is followed through this program
    which inputs each number depends on.  So the pattern is never too small: an entry that is not in
    it is zero for all inputs of the same shapes.  It may be too large, because the values of
    numbers are not looked at: entries that cancel, or are multiplied by zero, are in the pattern
    too.

    Parameters
    ----------
    f : callable
        A function of tensors, or pytrees of them, that returns a tensor or a pytree of tensors.
        Index tensors and masks that it uses from outside count as constants.
    *args : Any
        The arguments of f.  Of tensors, only shapes, dtypes and devices are used.
    argnums : int or tuple of int
        The arguments to differentiate with respect to.
    has_aux : bool
        Whether f returns a pair whose second element is not differentiated.
    detect : {"global", "local"}
        With "global", the pattern is right for all inputs.  Then f must not look at numbers that
        depend on its inputs, as an ``if`` does: that is an error.  With "local", f is traced at
        these arguments, and the pattern is right for all inputs for which f takes the same
        branches.  The ``repr`` of such a pattern says so.
    unknown : {"error", "dense"}
        What to do about an op that is not known: raise an error, or count each of its outputs as
        depending on everything that its arguments depend on.

    Returns
    -------
    SparsityPattern
        Its rows are the elements of the output, and its columns those of the arguments.  They are
        numbered as by ``ravel``.  The leaves of a pytree come one after the other, and several
        arguments in the order of `argnums`.

    Raises
    ------
    ValueError
        If f looks at numbers that depend on its inputs (see `detect`), if an option is not one of
        those above, or if the derivative has more entries than a pattern can store.
    NotImplementedError
        If an op is not known (see `unknown`).
    TypeError
        If what is differentiated, or an output, is not a tensor of floating-point or complex
        numbers.

    Notes
    -----
    Time and memory are linear in the number of ops of f, the sizes of their results, and the
    number of entries of their patterns.

    The program that is followed is a product of the Jacobian with a vector, in forward mode, where
    each element of the vector counts as an input of its own.  If f has no rule for forward mode, it
    is a product from the left, in reverse mode.  `sparse_jacobian` then uses reverse mode as well,
    if it detects the pattern itself; if you pass it the pattern, pass ``mode="reverse"`` too.

    These are the rules for ops.  Ops that only move elements are run on positions.  If a result is
    selected by an index that is computed from the inputs, it depends on everything that the index
    may select.  The results of linear algebra depend on whole matrices, and those of a `Primitive`
    on what its `Primitive.dependence` says.

    To detect patterns on the program of the derivative is due to the authors of asdex.  To follow
    index sets is from Walther, *Computing sparse Hessians with automatic differentiation*, ACM TOMS
    34, 2008.

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
    """Find where the Hessian of a scalar function may have entries, without computing any of them.

    This is `jacobian_pattern` of the gradient.  The pattern is symmetric.

    Parameters
    ----------
    f : callable
        A function that returns a tensor without axes or, with `has_aux`, a pair of such a tensor
        and anything else.
    *args, argnums, has_aux, detect, unknown
        As for `jacobian_pattern`.

    Returns
    -------
    SparsityPattern
        It is square, with a row and a column for each element of the arguments.

    Raises
    ------
    ValueError, NotImplementedError, TypeError
        As for `jacobian_pattern`.  A ValueError also if f does not return a scalar.

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
