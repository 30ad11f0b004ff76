"""Every way to differentiate and to batch: functions of a function, its arguments and directions.

Each transform runs ``run(f, x, w)``, with w the `Directions`, and returns tensors.  It is run on
the function that is checked and compared with finite differences, with a loop, with another
transform that must give the same, and with a reference where there is one.  Directions are drawn
beforehand: a compiler may be handed all of it.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from functools import partial
from itertools import product
from typing import Any, NamedTuple

import torch
from torch import Tensor
from torch.autograd import forward_ad
from torch.func import hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils.checkpoint import checkpoint

from tsgu_func.testing.checker.problem import Directions, Function, Leaves, inner
from tsgu_func.testing.checker.selections import combinations, looped, stacked

__all__ = ["TRANSFORMS", "Run", "Transform", "backward", "bent", "derivative", "reals"]

Run = Callable[[Function, Leaves, Directions], Leaves]


class Transform(NamedTuple):
    """A row of the table.

    ``like`` computes what must come out, by a loop; where it is ``None``, finite differences tell.
    A reference is run like the function, or by ``plain``, which takes less to the same numbers.
    """

    name: str
    group: str
    modes: str  # the kinds of derivatives in it: f for forward, r for reverse, from the outside
    run: Run
    like: Run | None = None
    compiled: int | None = None  # from which order on it is also run inside the compiler
    plain: Run | None = None


# ------------------------------------------------------------------------- derivatives, by mode


def bent(f: Function, w: Directions) -> Function:
    """Make f nonlinear, so that higher derivatives of a linear op are not all zero."""
    return lambda *x: tuple(s * torch.sin(y / s) for y, s in zip(f(*x), w.scale, strict=True))


def forward(f: Function, u: Leaves) -> Function:
    """X -> the derivative of f at x along u, by forward mode."""
    return lambda *x: jvp(f, x, u)[1]


def reverse(f: Function, ct: Leaves) -> Function:
    """X -> the pullback of ct at x, by reverse mode."""
    return lambda *x: vjp(f, *x)[1](ct)


def derivative(f: Function, modes: str, w: Directions) -> Function:
    """Differentiate once for each letter, the last one innermost."""
    g, of_out = f, True
    for level, mode in enumerate(reversed(modes)):
        if mode == "f":
            g = forward(g, w.u[level])
        else:
            g, of_out = reverse(g, (w.ct_out if of_out else w.ct_in)[level]), False
    return g


def by_mode(modes: str) -> Run:
    """Differentiate the function itself once, or bent, several times."""
    if len(modes) == 1:
        return lambda f, x, w: derivative(f, modes, w)(*x)
    return lambda f, x, w: derivative(bent(f, w), modes, w)(*x)


def value(f: Function, x: Leaves, w: Directions) -> Leaves:
    return f(*x)


# ---------------------------------------------------------------------------------------- eager


def leaves(x: Leaves) -> Leaves:
    return tuple(a.detach().clone().requires_grad_() for a in x)


def pulled(out: Leaves, x: Leaves, ct: Leaves, *, graph: bool = False) -> Leaves:
    """Return the gradients of what has one; of what has no graph they are zero."""
    some = [(o, c) for o, c in zip(out, ct, strict=True) if o.requires_grad]
    if not some:
        return tuple(map(torch.zeros_like, x))
    outs, cts = zip(*some, strict=True)
    return torch.autograd.grad(
        outs, x, cts, create_graph=graph, allow_unused=True, materialize_grads=True
    )


def backward(f: Function, x: Leaves, w: Directions) -> Leaves:
    """Go backward through the graph of autograd, from a cotangent."""
    x = leaves(x)
    return pulled(f(*x), x, w.ct_out[0])


def double_backward(f: Function, x: Leaves, w: Directions) -> Leaves:
    x = leaves(x)
    first = pulled(bent(f, w)(*x), x, w.ct_out[0], graph=True)
    return pulled(first, x, w.ct_in[1])


def triple_backward(f: Function, x: Leaves, w: Directions) -> Leaves:
    x = leaves(x)
    first = pulled(bent(f, w)(*x), x, w.ct_out[0], graph=True)
    return pulled(pulled(first, x, w.ct_in[1], graph=True), x, w.ct_in[2])


def dual_numbers(f: Function, x: Leaves, w: Directions) -> Leaves:
    with forward_ad.dual_level():
        duals = [forward_ad.make_dual(a, u) for a, u in zip(x, w.u[0], strict=True)]
        parts = [forward_ad.unpack_dual(o) for o in f(*duals)]
        return tuple(torch.zeros_like(p) if t is None else t for p, t in parts)


def backward_through_dual(f: Function, x: Leaves, w: Directions) -> Leaves:
    x = leaves(x)
    return pulled(dual_numbers(bent(f, w), x, w), x, w.ct_out[1])


def backward_through(modes: str) -> Run:
    """Take the graph of PyTorch's autograd through a derivative of torch.func."""

    def run(f: Function, x: Leaves, w: Directions) -> Leaves:
        x = leaves(x)
        ct = w.ct_out[1] if modes == "f" else w.ct_in[1]
        return pulled(derivative(bent(f, w), modes, w)(*x), x, ct)

    return run


def cotangents(w: Directions) -> tuple[Leaves, ...]:
    """Return three cotangents of what comes out."""
    return tuple(tuple(c * k for c in w.ct_out[0]) for k in (1.0, -0.5, 2.0))


def batched_cotangents(f: Function, x: Leaves, w: Directions) -> Leaves:
    x = leaves(x)
    stacks = [torch.stack(c) for c in zip(*cotangents(w), strict=True)]
    some = [(o, c) for o, c in zip(f(*x), stacks, strict=True) if o.requires_grad]
    zeros = [torch.stack([torch.zeros_like(a)] * 3) for a in x]
    if not some:
        return tuple(zeros)
    outs, cts = zip(*some, strict=True)
    grads = torch.autograd.grad(outs, x, cts, is_grads_batched=True, allow_unused=True)
    # PyTorch's own zeros for what has no influence lack the batch.
    return tuple(z if g is None else g for g, z in zip(grads, zeros, strict=True))


def looped_cotangents(f: Function, x: Leaves, w: Directions) -> Leaves:
    x = leaves(x)
    each = [pulled(f(*x), x, ct) for ct in cotangents(w)]
    return tuple(torch.stack(g) for g in zip(*each, strict=True))


def checkpointed(f: Function, x: Leaves, w: Directions) -> Leaves:
    x = leaves(x)
    return pulled(checkpoint(f, *x, use_reentrant=False), x, w.ct_out[0])


def without_grad(f: Function, x: Leaves, w: Directions) -> Leaves:
    with torch.no_grad():
        plain = f(*leaves(x))
    if any(a.grad_fn is not None for a in plain):  # a view, or the argument itself, has none
        raise RuntimeError("what comes out requires a gradient under torch.no_grad()")
    with torch.inference_mode():
        return (*plain, *(a.clone() for a in f(*x)))


def linearized(f: Function, x: Leaves, w: Directions) -> Leaves:
    with warnings.catch_warnings():  # said of any tensor that the function is closed over
        warnings.filterwarnings("ignore", "Attempted to insert a get_attr Node")
        push = linearize(f, *x)[1]
    return push(*w.u[0])


# ------------------------------------------------------------------------------------ Jacobians


def reals(x: Leaves) -> Leaves:
    """See complex numbers as pairs of reals."""
    return tuple(torch.view_as_real(a.resolve_conj()) if a.is_complex() else a for a in x)


def as_reals(f: Function, x: Leaves) -> tuple[Function, Leaves]:
    """See a function of complex numbers and a point as ones of pairs of reals."""

    def g(*y: Tensor) -> Leaves:
        whole = [
            torch.view_as_complex(b) if a.is_complex() else b for a, b in zip(x, y, strict=True)
        ]
        return reals(f(*whole))

    return g, reals(x)


def _in_one_dtype(a: Tensor, b: Tensor) -> Leaves:
    if a.dtype == b.dtype:  # the compiler cannot trace what follows
        return a, b
    wide = torch.promote_types(a.dtype, b.dtype)
    return a.to(wide), b.to(wide)


def contracted(jacobian: Any, u: Leaves) -> Any:
    """Multiply a nest of Jacobians, outputs first, with a direction over the last axes."""
    if isinstance(jacobian[0], Tensor):
        pairs = map(_in_one_dtype, jacobian, u)
        # Not by einsum: its letters run out.
        terms = [torch.tensordot(j, d, d.ndim) for j, d in pairs]
        return sum(terms[1:], terms[0])
    return tuple(contracted(j, u) for j in jacobian)


def jacobian(*outer_to_inner: Callable[..., Any]) -> Run:
    """Take all entries of a derivative, once or several times, and then one direction of each."""
    nest = [(t, t is jacfwd) for t in reversed(outer_to_inner)]  # which alone may draw under vmap

    def run(f: Function, x: Leaves, w: Directions) -> Leaves:
        g, x_real = as_reals(f if len(outer_to_inner) == 1 else bent(f, w), x)
        for transform, draws in nest:
            options = {"randomness": w.randomness} if draws else {}
            g = transform(g, tuple(range(len(x))), **options)
        result = g(*x_real)
        for level in reversed(range(len(outer_to_inner))):
            u = reals(w.u[level])
            result = contracted(result, u)
        return result

    return run


def whole_hessian(f: Function, x: Leaves, w: Directions) -> Leaves:
    def weighed(*x: Tensor) -> Tensor:
        return inner(w.ct_out[0], bent(f, w)(*x))

    g, x_real = as_reals(lambda *x: (weighed(*x),), x)
    result = hessian(lambda *x: g(*x)[0], tuple(range(len(x))))(*x_real)
    for level in (1, 0):
        u = reals(w.u[level])
        result = contracted(result, u)
    return (result,)


def functional(vectorize: bool) -> Run:
    options = {"vectorize": True, "strategy": "forward-mode"} if vectorize else {}

    def run(f: Function, x: Leaves, w: Directions) -> Leaves:
        g, x_real = as_reals(f, x)
        result: Any = torch.autograd.functional.jacobian(g, x_real, **options)
        u = reals(w.u[0])
        return contracted(result, u)

    return run


# --------------------------------------------------------------------------------------- batches


def mapped(modes: str) -> Run:
    """Map over each argument alone, over pairs and over all, along the first and the last axis."""

    def run(f: Function, x: Leaves, w: Directions) -> Leaves:
        g = derivative(f if len(modes) < 2 else bent(f, w), modes, w)
        results: list[Tensor] = []
        for which, dim in combinations(x):
            dims = tuple(dim if k else None for k in which)
            batched = vmap(g, dims, randomness=w.randomness)
            results += batched(*stacked(x, w, which, dim))
        return tuple(results)

    return run


def one_by_one(modes: str) -> Run:
    """Return what `mapped` must, by a loop."""

    def run(f: Function, x: Leaves, w: Directions) -> Leaves:
        g = derivative(f if len(modes) < 2 else bent(f, w), modes, w)
        every = [which for which, _ in combinations(x)]  # each of them along several axes
        loops = {which: looped(g, x, w, which) for which in dict.fromkeys(every)}
        return tuple(r for which in every for r in loops[which])

    return run


def chunked(f: Function, x: Leaves, w: Directions) -> Leaves:
    every = (True,) * len(x)
    return vmap(f, chunk_size=2, randomness=w.randomness)(*stacked(x, w, every))


def all_one_by_one(f: Function, x: Leaves, w: Directions) -> Leaves:
    return looped(f, x, w, (True,) * len(x))


def nested(f: Function, x: Leaves, w: Directions) -> Leaves:
    """Map twice: over all arguments, and over the first outside and the others inside."""
    every = (True,) * len(x)
    first = (True,) + (False,) * (len(x) - 1)
    rest = tuple(not k for k in first)
    twice = [torch.stack([a, 0.5 * a], 1) for a in stacked(x, w, every)]
    over = partial(vmap, randomness=w.randomness)
    results = list(over(over(f))(*twice))
    if any(rest):
        outer, inner_ = (tuple(0 if k else None for k in which) for which in (first, rest))
        mixed = [a if k else b for k, a, b in zip(first, stacked(x, w, first),
                                                  stacked(x, w, rest), strict=True)]  # fmt: skip
        results += over(over(f, inner_), outer)(*mixed)
        # Not out_dims: PyTorch garbles what one of the arguments has no influence on (#178425).
        results += over(over(f, outer), inner_)(*mixed)
    return tuple(results)


def nested_one_by_one(f: Function, x: Leaves, w: Directions) -> Leaves:
    first = (True,) + (False,) * (len(x) - 1)
    rest = tuple(not k for k in first)

    def over(m: Leaves, n: Leaves) -> Leaves:
        return f(*(a if k else b for k, a, b in zip(first, m, n, strict=True)))

    def table(rows: list[list[Leaves]]) -> list[Tensor]:
        stacks = [[torch.stack(c) for c in zip(*row, strict=True)] for row in rows]
        return [torch.stack(c) for c in zip(*stacks, strict=True)]

    members = w.members
    results = table([[f(*(a * k for a in m)) for k in (1.0, 0.5)] for m in members])
    if any(rest):
        mixed = table([[over(m, n) for n in members] for m in members])
        results += mixed
        results += [r.transpose(0, 1) for r in mixed]
    return tuple(results)


def outside(mode: str) -> Run:
    """Differentiate a batch: the directions and cotangents are batches, too."""

    def run(f: Function, x: Leaves, w: Directions) -> Leaves:
        batch = stacked(x, w, (True,) * len(x))
        g = vmap(f, randomness=w.randomness)
        if mode == "f":
            return jvp(g, batch, _repeated(w.u[0]))[1]
        return vjp(g, *batch)[1](_repeated(w.ct_out[0]))

    return run


def members_of(mode: str) -> Run:
    return lambda f, x, w: looped(derivative(f, mode, w), x, w, (True,) * len(x))


def _repeated(u: Leaves) -> Leaves:
    return tuple(torch.stack([a] * 3) for a in u)


# ------------------------------------------------------------------------------------- the table


def _compiles(modes: str) -> int | None:
    # Forward mode within forward mode does not compile, for PyTorch's own ops neither (2.13).
    return len(modes) if modes.count("f") < 2 else None


def _rows() -> list[Transform]:
    modes = [m for n in (1, 2, 3) for m in map("".join, product("fr", repeat=n))]
    orders = {1: "first", 2: "higher", 3: "higher"}
    T = Transform
    return [
        T("value", "value", "", value, None, 1),
        *(T(m, orders[len(m)], m, by_mode(m), None, _compiles(m)) for m in modes),
        T("backward", "eager", "r", backward),
        T("forward_ad", "eager", "f", dual_numbers),
        T("double backward", "eager", "rr", double_backward),
        T("triple backward", "eager", "rrr", triple_backward),
        T("backward through forward_ad", "eager", "rf", backward_through_dual),
        T("backward through jvp", "eager", "rf", backward_through("f")),
        T("backward through vjp", "eager", "rr", backward_through("r")),
        T("is_grads_batched", "eager", "r", batched_cotangents, looped_cotangents),
        T("checkpoint", "eager", "r", checkpointed),
        T("no_grad, inference_mode", "eager", "", without_grad, lambda *a: value(*a) * 2),
        T("linearize", "eager", "f", linearized, plain=by_mode("f")),
        T("jacrev", "jacobian", "r", jacobian(jacrev), None, 3),
        T("jacfwd", "jacobian", "f", jacobian(jacfwd), None, 3),
        T("hessian", "jacobian", "fr", whole_hessian, None, 2),
        T("jacfwd(jacfwd)", "jacobian", "ff", jacobian(jacfwd, jacfwd), None, 3),
        T("jacrev(jacfwd)", "jacobian", "rf", jacobian(jacrev, jacfwd)),
        T("jacrev(jacrev)", "jacobian", "rr", jacobian(jacrev, jacrev)),
        T("functional.jacobian", "jacobian", "r", functional(False)),
        T("functional.jacobian, vectorized", "jacobian", "f", functional(True)),
        T("vmap", "vmap", "", mapped(""), one_by_one(""), 1),
        T("vmap, chunked", "vmap", "", chunked, all_one_by_one),
        T("vmap(vmap)", "vmap", "", nested, nested_one_by_one, 3),
        T("vmap(jvp)", "vmap", "f", mapped("f"), one_by_one("f")),
        T("vmap(vjp)", "vmap", "r", mapped("r"), one_by_one("r"), 2),
        T("vmap(jvp(vjp))", "vmap", "fr", mapped("fr"), one_by_one("fr")),
        T("jvp(vmap)", "vmap", "f", outside("f"), members_of("f")),
        T("vjp(vmap)", "vmap", "r", outside("r"), members_of("r"), 2),
    ]


TRANSFORMS: dict[str, Transform] = {row.name: row for row in _rows()}
