"""Sparse Jacobians and Hessians: detection with the colouring, evaluation eager and compiled.

The same functions are differentiated by all, at the same point.  Before anything is timed, ours is
multiplied with a vector and compared with one ``jvp``, and all matrices with ours, entry by entry;
a peer's that differs is not timed.  What is evaluated are values, whose places are known.
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from itertools import product

import torch
from torch import Tensor

from tsgu_func import (
    Coloring,
    check_pattern,
    color,
    hessian_pattern,
    jacobian_pattern,
    sparse_hessian,
    sparse_jacobian,
)
from tsgu_func.bench.functions import FUNCTIONS, Function, point
from tsgu_func.bench.peers import PEERS
from tsgu_func.bench.peers.derivatives import Derivative
from tsgu_func.bench.results import OURS, Comparison, amount
from tsgu_func.bench.subject import Subject, markdown, page_of_table
from tsgu_func.bench.timing import compare
from tsgu_func.console.arguments import add_choice, add_count
from tsgu_func.console.counting import counted

__all__ = ["SUBJECT", "judged"]

_SAME = 1e-10  # of the largest entry: two programs of the same derivative round differently


def _add_arguments(parser: argparse.ArgumentParser) -> None:
    add_choice(parser, "--problems", list(FUNCTIONS))
    add_count(parser, "--sizes", [1_000, 10_000, 100_000], "unknowns, about")


def _compare(options: argparse.Namespace) -> Iterator[Comparison]:
    """Compare detection, and evaluation both ways, for each function and size."""
    cases: list[tuple[str, int]] = list(product(options.problems, options.sizes))
    for name, size in counted(cases):
        function = FUNCTIONS[name]
        n = function.size(size)
        ours = _ours(function, n)
        ready = {
            k: peer.prepare(function, n) for k, peer in PEERS["jacobian"].items() if peer.installed
        }
        peers = {k: judged(ours, theirs) for k, theirs in ready.items()}
        for what, contender in ours.measured.items():
            beside = {k: peer for k, peer in peers.items() if what in peer.measured}
            told = {k: x.told for k, x in {OURS: ours, **beside}.items()}
            case = {"function": name, "n": n, "what": what}
            others = {k: x.measured[what] for k, x in beside.items() if "failure" not in x.told}
            for comparison in compare(case, {"": contender}, others, options.repeats):
                yield comparison._replace(more={**told, **comparison.more})
        torch.compiler.reset()  # of one function, Dynamo keeps fewer programs than there are cases


def _ours(function: Function, n: int) -> Derivative:
    """Return our derivative, of which a product was checked against one ``jvp``."""
    f, x = partial(function.of_vector, torch), torch.from_numpy(point(n))
    if function.derivative == "jacobian":
        sparse, slope = sparse_jacobian, f
    else:
        sparse, slope = sparse_hessian, torch.func.grad(f)
    coloring = _detected(function, x)
    check_pattern(slope, x, coloring)
    derivative = sparse(f, coloring)
    compiled = torch.compile(lambda x: derivative(x).values, fullgraph=True)
    matrix = derivative(x)
    torch.testing.assert_close(compiled(x), matrix.values)
    return Derivative(
        {"entries": coloring.pattern.nnz, "colors": coloring.colors},
        {
            "detection": partial(_detected, function, x),
            "eager": lambda: derivative(x).values,
            "compiled": lambda: compiled(x),
        },
        matrix.to_scipy(),
    )


def _detected(function: Function, x: Tensor) -> Coloring:
    f = partial(function.of_vector, torch)
    if function.derivative == "jacobian":
        return color(jacobian_pattern(f, x))
    return color(hessian_pattern(f, x), "symmetric")


def judged(ours: Derivative, theirs: Derivative) -> Derivative:
    """Return a peer's derivative, with a failure if it is not the same matrix as ours."""
    if "failure" in theirs.told:
        return theirs
    difference = abs(theirs.matrix - ours.matrix).max() / abs(ours.matrix).max()
    if difference <= _SAME:
        return theirs
    return theirs._replace(told={"failure": f"its entries differ from ours by {difference:.0e}"})


# ----------------------------------------------------------------------------------- the table


def _summarize(comparisons: Sequence[Comparison]) -> list[str]:
    """Return a row for each function and size."""
    heads = ["function", "n", "entries (asdex)", "colours (asdex)", "detection (asdex)"]
    heads += ["eager (dense)", "compiled (asdex)"]
    rows: dict[tuple[str | int, ...], dict[str, Comparison]] = {}
    for c in comparisons:
        rows.setdefault((c.case["function"], c.case["n"]), {})[str(c.case["what"])] = c
    return markdown([heads, *(_row(name, n, row) for (name, n), row in rows.items())])


def _row(name: str | int, n: str | int, of: Mapping[str, Comparison]) -> list[str]:
    more = of["detection"].more
    counts = [
        f"{more[OURS][k]} ({more.get('asdex', {}).get(k, '-')})" for k in ("entries", "colors")
    ]
    times = [_time(of["detection"], "asdex"), _time(of["eager"], "dense")]
    times.append(_time(of["compiled"], "asdex"))
    return [FUNCTIONS[str(name)].title, str(n), *counts, *times]


def _time(comparison: Comparison, peer: str) -> str:
    """Return our time, and how often it goes into that of a peer."""
    ratio, told = comparison.ratio(peer), comparison.more.get(peer, {})
    beside = "-" if ratio is None else f"x {ratio:.2f}"
    return f"{amount(comparison.median(), 's')} ({told.get('failure', beside).partition(':')[0]})"


SUBJECT = Subject(
    "sparse Jacobians and Hessians: detection, colours, evaluation",
    _add_arguments,
    _compare,
    quick={"problems": ["brusselator-1d", "rosenbrock"], "sizes": [40]},
    works=("jacobian",),
    repeats=3,
    threads=1,
    summarize=_summarize,
    page=page_of_table,
)
