"""PyTorch's default dtype and device are the caller's: no result depends on them."""

from contextlib import contextmanager

import pytest
import torch
from torch.testing import assert_close

from tests.defaults import LIBRARY, watching
from tsgu_func import (
    SparseMatrix,
    gather_mm,
    segment_mm,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_mm,
    sparse_solve,
    sparse_triangular_solve,
    utils,
)
from tsgu_func.solvers import CG, ILUT, BiCGStab, DenseLU, SuperLU, clear_cache

CPU = torch.device("cpu")
LAYOUTS = (torch.sparse_coo, torch.sparse_csr)


@contextmanager
def defaults(dtype=torch.float32, device=None):
    torch.set_default_dtype(dtype)
    torch.set_default_device(device)
    clear_cache()  # what was kept was made under other defaults
    try:
        yield
    finally:
        torch.set_default_dtype(torch.float32)
        torch.set_default_device(None)
        clear_cache()


def results():
    """Call public functions with float32 on the CPU; give what they return by their names."""
    D = torch.tensor(
        [[4.0, 1.0, 0.0], [1.0, 5.0, 2.0], [0.0, 2.0, 6.0]], dtype=torch.float32, device=CPU
    )
    B = torch.tensor([[1.0, 2.0], [3.0, 4.0], [5.0, 6.0]], dtype=torch.float32, device=CPU)
    index, lengths = (torch.tensor(x, device=CPU) for x in ([1, 0, 1], [1, 2]))
    bank, N = torch.stack([D[:2], -D[:2]]).mT @ D[:2, :2], D.clone()
    N[0, 1] = 3
    # Patterns of their own: what was derived for one under other defaults is not found again.
    A, general, L, T = map(SparseMatrix.from_dense, (D, N, D.tril(), D[:, :2].contiguous()))
    return {
        "product": sparse_mm(A, B),
        "triangular": sparse_triangular_solve(L, B, upper=False),
        "minres": sparse_generic_solve(A, B),
        "auto": sparse_solve(A, B),
        "superlu": sparse_solve(general, B, solver=SuperLU()),
        "dense": sparse_solve(general, B, solver=DenseLU()),
        "ilut": sparse_solve(general, B, solver=BiCGStab(preconditioner=ILUT())),
        "cg": sparse_solve(A, B, solver=CG()),
        "least squares": sparse_generic_lstsq(T, B),
        "gather": gather_mm(D, bank, index),
        "segment": segment_mm(D, bank, lengths),
        "gradient": torch.func.grad(lambda v: sparse_solve(A.with_values(v), B).sum())(A.values),
        "COO": A.to_coo().to_dense(),
        "CSR": A.to_csr().to_dense(),
        "condition": sparse_solve(A, B, return_info=True)[1].condition,
        "shifts": utils.minres(D, B, shifts=0.1),
        **{f"{name} {layout}": x for layout in LAYOUTS for name, x in made(layout, D).items()},
    }


def made(layout, D):
    generator = torch.Generator(CPU).manual_seed(0)
    kinds = {"generator": generator, "well_conditioned": True}
    spd, _ = utils.make_spd_sparse(5, layout, torch.float32, torch.int64, CPU, generator=generator)
    S = D.to_sparse(layout=layout)
    pair = utils.sparse_block_diag(S, S)
    return {
        "general": utils.rand_sparse((2, 5, 6), 9, layout, **kinds),
        "triangular": utils.rand_sparse_tri((5, 5), 9, layout, **kinds),
        "definite": spd,
        "identity": utils.sparse_eye((2, 3, 3), layout=layout, values_dtype=torch.float32),
        "blocks": pair,
        "block": utils.sparse_block_diag_split(pair, (3, 3), (3, 3))[1],
    }


@pytest.mark.parametrize(
    "odd",
    [{"dtype": torch.float64}, {"dtype": torch.float16}, {"device": "meta"}],
    ids=["float64", "float16", "meta"],
)
def test_results_do_not_depend_on_them(odd):
    with defaults():
        expected = results()
    with defaults(**odd):
        got = results()
    for name, x in got.items():
        assert x.dtype == torch.float32, name
        assert x.device == CPU, name
        assert torch.equal(x.to_dense(), expected[name].to_dense()), name


def test_a_shift_is_as_exact_as_it_is_given():
    d = torch.tensor([1e-3, 2.0, -3.0], dtype=torch.float64)
    x = utils.minres(torch.diag(d), torch.ones_like(d), shifts=0.1)
    assert_close(x, 1 / (d + 0.1), rtol=1e-10, atol=0)


@pytest.mark.parametrize(
    ("call", "missing"),
    [
        ("zeros(2)", "device and no dtype"),
        ("zeros(2, device='cpu')", "dtype"),
        ("tensor([1, 0.5], device='cpu')", "dtype"),
        ("arange(3)", "device"),
        ("as_tensor(x)", "device"),
        ("sparse_coo_tensor([[0]], x, (2,))", "device"),
    ],
)
def test_what_leaves_it_to_a_default_is_found(call, missing):
    with watching(), pytest.raises(AssertionError, match=rf"planted.py:1: .* names no {missing}$"):
        planted("ops", f"torch.{call}")


def test_what_names_them_or_is_elsewhere_is_not():
    with watching():
        planted("ops", "torch.zeros(2, dtype=x.dtype, device=x.device)")
        planted("demo", "torch.zeros(2)")
        assert torch.zeros(2).dtype == torch.float32


def planted(room, text):
    """Run a line as if it stood in a room of the library."""
    path = str(LIBRARY / room / "planted.py")
    exec(compile(text, path, "exec"), {"torch": torch, "x": torch.ones(1)})
