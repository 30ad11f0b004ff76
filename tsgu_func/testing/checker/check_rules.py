"""Check every derivative and batching rule of a function."""

from __future__ import annotations

import cmath
import functools
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Any

import optree
import torch

from tsgu_func.testing.checker.checks import CHECKS, Check
from tsgu_func.testing.checker.comparison import Finding, Verdict, judge_all
from tsgu_func.testing.checker.doubts import judged
from tsgu_func.testing.checker.precision import PRECISION, Rounding
from tsgu_func.testing.checker.probe import Probe, old_style
from tsgu_func.testing.checker.problem import Problem, UnknownNameError, problem_of
from tsgu_func.testing.checker.programs import name_of, program
from tsgu_func.testing.checker.report import Cell, Counterexample, Report
from tsgu_func.testing.checker.shrink import Shrinking

__all__ = ["GROUPS", "check_rules", "iterate_cells", "plan"]

GROUPS = (
    "value",
    "first",
    "higher",
    "eager",
    "jacobian",
    "vmap",
    "opcheck",
    "compile",
    "precision",
)
_LETTERS = {"forward": "f", "reverse": "r"}
_LARGEST_JACOBIAN = 10**6
_WIDE = (torch.float64, torch.complex128)
_CTX = "torch.func takes an autograd.Function only if it has setup_context beside forward"
_DEFAULT = (torch.float64, torch.complex128, torch.float32, torch.float16, torch.bfloat16)
_DEFAULT_COMPLEX = (torch.complex128, torch.complex64)


@dataclass(frozen=True)
class Settings:
    """What `check_rules` was asked for."""

    order: int
    letters: frozenset[str]
    chosen: frozenset[str]
    dtypes: tuple[torch.dtype, ...]
    rtol: float | None
    atol: float | None
    seed: int
    constant: tuple[str, ...] = ()
    randomness: str = "error"


def check_rules(
    fn: Callable[..., Any],
    args: Any,
    *,
    order: int = 2,
    modes: Iterable[str] = ("forward", "reverse"),
    transforms: Iterable[str] = GROUPS,
    dtypes: Iterable[torch.dtype] | None = None,
    reference: Callable[..., Any] | None = None,
    rtol: float | None = None,
    atol: float | None = None,
    seed: int = 0,
    constant: Iterable[str] = (),
    randomness: str = "error",
) -> Report:
    r"""Check whether every derivative and every batch of a function is right.

    Derivatives are compared with finite differences, batches with a loop, and compiled functions
    with the function that is not compiled.

    Parameters
    ----------
    fn : callable
        A function of tensors and pytrees of tensors: an op of ``torch.library``, the ``apply`` of a
        ``torch.autograd.Function``, a `tsgu_func.Primitive`, a plain function.
    args : tuple or list
        The arguments to call it with.  Derivatives are taken at this point, with respect to every
        floating-point or complex tensor among them.  A `tsgu_func.SparseMatrix` may be an argument;
        a torch sparse tensor may not.
    order : {1, 2, 3}, default 2
        Up to which order derivatives are checked, in all mixes of forward and reverse mode.
    modes : iterable of {"forward", "reverse"}
        Which modes of differentiation are checked.
    transforms : iterable of str
        What is checked: groups of cells, or single cells by their names in the report.  The groups:

        ``value``
            The function gives the same result twice, leaves its arguments alone, and gives the same
            for strided and for lazily conjugated arguments.
        ``first``
            jvp and vjp, compared with finite differences along random directions, and with each
            other.
        ``higher``
            Each mix of forward and reverse mode (``fr`` is forward over reverse), compared with
            finite differences of the derivative inside of it.
        ``eager``
            `backward`, double backward, ``forward_ad``, checkpointing and more, compared with
            ``torch.func``.
        ``jacobian``
            `jacrev`, `jacfwd`, `hessian` and their compositions, with all entries.
        ``vmap``
            Over each argument, over pairs and over all of them, nested, around derivatives and
            inside of them, compared with a loop.
        ``opcheck``
            ``torch.library.opcheck`` of each custom op that is called.
        ``compile``
            Inside of ``torch.compile(fullgraph=True)``, compared with outside.
        ``precision``
            Lower precisions, compared with double precision, and the dtypes of the results.
    dtypes : iterable of torch.dtype, optional
        The arguments are converted to each of these.  With float64 and complex128 all cells are
        run, and with lower precisions those of ``precision``.  Default: the five common dtypes, or
        complex128 and complex64 if the arguments are complex.  A dtype that `fn` does not accept is
        reported as not run.
    reference : callable, optional
        Another function of the same arguments.  All results of `fn` are compared with its results
        as well.
    rtol : float, optional
        Relative tolerance.  Default: the square root of the rounding unit; where results are
        compared with finite differences, its power 2/5.
    atol : float, optional
        Absolute tolerance.  Default: 0, and what rounding explains is allowed in any case.
    seed : int
        The seed of random directions and batches.
    constant : iterable of str
        Arguments and results, or parts of them, that are not to be differentiated, such as
        ``"args[1]"``, ``"args[0]['mask']"``, ``"out[1]"`` or ``"out.mean"``, where ``"out"`` is
        what `fn` returns.  The values of such results are still checked.
    randomness : {"error", "same", "different"}
        What ``vmap`` does with random functions; it is passed on to it.

    Returns
    -------
    Report
        It has a cell for each check and dtype, which holds, fails, raises, cannot be told (because
        the function is too noisy, or not smooth at this point), or was not run.

    Raises
    ------
    ValueError
        If an option is not one of those above, or an argument is not finite.
    TypeError
        If nothing in `args` or in the result can be differentiated.

    Notes
    -----
    For a function f, a direction u and a cotangent G, with J the Jacobian at the given point,

    .. math:: \mathtt{jvp} = J u, \qquad \mathrm{Re}\langle G, J u\rangle =
        \mathrm{Re}\langle \mathtt{vjp}(G), u\rangle,

    which is PyTorch's convention for complex numbers.  J u is computed by central differences with
    extrapolation (Ridders, 1982), and their error is estimated.  For higher orders, they are
    differences of the derivative inside.  Because the directions are random, an error in any entry
    shows.  Higher derivatives are taken of ``sin(f)``, scaled, so that those of a linear function
    are not all zero.

    This takes a few hundred evaluations of `fn`, and compilations (the group ``compile`` takes most
    of the time).  The cells of ``jacobian`` take the memory of the whole Jacobian.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing import check_rules
    >>> class Wrong(torch.autograd.Function):
    ...     @staticmethod
    ...     def forward(ctx, x):
    ...         ctx.save_for_backward(x)
    ...         return x**3
    ...     @staticmethod
    ...     def backward(ctx, ct):
    ...         (x,) = ctx.saved_tensors
    ...         return 2 * ct * x**2               # 3, not 2
    >>> x = torch.tensor([1.0, 2.0])
    >>> report = check_rules(Wrong.apply, (x,), transforms=["backward"], dtypes=[torch.float64])
    >>> report.holds
    False
    """
    args = tuple(args) if isinstance(args, list) else args
    settings = _settings(order, modes, transforms, dtypes, rtol, atol, seed, args)
    settings = replace(settings, **_kinds(constant, randomness))
    if not all(bool(torch.isfinite(a).all()) for a in _problem(fn, args, settings).x):
        raise ValueError("args hold NaN or infinity, where no derivative can be checked")
    cells = tuple(iterate_cells(fn, args, settings, reference))
    return Report(name_of(fn), cells)


def plan(settings: Settings) -> list[Check]:
    """Return the checks that the settings ask for."""
    chosen = settings.chosen
    return [
        c
        for c in CHECKS.values()
        if (c.group in chosen or c.name in chosen)
        and c.order <= settings.order
        and settings.letters.issuperset(c.modes)
    ]


def iterate_cells(
    fn: Callable[..., Any], args: Any, settings: Settings, reference: Callable[..., Any] | None
) -> Iterator[Cell]:
    """Yield the cells one by one."""
    wide = [d for d in settings.dtypes if d in _WIDE]
    ran, shrinking = False, Shrinking()
    for dtype in wide:
        problem = _problem(fn, args, settings, dtype=dtype, reference=reference)
        refusal = _refusal(problem)
        if refusal is not None:
            yield Cell("value", "value", _text(dtype), Verdict.NOT_RUN, refusal)
            continue
        ran = True
        yield from _cells(fn, problem, settings, dtype, shrinking)
    if wide and not ran and _own_dtype(fn, args) in settings.dtypes:
        # No double precision is to be had: all checks in the dtypes of the arguments.
        problem = _problem(fn, args, settings, reference=reference)
        problem.function(*problem.x)  # raises what it has to say
        yield from _cells(fn, problem, settings, problem.dtype, shrinking)
    if "precision" in settings.chosen:
        for dtype in settings.dtypes:
            if dtype not in _WIDE:
                yield from _precision(fn, args, dtype, settings)


def _own_dtype(fn: Callable[..., Any], args: Any) -> torch.dtype | None:
    """Return the dtype of the arguments, if it is not one of double precision."""
    dtype = problem_of(fn, args).dtype
    return None if dtype in _WIDE else dtype


def _problem(fn: Callable[..., Any], args: Any, settings: Settings, **options: Any) -> Problem:
    known = {"seed": settings.seed, "order": settings.order, "constant": settings.constant}
    return problem_of(fn, args, randomness=settings.randomness, **known | options)


def _refusal(problem: Problem) -> str | None:
    """Say why a function does not take a dtype, if so."""
    try:
        out = problem.function(*problem.x)
    except UnknownNameError:
        raise
    except Exception as error:  # whatever it says, it is reported
        return f"not taken: {_first_line(error)}"
    if not out:
        raise TypeError("what comes out of fn holds no floating or complex tensor that varies")
    return None


# ------------------------------------------------------------------------------------ one cell


def _cells(
    fn: Callable[..., Any],
    problem: Problem,
    settings: Settings,
    dtype: torch.dtype,
    shrinking: Shrinking,
) -> Iterator[Cell]:
    """Run the checks, which share what finite differences tell."""
    probe = Probe(problem, settings.rtol, settings.atol)
    for check in plan(settings):
        if len(problem.x) < check.least:
            continue
        known = (check.name, check.group, _text(dtype))
        if reason := _why_not(problem, check):
            yield Cell(*known, Verdict.NOT_RUN, reason)
            continue
        finding, small = _run(probe, check), problem
        if finding.verdict is Verdict.FAILS:
            finding, small = _smaller(problem, check, finding, shrinking, settings)
        yield Cell(*known, finding.verdict, finding.detail, _example(
            small, finding, _program(fn, small, check.name, settings, dtype)
        ))  # fmt: skip


def _smaller(
    problem: Problem, check: Check, finding: Finding, shrinking: Shrinking, settings: Settings
) -> tuple[Finding, Problem]:
    """Return the failure in a smaller case."""

    def run(other: Problem) -> Finding:
        return _run(Probe(other, settings.rtol, settings.atol), check)

    small = shrinking.smallest(
        problem,
        lambda other: _alike(finding, run(other)),
        lambda other: _alike(finding, run(other), moved=True),
    )
    return (finding if small is problem else run(small)), small


def _alike(first: Finding, other: Finding, moved: bool = False) -> bool:
    """Whether it is the same failure.

    NaN stays NaN, and in place of a number that is not zero; so it does at another point.
    """
    if other.verdict is not Verdict.FAILS or _finite(first) != _finite(other):
        return False
    if moved or not all(_finite(first)):
        return bool(first.expected) <= bool(other.expected)
    return True


def _finite(finding: Finding) -> list[bool]:
    return [z is None or cmath.isfinite(z) for z in (finding.got, finding.expected)]


def _example(problem: Problem, finding: Finding, again: str) -> Counterexample | None:
    if finding.verdict in (Verdict.HOLDS, Verdict.NOT_RUN):
        return None
    if finding.verdict is not Verdict.FAILS:
        return Counterexample(program=again)
    return Counterexample(_where(problem, finding), finding.expected, finding.got, again)


def _run(probe: Probe, check: Check) -> Finding:
    try:
        return judged(check, probe)
    except Exception as error:  # reported in the cell, with its type and message
        if old_style(error):
            return Finding(Verdict.NOT_RUN, _CTX)
        return Finding(Verdict.RAISES, _first_line(error))


def _why_not(problem: Problem, check: Check) -> str | None:
    if check.backend is not None:
        if check.backend == "inductor" and problem.dtype.is_complex:
            return "inductor generates no code for complex numbers"
        return compiler_missing(check.backend)
    if check.group == "jacobian":
        ins, outs = (sum(a.numel() for a in t) for t in (problem.x, problem.function(*problem.x)))
        entries = outs * ins**check.order
        if any(not a.numel() for a in problem.x):
            return "an argument is empty, which torch.autograd.functional does not take"
        if entries > _LARGEST_JACOBIAN:
            return f"it would have {entries:.0e} entries"
    return None


@functools.cache
def compiler_missing(backend: str) -> str | None:
    """Say what stops the compiler on this machine, if anything does."""
    try:
        torch.compile(lambda x: x + 1, backend=backend)(torch.ones(2))
    except Exception as error:  # what is missing is reported
        return f"torch.compile does not run here: {_first_line(error)}"
    return None


# ----------------------------------------------------------------------------------- precision


def _precision(
    fn: Callable[..., Any], args: Any, dtype: torch.dtype, settings: Settings
) -> Iterator[Cell]:
    wide = torch.complex128 if dtype.is_complex else torch.float64
    problem = replace(_problem(fn, args, settings, dtype=wide), order=1)
    rounding = Rounding(problem, dtype)
    refusal = _refusal(problem) or _refusal(problem.at(rounding.low))
    for name, run in PRECISION.items():
        if name == "r" and "r" not in settings.letters:
            continue
        known = (name, "precision", _text(dtype))
        if refusal is not None:
            yield Cell(*known, Verdict.NOT_RUN, refusal)
            continue
        try:
            finding = judge_all(run(rounding), settings.atol or 0.0)
        except Exception as error:  # reported in the cell
            finding = Finding(Verdict.RAISES, _first_line(error))
        example = None
        if finding.verdict is not Verdict.HOLDS:
            again = _program(fn, problem, "precision", settings, dtype)
            example = Counterexample(_where(problem, finding), finding.expected, finding.got, again)
        yield Cell(*known, finding.verdict, finding.detail, example)


# ------------------------------------------------------------------------------------ reporting


def _where(problem: Problem, finding: Finding) -> str:
    """Say which entry came out wrong, and along what."""
    entry = f"[{', '.join(map(str, finding.index))}]" if finding.index else ""
    parts = [f"entry {entry} of tensor {finding.leaf} that came out" if entry else "the number"]
    for name, mask in problem.masks.items():
        kind, _, leaf = name.partition(".")
        kept = mask.nonzero().tolist()
        if len(kept) == 1:
            place = problem.names[int(leaf)] if not kind.startswith("ct_out") else f"out[{leaf}]"
            word = "along" if kind.startswith("u") else "weighed at"
            parts.append(f"{word} {place}[{', '.join(map(str, kept[0]))}]")
    return ", ".join(parts)


def _program(
    fn: Callable[..., Any], problem: Problem, cell: str, settings: Settings, dtype: torch.dtype
) -> str:
    options: dict[str, Any] = {"transforms": (cell,), "dtypes": (dtype,)}
    if settings.order != 2:
        options["order"] = settings.order
    if settings.seed:
        options["seed"] = settings.seed
    for name in ("rtol", "atol"):
        if (value := getattr(settings, name)) is not None:
            options[name] = value
    if settings.constant:
        options["constant"] = settings.constant
    if settings.randomness != "error":
        options["randomness"] = settings.randomness
    return program(fn, problem.rebuild(problem.x), **options)


def _text(dtype: torch.dtype) -> str:
    return str(dtype).removeprefix("torch.")


def _first_line(error: Exception) -> str:
    lines = [line.strip() for line in str(error).splitlines() if line.strip()]
    return f"{type(error).__name__}: {lines[0] if lines else ''}"[:200]


# ------------------------------------------------------------------------------------- options


def _settings(
    order: int,
    modes: Iterable[str],
    transforms: Iterable[str],
    dtypes: Iterable[torch.dtype] | None,
    rtol: float | None,
    atol: float | None,
    seed: int,
    args: Any,
) -> Settings:
    if order not in (1, 2, 3):
        raise ValueError(f"order is 1, 2 or 3; got {order!r}")
    modes = _several("modes", modes, tuple(_LETTERS))
    chosen = _several("transforms", transforms, (*GROUPS, *CHECKS))
    for name, value in (("rtol", rtol), ("atol", atol)):
        if value is not None and not 0 <= value < float("inf"):
            raise ValueError(f"{name} is a number that is not negative; got {value!r}")
    leaves = [a for a in optree.tree_leaves(args, namespace="tsgu_func") if torch.is_tensor(a)]  # pyright: ignore
    is_complex = any(a.is_complex() for a in leaves)
    if dtypes is None:
        dtypes = _DEFAULT_COMPLEX if is_complex else _DEFAULT
    dtypes = tuple(dtypes)
    for dtype in dtypes:
        if not isinstance(dtype, torch.dtype) or not (dtype.is_floating_point or dtype.is_complex):
            raise ValueError(f"dtypes are floating or complex; got {dtype!r}")
    letters = frozenset(_LETTERS[m] for m in modes)
    return Settings(order, letters, frozenset(chosen), dtypes, rtol, atol, seed)


def _kinds(constant: Iterable[str], randomness: str) -> dict[str, Any]:
    names = (constant,) if isinstance(constant, str) else tuple(constant)
    for name in names:
        if not isinstance(name, str) or not name.startswith(("args[", "out")):  # pyright: ignore
            raise ValueError(f"constant holds names as 'args[1]' or 'out[0]'; got {name!r}")
    if randomness not in ("error", "same", "different"):
        raise ValueError(f"randomness is 'error', 'same' or 'different'; got {randomness!r}")
    return {"constant": names, "randomness": randomness}


def _several(name: str, given: Iterable[str], known: Sequence[str]) -> tuple[str, ...]:
    given = (given,) if isinstance(given, str) else tuple(given)
    for one in given:
        if one not in known:
            raise ValueError(f"{name} are some of {', '.join(map(repr, known))}; got {one!r}")
    return given
