"""The table of mistakes, by what they have to do with."""

from __future__ import annotations

from collections.abc import Callable, Mapping

import torch
from torch import Tensor

from tsgu_func.selfcheck.planted import changes as c
from tsgu_func.selfcheck.planted.changes import Change, Mistake

__all__ = ["KINDS"]

_R = ("r", "backward")
_ONE = ("cube", "matmul")
_CUBE, _MATMUL, _BOTH = ("cube",), ("matmul",), ("sin and square",)
_ELSEWHERE = "wrong at no point that is given"
_SMALL = "smaller than 1e-8 of the largest entry"

M = Mistake


def _scaled(relative: float) -> Change:
    return c.gradient(lambda g, cts, x: g * (1 + relative))


def _if(asked: Callable[[Tensor], bool]) -> Change:
    """Change the gradient where the first cotangent is of a kind."""
    return c.gradient(lambda g, cts, x: 2 * g if cts and asked(cts[0]) else g)


def _of_argument(asked: Callable[[Tensor], bool]) -> Change:
    """Change the gradient where the first argument is of a kind."""
    return c.gradient(lambda g, cts, x: 2 * g if asked(x[0]) else g)


def _value_of(asked: Callable[[Tensor], bool]) -> Change:
    return c.value(lambda out, x: 2 * out if asked(x[0]) else out)


def _tangent_of(asked: Callable[[Tensor], bool]) -> Change:
    return c.tangent(lambda out, ts, x: 2 * out if ts and asked(ts[0]) else out)


def _rounded(a: Tensor) -> Tensor:
    return a.to(torch.complex64 if a.is_complex() else torch.float32).to(a.dtype)


def _ones(a: Tensor) -> Tensor:
    return (a == 1).all()


def _large(a: Tensor) -> bool:
    return bool(a.abs().max() > 1e3)


def _small(a: Tensor) -> bool:
    return bool(0 < a.abs().max() < 1e-6)


_RIGHT = (
    M("none", c.itself, why="right"),
    M("none (complex128)", c.itself, dtype=torch.complex128, why="right"),
)

_GRADIENTS = (
    M("sign of one gradient entry", c.gradient(lambda g, cts, x: c.entry(g, -1)), _R),
    M("whole gradient times 2", c.gradient(lambda g, cts, x: 2 * g), _R),
    M("relative error of 1e-3", _scaled(1e-3), _R),
    M("relative error of 1e-4", _scaled(1e-4), _R),
    M("relative error of 1e-6", _scaled(1e-6), ("vjp with jvp",)),
    M("relative error of 1e-7", c.in_batches(_scaled(1e-7)), ("vjp(vmap)",)),
    M("relative error of 1e-9", _scaled(1e-9), why=_SMALL),
    M("wrong where x < 0", c.gradient(lambda g, cts, x: torch.where(x[0] < 0, 2 * g, g)), _R),
    M("wrong where x < 0, all x > 0",
      c.gradient(lambda g, cts, x: torch.where(x[0] < 0, 2 * g, g)), at=c.positive,
      why=_ELSEWHERE),
    M("right within 5 % of the point only", c.only_near(0.05), why=_ELSEWHERE,
      in_op=False),
    M("right within 5 % only, with a batching rule of its own", c.in_batches(c.only_near(0.05)),
      ("vjp(vmap)",), in_op=False),
    M("right at the point only, with a batching rule of its own", c.in_batches(c.only_near(0.0)),
      ("vjp(vmap)",), in_op=False),
    M("gradient of the second argument is zero",
      c.second(lambda g, needs: None if g is None else 0 * g), _R, _MATMUL),
    M("gradient of the second argument is None", c.second(lambda g, needs: None), _R, _MATMUL),
    M("wrong if only the second argument needs a gradient",
      c.second(lambda g, needs: g if g is None or needs[0] else 2 * g), ("r",), _MATMUL),
    M("second derivative halved", c.halved, ("fr", "rr", "double backward")),
    M("no second derivative if only one argument needs a gradient", c.constant_alone,
      ("rr of one argument",), _MATMUL, at=c.squares),
    M("conjugate is missing (complex128)",
      lambda base: c.gradient(lambda g, cts, x: base.vjp(cts, tuple(a.conj() for a in x),
                                                         (True,) * len(x))[0])(base),
      ("r", "vjp with jvp"), _ONE, torch.complex128),
    M("wrong for a tensor of no axes",
      c.gradient(lambda g, cts, x: 2 * g if x[0].ndim == 0 else g), ("r",), _CUBE,
      at=c.no_axis),
    M("wrong for a tensor of no axes, not given",
      c.gradient(lambda g, cts, x: 2 * g if x[0].ndim == 0 else g), bases=("matmul",),
      why=_ELSEWHERE),
    M("wrong above 1000 entries", c.gradient(lambda g, cts, x: 2 * g if g.numel() > 1000 else g),
      why=_ELSEWHERE),
)  # fmt: skip

_NOT_FINITE = (
    M("every gradient is NaN", c.gradient(lambda g, cts, x: g * torch.nan), (*_R, "jacrev")),
    M("every gradient is infinite",
      c.gradient(lambda g, cts, x: g * torch.inf), (*_R, "jacrev")),
    M("NaN where x is zero, a zero in x", c.gradient(lambda g, cts, x: g * c.nan(x[0] == 0)),
      ("vjp with jvp",), at=c.with_zero),
    M("NaN where x is zero, no zero in x", c.gradient(lambda g, cts, x: g * c.nan(x[0] == 0)),
      why=_ELSEWHERE),
    M("NaN where the cotangent is zero",
      c.gradient(lambda g, cts, x: g * c.nan((cts[0] == 0).any()) if cts else g),
      ("vjp is linear",)),
    M("NaN where the tangent is zero",
      c.tangent(lambda out, ts, x: out * c.nan((ts[0] == 0).any())), ("jvp is linear",),
      in_op=False),
)  # fmt: skip

_COTANGENTS = (
    M("wrong where the cotangent is all ones",
      c.gradient(lambda g, cts, x: torch.where(_ones(cts[0]), 2 * g, g) if cts else g),
      ("vjp is linear",)),
    M("wrong for an expanded cotangent", _if(c.stored_once), ("vjp is linear",)),
    M("wrong for a cotangent above 1e3", _if(_large), ("vjp is linear",)),
    M("wrong for a cotangent below 1e-6", _if(_small), ("vjp is linear",)),
    M("wrong for a strided cotangent", _if(c.strided), ("vjp of strided arguments",)),
    M("wrong for a lazily conjugated cotangent (complex128)", _if(torch.Tensor.is_conj),
      ("vjp of strided arguments",), _ONE, torch.complex128),
    M("absolute value of the cotangent",
      lambda base: c.gradient(lambda g, cts, x: base.vjp(tuple(a.abs() for a in cts), x,
                                                         (True,) * len(x))[0])(base),
      _R, _ONE),
    M("wrong if an output has no cotangent", c.missing, ("vjp is linear",), _BOTH),
    M("backward changes its cotangent in place", c.cotangent_changes, ("vjp is linear",)),
    M("backward changes what it saved", c.gradient(c.saved_changes), ("vjp is linear",)),
    M("every second backward off by 1e-8", c.every(2, 1 + 1e-8), ("vjp is linear",)),
    M("every fifth backward times 2", c.every(5, 2), ("vjp is linear",)),
    M("backward adds to what it found last time", c.fresh(c.accumulated), ("vjp is linear",)),
    M("noise of 1e-9", c.gradient(c.noise(1e-9)), ("vjp is linear",)),
    M("noise of 1e-3", c.gradient(c.noise(1e-3)), ("r", "vjp is linear")),
    M("gradient is a view of the cotangent", c.viewed, bases=_CUBE,
      why="right: autograd copies where it must"),
)  # fmt: skip

_TANGENTS = (
    M("sign of a tangent", c.tangent(lambda out, ts, x: -out), ("f", "forward_ad"), in_op=False),
    M("tangent of the second argument is dropped",
      c.tangents(lambda ts: (ts[0], None) if ts[0] is not None else ts), ("f",), _MATMUL,
      in_op=False),
    M("tangent is conjugated (complex128)", c.tangent(lambda out, ts, x: out.conj()), ("f",),
      dtype=torch.complex128, in_op=False),
    M("wrong if only one argument has a tangent",
      c.tangent(lambda out, ts, x: 2 * out if len(ts) == 1 else out), ("f",), _MATMUL,
      in_op=False),
    M("jvp changes its tangent in place", c.tangents(c.in_place), ("jvp is linear",),
      in_op=False),
    M("wrong for a tangent below 1e-6", _tangent_of(_small), ("jvp is linear",), _CUBE),
    M("wrong for an expanded tangent", _tangent_of(c.stored_once), in_op=False,
      why="no rule is ever handed one: PyTorch copies tangents"),
    M("wrong for a strided tangent", _tangent_of(c.strided), ("jvp of strided arguments",),
      in_op=False),
)  # fmt: skip

_PLACES = (
    M("value wrong for a strided argument", _value_of(c.strided), ("strides",)),
    M("value wrong for an expanded argument", _value_of(c.stored_once), ("strides",)),
    M("value wrong for a lazy negative", _value_of(torch.Tensor.is_neg), ("strides",)),
    M("value wrong for a lazy conjugate (complex128)", _value_of(torch.Tensor.is_conj),
      ("strides",), dtype=torch.complex128),
    M("value wrong for channels last", _value_of(c.channels_last), ("strides",), _CUBE,
      at=c.four_axes),
    M("gradient wrong for a strided argument", _of_argument(c.strided),
      ("vjp of strided arguments",)),
    M("gradient wrong for an expanded argument", _of_argument(c.stored_once),
      ("vjp of strided arguments",)),
    M("gradient wrong for a lazy negative", _of_argument(torch.Tensor.is_neg),
      ("vjp of strided arguments",)),
    M("gradient wrong for channels last", _of_argument(c.channels_last),
      ("vjp of strided arguments",), _CUBE, at=c.four_axes),
    M("value differs under no_grad", c.itself, ("no_grad, inference_mode",), in_op=False,
      around=c.without_graph),
    M("value differs if an argument requires a gradient", c.itself, ("backward",), in_op=False,
      around=c.with_gradient),
)  # fmt: skip

_BATCHES = (
    M("vmap wrong after the first member",
      c.mapped(lambda out, dims: c.after(out, 1)), ("vmap",),
      ("cube", "sin and square"), in_op=False),
    M("vmap wrong after the third member",
      c.mapped(lambda out, dims: c.after(out, 3)), ("vmap of 5",), in_op=False),
    M("vmap wrong for a batch of one",
      c.mapped(lambda out, dims: 2 * out if len(out) == 1 else out), ("vmap, chunked",),
      in_op=False),
    M("vmap wrong for batches of four and more",
      c.mapped(lambda out, dims: 2 * out if len(out) > 3 else out), ("vmap of 5",),
      in_op=False),
    M("vmap wrong along a middle axis",
      c.mapped(lambda out, dims: 2 * out if 1 in dims else out), ("vmap",), _MATMUL,
      in_op=False),
    M("vmap wrong if only the second argument is mapped",
      c.mapped(lambda out, dims: 2 * out if dims[0] is None else out), ("vmap",), _MATMUL,
      in_op=False),
    M("vmap hands members on", c.mapped(lambda out, dims: out.roll(1, 0)), ("vmap",),
      ("cube", "sin and square"), in_op=False),
    M("backward wrong after the third member of a batch",
      c.mapped(lambda out, dims: c.bent_after(out, 3)), ("vmap and vjp of 5",), in_op=False),
)  # fmt: skip

_PRECISIONS = (
    M("value in float64, whatever comes in", c.value(lambda out, x: out.double()), ("precision",),
      _ONE, torch.float32),
    M("gradient in float32", c.in_batches(c.gradient(lambda g, cts, x: _rounded(g))),
      ("vjp(vmap)",)),
    M("wrong in float32 only",
      c.gradient(lambda g, cts, x: 1.01 * g if g.dtype == torch.float32 else g), ("precision",),
      dtype=torch.float32),
    M("wrong under autocast",
      c.value(lambda out, x: 2 * out if torch.is_autocast_enabled("cpu") else out),
      why=_ELSEWHERE),
)  # fmt: skip

KINDS: Mapping[str, tuple[Mistake, ...]] = {
    "Right functions": _RIGHT,
    "The gradient": _GRADIENTS,
    "Numbers that are not finite": _NOT_FINITE,
    "The cotangent, and what is kept": _COTANGENTS,
    "The tangent": _TANGENTS,
    "Where arguments are stored": _PLACES,
    "Batches": _BATCHES,
    "Precision": _PRECISIONS,
}
