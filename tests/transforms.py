"""Every way to differentiate and to batch: a table of functions of a function and its arguments.

Each takes ``f`` and arguments (real tensors, one or two) and returns tensors; run on an op and on
its reference it must give the same.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import Tensor
from torch.func import grad, hessian, jacfwd, jacrev, jvp, linearize, vjp, vmap
from torch.utils.checkpoint import checkpoint

Function = Callable[..., Tensor]
Cell = Callable[[Function, tuple[Tensor, ...]], Any]


def wave(*shape: int, seed: int = 0) -> Tensor:
    """Return numbers that no symmetry hides in; the same at each call, and traceable."""
    size = torch.Size(shape).numel()
    return torch.sin(torch.arange(1.0, size + 1, dtype=torch.float64) * (1.7 + seed)).view(shape)


def bent(f: Function) -> Function:
    """Make f nonlinear, so that higher derivatives mix the rules."""
    return lambda *x: torch.sin(f(*x)) * wave(*f(*x).shape)


def scalar(f: Function) -> Function:
    return lambda *x: bent(f)(*x).sum()


def argnums(x: tuple[Tensor, ...]) -> tuple[int, ...]:
    return tuple(range(len(x)))


def leaves(x: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
    return tuple(a.detach().clone().requires_grad_() for a in x)


def stacked(x: tuple[Tensor, ...], which: tuple[bool, ...], dim: int = 0) -> tuple[Tensor, ...]:
    """Make a batch of three out of some of the arguments."""
    return tuple(
        torch.stack([a * (1 + 0.3 * i) for i in range(3)], dim) if w else a
        for a, w in zip(x, which, strict=True)
    )


# ------------------------------------------------------------------------- derivatives, by mode


def forward(f: Function) -> Function:
    """X -> the derivative of f at x in a fixed direction, by forward mode."""
    return lambda *x: jvp(f, x, tuple(wave(*a.shape, seed=1) for a in x))[1]


def reverse(f: Function) -> Function:
    """X -> the pullback of a fixed cotangent at x, by reverse mode."""

    def pulled(*x: Tensor) -> Tensor:
        out, pull = vjp(f, *x)
        return torch.cat([g.flatten() for g in pull(wave(*out.shape, seed=2))])

    return pulled


_MODES = {"f": forward, "r": reverse}


def by_mode(modes: str) -> Cell:
    """Differentiate once for each letter, the last one innermost."""

    def cell(f: Function, x: tuple[Tensor, ...]) -> Tensor:
        g = bent(f)
        for mode in reversed(modes):
            g = _MODES[mode](g)
        return g(*x)

    return cell


def jacobians(*outer_to_inner: Callable[..., Any]) -> Cell:
    def cell(f: Function, x: tuple[Tensor, ...]) -> Any:
        g: Any = bent(f)
        for transform in reversed(outer_to_inner):
            g = transform(g, argnums(x))
        return g(*x)

    return cell


# --------------------------------------------------------------------------------------- eager


def eager_backward(f: Function, x: tuple[Tensor, ...]) -> Any:
    x = leaves(x)
    return torch.autograd.grad(scalar(f)(*x), x)


def double_backward(f: Function, x: tuple[Tensor, ...]) -> Any:
    x = leaves(x)
    first = torch.autograd.grad(scalar(f)(*x), x, create_graph=True)
    total = sum(((g * wave(*g.shape, seed=3)).sum() for g in first), torch.zeros(()))
    return torch.autograd.grad(total, x)


def triple_backward(f: Function, x: tuple[Tensor, ...]) -> Any:
    def again(g: Function) -> Function:
        def derived(*x: Tensor) -> Tensor:
            first = torch.autograd.grad(g(*x), x, create_graph=True)
            return sum(((d * wave(*d.shape, seed=3)).sum() for d in first), torch.zeros(()))

        return derived

    x = leaves(x)
    return torch.autograd.grad(again(again(scalar(f)))(*x), x)


def dual_numbers(f: Function, x: tuple[Tensor, ...]) -> Any:
    with torch.autograd.forward_ad.dual_level():
        duals = [torch.autograd.forward_ad.make_dual(a, wave(*a.shape)) for a in x]
        return torch.autograd.forward_ad.unpack_dual(bent(f)(*duals)).tangent


def backward_through_dual(f: Function, x: tuple[Tensor, ...]) -> Any:
    x = leaves(x)
    return torch.autograd.grad(dual_numbers(f, x).sum(), x)


def backward_through_jvp(f: Function, x: tuple[Tensor, ...]) -> Any:
    x = leaves(x)
    return torch.autograd.grad(forward(bent(f))(*x).sum(), x)


def backward_through_grad(f: Function, x: tuple[Tensor, ...]) -> Any:
    x = leaves(x)
    return torch.autograd.grad(reverse(bent(f))(*x).sum(), x)


def batched_cotangents(f: Function, x: tuple[Tensor, ...]) -> Any:
    x = leaves(x)
    out = bent(f)(*x)
    return torch.autograd.grad(out, x, wave(3, *out.shape), is_grads_batched=True)


def functional_jacobian(f: Function, x: tuple[Tensor, ...]) -> Any:
    return torch.autograd.functional.jacobian(bent(f), x)


def functional_hessian(f: Function, x: tuple[Tensor, ...]) -> Any:
    return torch.autograd.functional.hessian(scalar(f), x)


def functional_vectorized(f: Function, x: tuple[Tensor, ...]) -> Any:
    return torch.autograd.functional.jacobian(bent(f), x, vectorize=True, strategy="forward-mode")


def checkpointed(f: Function, x: tuple[Tensor, ...]) -> Any:
    x = leaves(x)
    return torch.autograd.grad(checkpoint(bent(f), *x, use_reentrant=False).sum(), x)


def without_grad(f: Function, x: tuple[Tensor, ...]) -> Any:
    with torch.no_grad():
        plain = bent(f)(*leaves(x))
    assert not plain.requires_grad
    with torch.inference_mode():
        return plain, bent(f)(*x).clone()


# ---------------------------------------------------------------------------------- torch.func


def tangent_map(f: Function, x: tuple[Tensor, ...]) -> Any:
    out, push = linearize(bent(f), *x)
    return out, push(*(wave(*a.shape, seed=1) for a in x)), push(*(wave(*a.shape) for a in x))


def mapped(f: Function, x: tuple[Tensor, ...], inside: Callable[..., Any], **options: Any) -> Any:
    """Map over each argument alone and over all, along the first and along the last axis."""
    some = [w for w in product((False, True), repeat=len(x)) if any(w)]
    results = []
    for which, dim in product(some, (0, -1)):
        dims = tuple(dim if w else None for w in which)
        results.append(vmap(inside, dims, **options)(*stacked(x, which, dim)))
    return results


def maps_nested(f: Function, x: tuple[Tensor, ...]) -> Any:
    """Map twice: over the same arguments, and over one each."""
    everything = (True,) * len(x)
    twice = stacked(stacked(x, everything), everything, 1)
    results = [vmap(vmap(bent(f)))(*twice)]
    if len(x) == 2:
        first, second = stacked(x, (True, False)), stacked(x, (False, True))
        both = (first[0], second[1])
        results.append(vmap(vmap(bent(f), (None, 0)), (0, None))(*both))
        results.append(vmap(vmap(bent(f), (0, None)), (None, 0))(*both))
        results.append(vmap(vmap(bent(f)), (None, 0))(first[0], twice[1]))
        results.append(vmap(vmap(bent(f)), (0, None))(twice[0], second[1]))
    return results


def first_gradient(f: Function, x: tuple[Tensor, ...]) -> Callable[..., Any]:
    return grad(scalar(f), argnums(x))


EAGER: dict[str, Cell] = {
    "value": lambda f, x: bent(f)(*x),
    "backward": eager_backward,
    "double backward": double_backward,
    "triple backward": triple_backward,
    "dual numbers": dual_numbers,
    "backward through dual": backward_through_dual,
    "backward through jvp": backward_through_jvp,
    "backward through vjp": backward_through_grad,
    "is_grads_batched": batched_cotangents,
    "functional.jacobian": functional_jacobian,
    "functional.jacobian vectorized": functional_vectorized,
    "functional.hessian": functional_hessian,
    "checkpoint": checkpointed,
    "no_grad, inference_mode": without_grad,
    "grad": lambda f, x: first_gradient(f, x)(*x),
    "linearize": tangent_map,
    **{"".join(m): by_mode("".join(m)) for n in (1, 2, 3) for m in product("fr", repeat=n)},
    "jacrev": jacobians(jacrev),
    "jacfwd": jacobians(jacfwd),
    "hessian": jacobians(hessian),
    "jacfwd jacfwd": jacobians(jacfwd, jacfwd),
    "jacrev jacfwd": jacobians(jacrev, jacfwd),
    "jacrev jacrev": jacobians(jacrev, jacrev),
    "vmap": lambda f, x: mapped(f, x, bent(f)),
    "vmap chunked": lambda f, x: mapped(f, x, bent(f), chunk_size=2),
    "vmap vmap": maps_nested,
    "vmap grad": lambda f, x: mapped(f, x, first_gradient(f, x)),
    "vmap jvp": lambda f, x: mapped(f, x, forward(bent(f))),
    "vmap hessian": lambda f, x: vmap(hessian(scalar(f), argnums(x)))(
        *stacked(x, (True,) * len(x))
    ),
    "grad vmap": lambda f, x: grad(lambda *a: vmap(bent(f))(*a).sum(), argnums(x))(
        *stacked(x, (True,) * len(x))
    ),
    "jvp vmap": lambda f, x: forward(vmap(bent(f)))(*stacked(x, (True,) * len(x))),
    "jacrev vmap": lambda f, x: jacrev(vmap(bent(f)), argnums(x))(*stacked(x, (True,) * len(x))),
}

# The cells that run inside torch.compile(fullgraph=True).  Excepted are those where PyTorch's own
# ops raise too on 2.13 (test_canaries.py): "vmap hessian", and jvp of jvp around a constant that is
# made inside ("ff"); "jacfwd jacfwd" has none.
COMPILED: dict[str, Cell] = {
    name: EAGER[name]
    for name in (
        "value",
        "grad",
        "f",
        "r",
        "fr",
        "rf",
        "rr",
        "rfr",
        "rrr",
        "jacrev",
        "jacfwd",
        "hessian",
        "jacfwd jacfwd",
        "vmap",
        "vmap vmap",
        "vmap grad",
        "grad vmap",
    )
}
