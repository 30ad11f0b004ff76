"""What code written for torchsparsegradutils does with the core operations, by changed imports."""

import importlib
import inspect

import pytest
import torch
from torch.testing import assert_close

from tsgu_func import (
    gather_mm,
    segment_mm,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_triangular_solve,
)
from tsgu_func.utils import bicgstab, linear_cg, lsmr, minres
from tsgu_func.utils.bicgstab import BICGSTABSettings
from tsgu_func.utils.linear_cg import LinearCGSettings
from tsgu_func.utils.minres import MINRESSettings


def coo(row, col, values, shape):
    return torch.sparse_coo_tensor(torch.tensor([row, col]), torch.tensor(values), shape)


def assert_sparse_gradients(function, A, *others):
    """Differentiate, and look that what comes out is sparse where A is, and nowhere else."""
    A = A.requires_grad_()
    others = [x.requires_grad_() for x in others]
    function(A, *others).sum().backward()
    assert A.grad.is_sparse
    assert not bool(A.grad.to_dense()[A.detach().to_dense() == 0].any())
    assert all(x.grad.shape == x.shape for x in others)


def test_products():
    A = coo([0, 0, 1, 1, 2], [1, 3, 0, 2, 3], [2.0, -1.0, 4.0, 1.0, 3.0], (3, 4))
    B = torch.randn(4, 5)
    assert_close(sparse_mm(A, B), A.to_dense() @ B)
    batch, batch_B = torch.stack([A, 2 * A, -A]), torch.randn(3, 4, 5)
    assert_close(sparse_mm(batch, batch_B), batch.to_dense() @ batch_B)
    assert_sparse_gradients(sparse_mm, A, B)


def test_products_by_index():
    a, b = torch.randn(6, 4), torch.randn(3, 4, 2)
    index = torch.tensor([2, 0, 0, 1, 2, 0])
    expected = torch.stack([row @ b[i] for row, i in zip(a, index, strict=True)])
    assert_close(gather_mm(a, b, index), expected)
    assert_close(gather_mm(a, b, torch.ones(6, dtype=torch.long)), a @ b[1])
    doubled = torch.stack([torch.eye(4), 2 * torch.eye(4)])
    assert_close(gather_mm(a[:2], doubled, torch.tensor([1, 0])), a[:2] * torch.tensor([[2], [1]]))


def test_products_by_segment():
    a, b = torch.randn(9, 4), torch.randn(4, 4, 2)
    out = segment_mm(a, b, torch.tensor([4, 2, 0, 3]))
    assert_close(out, torch.cat([a[:4] @ b[0], a[4:6] @ b[1], a[6:] @ b[3]]))
    assert_close(segment_mm(a, b[:1], torch.tensor([9])), a @ b[0])


def test_triangular_solves():
    U = torch.tensor([[4.0, 1.0, 0.0], [0.0, 2.0, -1.0], [0.0, 0.0, 5.0]])
    B = torch.tensor([[3.0], [1.0], [10.0]])
    for A in (U.to_sparse_csr(), U.to_sparse_coo()):
        assert_close(U @ sparse_triangular_solve(A, B, upper=True), B)
        assert_close(U.T @ sparse_triangular_solve(A, B, transpose=True), B)
    L = U.T.contiguous()
    assert_close(L @ sparse_triangular_solve(L.to_sparse_csr(), B, upper=False), B)
    batch, batch_B = torch.stack([U.to_sparse_coo(), 2 * U.to_sparse_coo()]), torch.stack([B, B])
    assert_close(batch.to_dense() @ sparse_triangular_solve(batch, batch_B), batch_B)
    assert_sparse_gradients(sparse_triangular_solve, U.to_sparse_coo(), B)


def test_general_solves():
    A = coo([0, 0, 1, 1, 2], [0, 1, 0, 1, 2], [5.0, 2.0, 2.0, 6.0, 3.0], (3, 3))
    b, D = torch.tensor([2.0, 0.0, 9.0]), A.to_dense()
    settings = LinearCGSettings(max_cg_iterations=50, cg_tolerance=1e-6)
    for options in (
        {},
        {"solve": linear_cg},
        {"solve": linear_cg, "settings": settings},
        {"solve": bicgstab, "settings": BICGSTABSettings(reltol=1e-6)},
        {"settings": MINRESSettings(minres_tolerance=1e-6)},
    ):
        assert_close(D @ sparse_generic_solve(A, b, **options), b, rtol=1e-4, atol=1e-4)
    B = torch.randn(3, 4)
    assert_close(D @ sparse_generic_solve(A, B, solve=bicgstab), B, rtol=1e-4, atol=1e-4)
    assert_sparse_gradients(sparse_generic_solve, A, b)


def test_least_squares():
    row, col = [0, 1, 2, 3, 0, 2, 4, 3], [0, 0, 1, 1, 2, 2, 2, 0]
    A = coo(row, col, [2.0, 1.0, 3.0, -1.0, 1.0, 1.0, 2.0, 1.0], (5, 3))
    b, D = torch.randn(5), A.to_dense()
    expected = torch.linalg.lstsq(D, b.unsqueeze(1)).solution
    assert_close(sparse_generic_lstsq(A, b), expected[:, 0], rtol=1e-4, atol=1e-4)
    B = torch.randn(5, 4)
    loose = lambda A, B: lsmr(A, B, atol=1e-8, btol=1e-8)[0]
    X = sparse_generic_lstsq(A, B, lstsq=loose)
    assert_close(X, torch.linalg.lstsq(D, B).solution, rtol=1e-4, atol=1e-4)
    assert_sparse_gradients(sparse_generic_lstsq, A, b)


# ------------------------------------------------------------------------------------ signatures

# As the functions of torchsparsegradutils 0.2.7 are written, by module; `own` is what is the
# default of ours, an object of settings.
SIGNATURES = {
    ("sparse_matmul", "sparse_mm"): "A, B",
    ("indexed_matmul", "gather_mm"): "a, b, idx_b",
    ("indexed_matmul", "segment_mm"): "a, b, seglen_a",
    ("sparse_solve", "sparse_triangular_solve"): (
        "A, B, upper=True, unitriangular=False, transpose=False"
    ),
    ("sparse_solve", "sparse_generic_solve"): "A, B, solve=None, transpose_solve=None, **kwargs",
    ("sparse_lstsq", "sparse_generic_lstsq"): "A, B, lstsq=None, transpose_lstsq=None",
    ("utils.linear_cg", "linear_cg"): (
        "matmul_closure, rhs, n_tridiag=0, tolerance=None, eps=None, stop_updating_after=None, "
        "max_iter=None, max_tridiag_iter=None, initial_guess=None, preconditioner=None, "
        "settings=own, convergence_reduction='all', min_iter=0, return_info=False"
    ),
    ("utils.bicgstab", "bicgstab"): "matmul_closure, rhs, initial_guess=None, settings=own",
    ("utils.minres", "minres"): (
        "matmul_closure, rhs, eps=1e-25, shifts=None, value=None, max_iter=None, "
        "preconditioner=None, settings=own"
    ),
    ("utils.lsmr", "lsmr"): (
        "A, b, Armat=None, n=None, damp=0.0, atol=1e-6, btol=1e-6, conlim=1e8, maxiter=None, "
        "x0=None, check_nonzero=True"
    ),
}
SETTINGS = {"linear_cg": LinearCGSettings, "bicgstab": BICGSTABSettings, "minres": MINRESSettings}


@pytest.mark.parametrize(("module", "name"), SIGNATURES)
def test_signatures(module, name):
    """Each argument has its name, place and default; what is ours alone is given by name."""
    function = getattr(importlib.import_module(f"tsgu_func.{module}"), name)
    ours = list(inspect.signature(function).parameters.values())
    written = eval(f"lambda {SIGNATURES[module, name]}: 0", {"own": SETTINGS.get(name, object)()})
    theirs = list(inspect.signature(written).parameters.values())
    for own, x in zip(ours, theirs, strict=False):
        assert (own.name, own.kind, own.default) == (x.name, x.kind, x.default)
        assert type(own.default) is type(x.default)
    more = ours[len(theirs) :]
    assert len(ours) >= len(theirs)
    assert all(x.kind is x.KEYWORD_ONLY and x.default is not x.empty for x in more)


@pytest.mark.parametrize(
    ("settings", "fields"),
    [
        (
            LinearCGSettings,
            {
                "max_cg_iterations": 1000,
                "max_lanczos_quadrature_iterations": 20,
                "cg_tolerance": None,
                "terminate_cg_by_size": False,
                "verbose_linalg": False,
            },
        ),
        (
            MINRESSettings,
            {"max_cg_iterations": 1000, "minres_tolerance": None, "verbose_linalg": False},
        ),
        (
            BICGSTABSettings,
            {"matvec_max": None, "abstol": 0.0, "reltol": None, "precon": None, "logger": None},
        ),
    ],
)
def test_fields_of_settings(settings, fields):
    """They are in the places where they were; tolerances are by the dtype, see docs/porting.md."""
    assert list(settings()._asdict().items()) == list(fields.items())


def test_arguments_by_place():
    """What is given by place arrives at the argument of that place."""
    D = torch.tensor([[4.0, 1.0, 0.0], [1.0, 3.0, -1.0], [0.0, -1.0, 5.0]]).double()
    b, A = torch.tensor([1.0, 2.0, 3.0]).double(), D.to_sparse_csr()
    x = torch.linalg.solve(D, b)
    seen = []

    def solve(A, B, factor):
        seen.append(factor)
        return factor * torch.linalg.solve(A.to_dense(), B)

    B = b.clone().requires_grad_()
    adjoint = lambda A, G, factor: solve(A, G, -factor)
    sparse_generic_solve(A, B, solve, adjoint, factor=1).sum().backward()
    assert seen == [1, -1]
    X, T = linear_cg(D, b, 1, 1e-12, 1e-20, 1e-20, 50, 2, 0.5 * x, lambda R: R / 2)
    assert_close(X, x)
    assert T.shape[-2:] == (2, 2)
    assert_close(bicgstab(D, b, 0.5 * x, BICGSTABSettings(None, 0.0, 1e-12)), x)
    assert_close(
        minres(D, b, 1e-25, torch.tensor([0.5]).double(), 2.0, 50, lambda R: R / 2)[0],
        torch.linalg.solve(2 * D + 0.5 * torch.eye(3), b),
    )
    found, steps = lsmr(D, b, D.T, 3, 0.5, 1e-12, 1e-12, 1e8, 50, torch.zeros(3).double(), False)
    assert_close(found, torch.linalg.solve(D.T @ D + 0.25 * torch.eye(3), D.T @ b))
    assert 0 < steps <= 50
