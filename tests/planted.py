"""Ops with a mistake of a usual kind, each beside its right twin."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import torch
from torch import Tensor

from tsgu_func import Primitive
from tsgu_func.ops.products import sddmm, spmm
from tsgu_func.selfcheck.records.base import COL, ROW, SHAPE, matrix, randn


class Plant(NamedTuple):
    """A wrong function and a right one, what they are called with, and which cells must tell."""

    wrong: Callable[..., Any]
    right: Callable[..., Any]
    args: tuple[Tensor, ...]
    dtype: torch.dtype
    cells: tuple[str, ...]


X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
_count = iter(range(1000))


def _elementwise(kernel: Any, vjp: Any, jvp: Any, batch: Any = None) -> Primitive:
    op = Primitive(f"planted::op{next(_count)}(Tensor x) -> Tensor")
    op.kernel(kernel)
    op.fake(lambda x: torch.empty_like(x))
    op.vjp("x")(vjp)
    op.jvp("x")(jvp)
    if batch is None:
        op.fold(x=0)
    else:
        op.batch(batch)
    return op


def _cube(vjp: Any = None, jvp: Any = None, batch: Any = None) -> Primitive:
    return _elementwise(
        lambda x: x**3,
        vjp or (lambda ct, x: 3 * ct * x.conj() ** 2),
        jvp or (lambda tangent, x: 3 * tangent * x**2),
        batch,
    )


# ------------------------------------------------------------------------------ usual mistakes


def conjugate() -> Plant:
    """Leave out the conjugate of a cotangent: right for real numbers."""
    return Plant(
        _cube(vjp=lambda ct, x: 3 * ct * x**2), _cube(), (X,), torch.complex128,
        ("r", "vjp with jvp", "backward"),
    )  # fmt: skip


def pattern() -> Plant:
    """Return the cotangent of the transposed matrix's values."""
    A = matrix(ROW, COL, SHAPE, torch.float64)
    s = A.pattern.structure

    def product(transposed: bool) -> Callable[..., Any]:
        schema = "(Tensor values, Tensor B, Tensor crow, Tensor col) -> Tensor"
        op = Primitive(f"planted::op{next(_count)}{schema}")

        @op.kernel
        def _(values, B, crow, col):
            return spmm(values, B, crow, col, s.cols, False)

        @op.fake
        def _(values, B, crow, col):
            return B.new_empty(*B.shape[:-2], s.rows, B.shape[-1])

        @op.vjp("values")
        def _(ct, B, crow, col):
            X, Y = (B.conj(), ct) if transposed else (ct, B.conj())
            return sddmm(X, Y, crow, col, s.cols)

        @op.vjp("B")
        def _(ct, values, crow, col):
            return spmm(values.conj(), ct, crow, col, s.cols, True)

        op.linear_in("values", "B")
        op.fold(values=1, B=2)
        return lambda values, B: op(values, B, s.crow, s.col)

    args = A.values, randn(SHAPE[1], 2, dtype=torch.float64)
    return Plant(product(True), product(False), args, torch.float64, ("r", "vjp with jvp"))


def sign() -> Plant:
    """Turn the sign of a tangent."""
    return Plant(
        _cube(jvp=lambda tangent, x: -3 * tangent * x**2), _cube(), (X,), torch.float64,
        ("f", "vjp with jvp", "linearize", "forward_ad"),
    )  # fmt: skip


def second() -> Plant:
    """Take part of a cotangent for a constant when it is differentiated again."""
    return Plant(
        _cube(vjp=lambda ct, x: 3 * ct * (x.conj() ** 2).detach()), _cube(), (X,), torch.float64,
        ("fr", "rr", "double backward", "second derivatives agree"),
    )  # fmt: skip


def batch() -> Plant:
    """Hand the members of a batch on to each other."""

    def rolled(size, dims, args):
        return (args.x.movedim(dims.x, 0) ** 3).roll(1, 0), 0

    return Plant(
        _cube(batch=rolled), _cube(), (X,), torch.float64, ("vmap", "vmap(vmap)", "vmap, chunked")
    )


def dtype() -> Plant:
    """Return double precision, whatever goes in."""
    wrong = _elementwise(
        lambda x: x.double() ** 3,
        lambda ct, x: (3 * ct * x.conj() ** 2).to(x.dtype),
        lambda tangent, x: (3 * tangent * x**2).double(),
    )
    wrong.fake(lambda x: torch.empty_like(x, dtype=torch.float64))
    return Plant(wrong, _cube(), (X,), torch.float32, ("value",))


USUAL = {plant.__name__: plant for plant in (conjugate, pattern, sign, second, batch, dtype)}


# --------------------------------------------------------------------- PyTorch's own, on 2.13


def custom_op() -> Plant:
    """Return zero tangents: ``custom_op`` with ``register_autograd``."""

    @torch.library.custom_op(f"planted::cube{next(_count)}", mutates_args=())
    def cube(x: Tensor) -> Tensor:
        return x**3

    def backward(ctx: Any, ct: Tensor) -> Tensor:
        (x,) = ctx.saved_tensors
        return 3 * ct * x.conj() ** 2

    cube.register_fake(lambda x: torch.empty_like(x))
    cube.register_autograd(
        backward, setup_context=lambda ctx, inputs, output: ctx.save_for_backward(*inputs)
    )
    return Plant(cube, _cube(), (X,), torch.float64, ("f",))


class FunctionCube(torch.autograd.Function):
    """Right to the first order, and under reverse mode."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.save_for_backward(*inputs)
        ctx.save_for_forward(*inputs)

    @staticmethod
    def backward(ctx, ct):
        (x,) = ctx.saved_tensors
        return 3 * ct * x.conj() ** 2

    @staticmethod
    def jvp(ctx, tangent):
        (x,) = ctx.saved_tensors
        return 3 * tangent * x * x


def function() -> Plant:
    """Return zeros in forward over forward: ``autograd.Function``."""
    return Plant(FunctionCube.apply, _cube(), (X,), torch.float64, ("ff", "jacfwd(jacfwd)"))


def linalg_solve() -> Plant:
    """Miss a term in forward over forward: ``torch.linalg.solve``."""
    A = torch.eye(3, dtype=torch.float64) * 3 + randn(3, 3, dtype=torch.float64)
    b = randn(3, dtype=torch.float64, seed=2)
    inverse = lambda A, b: torch.linalg.inv(A) @ b
    return Plant(torch.linalg.solve, inverse, (A, b), torch.float64, ("ff", "jacfwd(jacfwd)"))


PYTORCHS = {plant.__name__: plant for plant in (custom_op, function, linalg_solve)}
