"""Derivatives and batches that PyTorch gets wrong, each with the smallest program that shows it.

All were seen with torch 2.13, the first version with all these functions.  A program computes
``got`` and ``right``, after `PREAMBLE`.
"""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ["KNOWN", "PREAMBLE", "Known", "known_of"]

PREAMBLE = """\
import torch
import torch.nn.functional as F
from torch.func import hessian, jacfwd, jacrev, jvp, linearize, vmap
from torch.utils.checkpoint import checkpoint

torch.set_default_dtype(torch.float64)
"""


@dataclass(frozen=True)
class Known:
    """A defect.

    Attributes
    ----------
    title : str
    ops : tuple of str
        In which operators of PyTorch's database the checker sees it; a name may end in ``*``.
    told : str
        What comes out, and what is right.
    program : str
    issues : tuple of int
        Those of https://github.com/pytorch/pytorch; none where we found none.
    mended : str
        The first version of PyTorch that was seen to be right; empty where none was.
    """

    title: str
    ops: tuple[str, ...]
    told: str
    program: str
    issues: tuple[int, ...] = ()
    mended: str = ""


def known_of(op: str) -> list[Known]:
    """Return the known defects of an operator."""
    return [k for k in KNOWN if any(_is(op, name) for name in k.ops)]


def _is(op: str, name: str) -> bool:
    return op.startswith(name[:-1]) if name.endswith("*") else op == name


KNOWN = (
    Known(
        "NaN in reverse over forward mode of eigh",
        ("linalg.eigh",),
        "NaN; forward over reverse is right.",
        """\
A = torch.tensor([[2.0, 1.0], [1.0, 5.0]])
def projector(A):  # onto the first eigenvector: no phase is left in it
    v = torch.linalg.eigh((A + A.mT) / 2)[1][:, 0]
    return torch.outer(v, v)
got = jacrev(jacfwd(projector))(A)
right = jacfwd(jacrev(projector))(A)
""",
    ),
    Known(
        "NaN in linearize of svd",
        ("svd", "linalg.svd"),
        "NaN for every matrix; jvp is right.",
        """\
A = torch.tensor([[2.0, 1.0], [0.0, 1.0]])
def polar(A):
    U, _, Vh = torch.linalg.svd(A)
    return U @ Vh
D = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
got = linearize(polar, A)[1](D)
right = jvp(polar, (A,), (D,))[1]
""",
    ),
    Known(
        "gradient of select_scatter under vmap",
        ("select_scatter",),
        "The gradient of src is 3, the size of the axis, instead of 1.",
        """\
x = torch.zeros(2, 3)
src = torch.ones(2, requires_grad=True)
y = vmap(lambda x, src: torch.select_scatter(x, src, 0, 0))(x, src)
(got,) = torch.autograd.grad(y.sum(), src)
right = torch.ones(2)
""",
    ),
    Known(
        "vmap of index_fill over the value",
        ("index_fill",),
        "All members get the value of the last one: [2, 2] instead of [1, 2].",
        """\
x = torch.tensor(0.0)
values = torch.tensor([1.0, 2.0])
got = vmap(lambda value: x.index_fill(0, torch.tensor([0]), value))(values)
right = values
""",
    ),
    Known(
        "forward mode of a chunked linear_cross_entropy",
        ("nn.functional.linear_cross_entropy.chunked*",),
        "0 instead of 0.731. The documentation says that forward mode is not supported; no error "
        "does.",
        """\
x, W = torch.tensor([[1.0, 2.0]]), torch.eye(2)
target = torch.tensor([0])
chunked = torch.nn.LinearCrossEntropyOptions()
got = jvp(lambda x: F.linear_cross_entropy(x, W, target, options=chunked), (x,), (x,))[1]
right = jvp(lambda x: F.cross_entropy(x @ W.mT, target), (x,), (x,))[1]
""",
    ),
    Known(
        "gradient of the mean of native_group_norm alone",
        ("native_group_norm",),
        "Zeros instead of 1/3 each. With a cotangent of the first result, be it zero, those of the "
        "mean and of the reciprocal standard deviation count as they should.",
        """\
x = torch.tensor([1.0, 2.0, 4.0])
def mean(x):
    return torch.native_group_norm(x.reshape(1, 1, 3), None, None, 1, 1, 3, 1, 1e-5)[1]
got = jacrev(mean)(x).flatten()
right = torch.full((3,), 1 / 3)
""",
        mended="2.14.1",
    ),
    Known(
        "median over an axis that is expanded",
        ("masked.median",),
        "3 instead of 1: it reads the memory behind the one number that is stored. nanmedian, too.",
        """\
x = torch.arange(1.0, 6.0)
got = torch.median(x[:1].expand(5), dim=0).values
right = torch.tensor(1.0)
""",
    ),
    Known(
        "forward mode of det, slogdet and logdet of lazily negated numbers",
        ("linalg.det", "linalg.slogdet", "logdet"),
        "-2 instead of -4: the factors are taken for those of the transpose.",
        """\
A = torch.tensor([[1.0, 2.0], [4.0, 3.0]])
same = torch.complex(torch.zeros(2, 2), -A).conj().imag  # A, by a bit that says so
D = torch.tensor([[0.0, 1.0], [0.0, 0.0]])
got = jvp(torch.linalg.det, (same,), (D,))[1]
right = jvp(torch.linalg.det, (A,), (D,))[1]
""",
        mended="2.15.0",
    ),
    Known(
        "NaN behind a mask in masked.logaddexp",
        ("masked.logaddexp",),
        "NaN in forward over forward mode, where the result is -inf and no derivative is left; "
        "reverse over reverse gives zeros.",
        """\
x, y = torch.tensor([0.5, 1.0]), torch.tensor([0.2, 2.0])
mask = torch.tensor([True, False])
masked = lambda x: torch.masked.logaddexp(x, y, input_mask=mask, other_mask=mask)
got = jacfwd(jacfwd(masked))(x)
right = jacrev(jacrev(masked))(x)
""",
    ),
    Known(
        "gradient of det at rank n - 1",
        (),
        "Zeros instead of the adjugate, by plain autograd and in forward mode.",
        """\
A = torch.arange(1.0, 10.0).view(3, 3).requires_grad_()
(got,) = torch.autograd.grad(torch.linalg.det(A), A)
right = torch.tensor([[-3.0, 6.0, -3.0], [6.0, -12.0, 6.0], [-3.0, 6.0, -3.0]])
""",
    ),
    Known(
        "forward mode of cholesky_inverse",
        ("cholesky_inverse",),
        "Factors are in the wrong order. With X the result: -X (dL Lᵀ + L dLᵀ) X.",
        """\
L = torch.tensor([[2.0, 0.0], [1.0, 3.0]])
D = torch.tensor([[1.0, 0.0], [0.5, 0.0]])
X = torch.cholesky_inverse(L)
got = jvp(torch.cholesky_inverse, (L,), (D,))[1]
right = -X @ (D @ L.mT + L @ D.mT) @ X
""",
        (196682,),
    ),
    Known(
        "forward over forward mode of det, slogdet and logdet",
        ("linalg.det", "linalg.slogdet", "logdet"),
        "7.2 instead of -4.",
        """\
A = torch.tensor([[2.0, 1.0], [1.0, 3.0]])
D = torch.tensor([[1.0, 2.0], [3.0, 4.0]])
got = jacfwd(jacfwd(lambda t: torch.linalg.det(A + t * D)))(torch.tensor(0.0))
right = 2 * torch.linalg.det(D)
""",
        (196695, 196696, 196697),
        mended="2.15.0",
    ),
    Known(
        "forward over forward mode of linalg.solve",
        ("linalg.solve", "linalg.solve_ex", "linalg.tensorsolve"),
        "Half of the second derivative of 1/t.",
        """\
inverse = lambda t: torch.linalg.solve(t.view(1, 1), torch.ones(1))[0]
t = torch.tensor(2.0)
got = jacfwd(jacfwd(inverse))(t)
right = 2 / t**3
""",
        (192540,),
        mended="2.15.0",
    ),
    Known(
        "second derivatives of det at the identity",
        (),
        "NaN.",
        """\
got = hessian(torch.linalg.det)(torch.eye(2))
right = torch.zeros(2, 2, 2, 2)
right[0, 0, 1, 1] = right[1, 1, 0, 0] = 1
right[0, 1, 1, 0] = right[1, 0, 0, 1] = -1
""",
        (192521,),
        mended="2.15.0",
    ),
    Known(
        "forward over forward mode of householder_product",
        ("linalg.householder_product",),
        "[-1.536, 0.512] instead of zeros, which reverse over reverse gives.",
        """\
V, tau = torch.tensor([[1.0], [0.5]]), torch.tensor([1.6])
D = torch.tensor([[0.0], [1.0]])
line = lambda t: torch.linalg.householder_product(V + t * D, tau)
got = jacfwd(jacfwd(line))(torch.tensor(0.0))
right = jacrev(jacrev(line))(torch.tensor(0.0))
""",
        (196698,),
    ),
    Known(
        "forward over forward mode of batch_norm",
        (
            "nn.functional.batch_norm*",
            "nn.functional.instance_norm",
            "native_batch_norm",
            "_native_batch_norm_legit",
            "_batch_norm_with_update",
        ),
        "[0.382, 0.038, -0.191] instead of [0.196, -0.180, -0.016].",
        """\
x, D = torch.tensor([[1.0], [2.0], [4.0]]), torch.tensor([[1.0], [0.0], [0.0]])
norm = lambda x: F.batch_norm(x, None, None, training=True)
written_out = lambda x: (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
second = lambda f: jacfwd(jacfwd(lambda t: f(x + t * D)))(torch.tensor(0.0))
got, right = second(norm), second(written_out)
""",
        (196699,),
    ),
    Known(
        "forward over forward mode of layer_norm",
        ("nn.functional.layer_norm", "native_layer_norm"),
        "[0.382, 0.038, -0.191] instead of [0.196, -0.180, -0.016].",
        """\
x, D = torch.tensor([1.0, 2.0, 4.0]), torch.tensor([1.0, 0.0, 0.0])
norm = lambda x: F.layer_norm(x, (3,))
written_out = lambda x: (x - x.mean()) / (x.var(unbiased=False) + 1e-5).sqrt()
second = lambda f: jacfwd(jacfwd(lambda t: f(x + t * D)))(torch.tensor(0.0))
got, right = second(norm), second(written_out)
""",
        (196700,),
    ),
    Known(
        "forward over forward mode of cumprod at zero",
        (),
        "[0, 1, 5] instead of [0, 2, 10].",
        """\
x = torch.tensor([0.0, 2.0, 3.0])
got = jacfwd(jacfwd(lambda t: (x + t).cumprod(0)))(torch.tensor(0.0))
right = torch.tensor([0.0, 2.0, 10.0])
""",
        (196701,),
    ),
    Known(
        "forward mode of scatter_reduce with products",
        ("scatter_reduce.prod",),
        "0 instead of 3.",
        """\
x, src = torch.tensor([2.0]), torch.tensor([3.0])
product = lambda x: x.scatter_reduce(0, torch.tensor([0]), src, "prod")
got = jvp(product, (x,), (torch.ones(1),))[1]
right = src
""",
        (196702,),
    ),
    Known(
        "second derivative of sinc at zero",
        (),
        "0 instead of -π²/3.",
        """\
got = hessian(torch.sinc)(torch.tensor(0.0))
right = torch.tensor(-torch.pi**2 / 3)
""",
        (196703, 89459),
    ),
    Known(
        "second derivatives of a squared norm at zero",
        (),
        "Zeros instead of -2 I.",
        """\
got = hessian(lambda x: torch.exp(-(x.norm() ** 2)))(torch.zeros(2))
right = -2 * torch.eye(2)
""",
        (92075,),
    ),
    Known(
        "checkpoint of rrelu",
        ("nn.functional.rrelu",),
        "The gradient is memory that nobody has written to, instead of 1.",
        """\
x = torch.tensor([1.0], requires_grad=True)
y = checkpoint(lambda x: F.rrelu(x, training=True), x, use_reentrant=False)
(got,) = torch.autograd.grad(y, x, torch.ones(1))
right = torch.ones(1)
""",
        (193671,),
    ),
    Known(
        "forward mode of triangular_solve",
        ("triangular_solve",),
        "The tangent of the triangle that is not read counts.",
        """\
A, below = torch.eye(2), torch.tensor([[0.0, 0.0], [1.0, 0.0]])
upper = lambda A: torch.triangular_solve(torch.ones(2, 1), A, upper=True)[0]
got = jvp(upper, (A,), (below,))[1]
right = torch.zeros(2, 1)
""",
        (196707,),
    ),
    Known(
        "gradient of as_strided_scatter",
        ("as_strided_scatter",),
        "[1, 0, 0] instead of [0, 1, 1]: that of what was overwritten is kept, the rest is lost.",
        """\
x = torch.ones(3, requires_grad=True)
y = torch.as_strided_scatter(x, torch.ones(1), (1,), (1,))
(got,) = torch.autograd.grad(y.sum(), x)
right = torch.tensor([0.0, 1.0, 1.0])
""",
        (88105,),
    ),
    Known(
        "gradient of max_unpool where places repeat",
        ("nn.functional.max_unpool*",),
        "1 for both; a number that another has overwritten has none.",
        """\
x = torch.tensor([[[1.0, 2.0]]], requires_grad=True)
place = torch.tensor([[[0, 0]]])
y = F.max_unpool1d(x, place, 1, output_size=(2,))
(got,) = torch.autograd.grad(y.sum(), x)
right = (y[..., :1] == x).double()
""",
        (80204,),
    ),
    Known(
        "vmap with out_dims=-1 of what is no batch",
        (),
        "A shape like (34359738369, 2, 0), or an error about it, instead of (2, 3).",
        """\
got = torch.tensor(vmap(lambda x: torch.ones(2), out_dims=-1)(torch.ones(3)).shape)
right = torch.tensor([2, 3])
""",
        (178425,),
        mended="2.14.1",
    ),
    Known(
        "reverse mode of init.constant_",
        (),
        "The identity instead of zeros: it runs under no_grad, and what was there before is kept.",
        """\
got = jacrev(lambda x: torch.nn.init.constant_(x.clone(), 3.0))(torch.ones(2))
right = torch.zeros(2, 2)
""",
        (80839,),
    ),
)
