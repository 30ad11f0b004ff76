"""Random matrices: what is stored where, how likely, how well conditioned; errors."""

import inspect
import itertools
import pickle

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy.stats import chisquare
from torch.testing import assert_close

from tests.test_utils import INDICES, LAYOUTS, validated
from tsgu_func import SparseMatrix
from tsgu_func.utils import make_spd_sparse, rand_sparse, rand_sparse_tri, random_sparse
from tsgu_func.utils.random_patterns import Source

CPU, CSR = torch.device("cpu"), torch.sparse_csr
DTYPES = [torch.float16, torch.bfloat16, torch.float32, torch.float64, torch.complex64]
DTYPES += [torch.complex128]
SEEDS = st.integers(0, 2**31)
KINDS = st.fixed_dictionaries(
    {
        "layout": st.sampled_from(LAYOUTS),
        "values_dtype": st.sampled_from(DTYPES),
        "indices_dtype": st.sampled_from(INDICES),
    }
)
BATCHES = st.sampled_from([(), (0,), (1,), (3,)])


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


def check_stored(A, size, nnz, kinds):
    """Check layout, dtypes, and exactly nnz distinct places in each member."""
    validated(A)
    assert (A.layout, A.dtype, tuple(A.shape)) == (kinds["layout"], kinds["values_dtype"], size)
    if A.layout == torch.sparse_csr:
        assert A.crow_indices().dtype == A.col_indices().dtype == kinds["indices_dtype"]
        assert A.values().shape == (*size[:-2], nnz)
    else:
        assert A.is_coalesced()
        member = A.indices()[0] if len(size) == 3 else torch.zeros(A.values().shape, dtype=int)
        counts = torch.bincount(member, minlength=size[0] if len(size) == 3 else 1)
        assert counts.tolist() == [nnz] * len(counts)


def stored(A):
    """Return a dense mask of what is stored."""
    A = A.to_sparse_coo()
    return torch.sparse_coo_tensor(A.indices(), torch.ones(A.values().shape), A.shape).to_dense()


def parts(A):
    """Return the values, complex ones as real and imaginary parts."""
    values = A.values().clone()  # PyTorch takes no such view of the values of a CSR tensor itself
    return torch.view_as_real(values) if A.is_complex() else values


def wide(A):
    return A.to_dense().to(torch.complex128 if A.is_complex() else torch.float64)


def condition(D):
    """Return the worst condition number of a batch."""
    s = torch.linalg.svdvals(D)
    return float((s[..., 0] / s[..., -1]).max()) if s.numel() else 1.0


# ------------------------------------------------------------------------------------- general


@given(BATCHES, st.integers(0, 7), st.integers(0, 7), st.data(), KINDS, SEEDS)
def test_general(batch, n, m, data, kinds, seed):
    nnz, size = data.draw(st.integers(0, n * m)), (*batch, n, m)
    A = rand_sparse(size, nnz, generator=seeded(seed), **kinds)
    check_stored(A, size, nnz, kinds)
    assert bool(((parts(A) > 0) & (parts(A) <= 1)).all())


@given(BATCHES, st.integers(0, 7), st.integers(0, 7), st.data(), KINDS, SEEDS)
def test_general_well_conditioned(batch, n, m, data, kinds, seed):
    k, size = min(n, m), (*batch, n, m)
    nnz, floor = data.draw(st.integers(k, n * m)), data.draw(st.sampled_from([1e-2, 1.0, 30.0]))
    A = rand_sparse(
        size, nnz, well_conditioned=True, min_diag_value=floor, generator=seeded(seed), **kinds
    )
    check_stored(A, size, nnz, kinds)
    check_dominance(A, floor)


def check_dominance(A, floor):
    D = wide(A)
    diagonal = D.diagonal(dim1=-2, dim2=-1)
    rest = D.clone()
    rest.diagonal(dim1=-2, dim2=-1).zero_()
    precise = A.dtype.to_real() in (torch.float32, torch.float64)
    slack = 1 + (1e-5 if precise else 1e-2)
    assert bool((diagonal.real >= floor / slack).all())
    assert bool((diagonal.real <= 2 * floor * slack).all())
    assert not diagonal.is_complex() or not bool(diagonal.imag.any())
    if rest.numel():
        assert float(rest.abs().sum(-1).max()) <= floor / 2 * slack
        assert float(rest.abs().sum(-2).max()) <= floor / 2 * slack
        assert condition(D) <= 5 * slack


def test_small_entries_are_left_as_they_are():
    kept = {"generator": seeded(1), "min_diag_value": 1e3, "well_conditioned": True}
    A = rand_sparse_tri((5, 5), 9, value_range=(0.5, 1.0), **kept).to_dense().triu(1)
    off = A[A != 0]
    assert len(off) == 4
    assert bool(((off > 0.5) & (off <= 1)).all())


# --------------------------------------------------------------------------------- triangular


@given(BATCHES, st.integers(0, 8), st.booleans(), st.booleans(), st.data(), KINDS, SEEDS)
def test_triangular(batch, n, upper, strict, data, kinds, seed):
    off = n * (n - 1) // 2
    nnz = data.draw(st.integers(0, off) if strict else st.integers(n, n + off))
    size = (*batch, n, n)
    A = rand_sparse_tri(
        size, nnz, upper=upper, strict=strict, value_range=(-3, 5), generator=seeded(seed), **kinds
    )
    check_stored(A, size, nnz, kinds)
    mask = stored(A)
    k = int(strict) if upper else -int(strict)
    assert torch.equal(mask, mask.triu(k) if upper else mask.tril(k))
    assert strict or bool((mask.diagonal(dim1=-2, dim2=-1) == 1).all())
    assert bool(((parts(A) >= -3) & (parts(A) <= 5)).all())


@given(st.integers(0, 8), st.booleans(), st.booleans(), st.data(), KINDS, SEEDS)
def test_triangular_well_conditioned(n, upper, strict, data, kinds, seed):
    off = n * (n - 1) // 2
    nnz = data.draw(st.integers(0, off) if strict else st.integers(n, n + off))
    floor = data.draw(st.sampled_from([0.5, 4.0]))
    A = rand_sparse_tri(
        (2, n, n),
        nnz,
        upper=upper,
        strict=strict,
        value_range=(-100, 100),
        well_conditioned=True,
        min_diag_value=floor,
        generator=seeded(seed),
        **kinds,
    )
    check_stored(A, (2, n, n), nnz, kinds)
    if strict:
        assert condition(wide(A) + torch.eye(n)) <= 3.05
    else:
        check_dominance(A, floor)


def test_without_the_option_a_triangle_is_ill_conditioned():
    # So that the bound above says something.
    A = rand_sparse_tri((60, 60), 1500, values_dtype=torch.float64, generator=seeded())
    assert condition(A.to_dense()) > 1e6


# ----------------------------------------------------------------------------------- how likely


def check_uniform(masks, subsets):
    """Check that each of the subsets of places is as likely (a fixed seed: no flaky test)."""
    seen = {}
    for mask in masks.flatten(1).bool():
        key = tuple(mask.nonzero().flatten().tolist())
        seen[key] = seen.get(key, 0) + 1
    counts = [seen.pop(key, 0) for key in subsets]
    assert not seen
    assert chisquare(counts).pvalue > 1e-3


def subsets_of(n, m, nnz, where):
    places = [i * m + j for i in range(n) for j in range(m) if where(i, j)]
    diagonal = [i * m + i for i in range(min(n, m))]
    free = [p for p in places if p not in diagonal]
    if not any(where(i, i) for i in range(min(n, m))):
        diagonal = []
    return [
        tuple(sorted([*diagonal, *rest]))
        for rest in itertools.combinations(free, nnz - len(diagonal))
    ]


# Few of many places are drawn one by one, many of few from a permutation: some of each.
@pytest.mark.parametrize(("n", "m", "nnz"), [(2, 3, 3), (3, 4, 2), (5, 4, 1), (2, 2, 3)])
def test_all_places_are_as_likely(n, m, nnz):
    masks = stored(rand_sparse((4000, n, m), nnz, generator=seeded(5)))
    check_uniform(masks, list(itertools.combinations(range(n * m), nnz)))


@pytest.mark.parametrize(("n", "m", "nnz"), [(3, 3, 4), (2, 4, 4), (4, 2, 3), (4, 5, 6)])
def test_all_places_beside_the_diagonal_are_as_likely(n, m, nnz):
    masks = stored(rand_sparse((4000, n, m), nnz, well_conditioned=True, generator=seeded(6)))
    check_uniform(masks, subsets_of(n, m, nnz, lambda i, j: True))


@pytest.mark.parametrize(("n", "nnz"), [(4, 2), (5, 2), (5, 1), (6, 2)])
@pytest.mark.parametrize("upper", [True, False])
@pytest.mark.parametrize("strict", [True, False])
def test_all_places_of_a_triangle_are_as_likely(n, nnz, upper, strict):
    size, nnz = (3000, n, n), nnz if strict else nnz + n
    masks = stored(rand_sparse_tri(size, nnz, upper=upper, strict=strict, generator=seeded(7)))
    sign, least = (1 if upper else -1), int(strict)
    check_uniform(masks, subsets_of(n, n, nnz, lambda i, j: sign * (j - i) >= least))


def test_remainders_of_large_numbers_are_fair():
    # Plain remainders of 62-bit numbers would put two thirds of them in the first third.
    drawn = Source(CPU, seeded()).distinct(1, 3 * 2**60, 30_000)
    assert abs(float((drawn < 2**60).double().mean()) - 1 / 3) < 0.02


def test_zero_is_never_drawn():
    # PyTorch's own draw of this seed, from [0, 1), has a zero.
    count = (2**21,)
    assert bool((torch.empty(count).uniform_(generator=seeded(3)) == 0).any())
    assert bool((Source(CPU, seeded(3)).uniform(count, 0, 1, torch.float32) > 0).all())


def test_huge_matrices_take_memory_for_their_entries_only():
    n = 2**31
    A = rand_sparse((n, n), 1000, generator=seeded())
    assert A.values().shape == (1000,)
    row, col = A.indices()
    assert row.max() > 0.98 * n
    assert abs(float(row.double().mean()) / n - 0.5) < 0.05
    assert abs(float(col.double().mean()) / n - 0.5) < 0.05
    row, col = rand_sparse_tri((n, n), 1000, strict=True, upper=False).indices()
    assert bool((row > col).all())
    assert abs(float(row.double().mean()) / n - 2 / 3) < 0.05


# ------------------------------------------------------------------------------ reproducibility

DRAWN = [
    lambda **k: rand_sparse((2, 9, 8), 11, **k),
    lambda **k: rand_sparse((9, 8), 40, well_conditioned=True, **k),
    lambda **k: rand_sparse_tri((2, 9, 9), 20, **k),
    lambda **k: rand_sparse_tri((9, 9), 20, strict=True, well_conditioned=True, **k),
    lambda layout=torch.sparse_coo, **k: make_spd_sparse(
        9, layout, torch.float64, torch.int64, CPU, **k
    )[0],
]


@pytest.mark.parametrize("draw", DRAWN)
def test_generator_decides(draw):
    torch.manual_seed(1)
    before = torch.get_rng_state()
    A = draw(generator=seeded(3)).to_dense()
    assert torch.equal(torch.get_rng_state(), before)
    torch.manual_seed(2)
    assert torch.equal(draw(generator=seeded(3)).to_dense(), A)
    assert torch.equal(draw(generator=seeded(3), layout=torch.sparse_csr).to_dense(), A)
    assert not torch.equal(draw(generator=seeded(4)).to_dense(), A)


@pytest.mark.parametrize("draw", DRAWN)
def test_global_seed_decides_without_a_generator(draw):
    A, B = draw(), draw()
    assert not torch.equal(A.to_dense(), B.to_dense())
    torch.manual_seed(0)
    assert torch.equal(draw().to_dense(), A.to_dense())


@pytest.mark.parametrize("draw", DRAWN)
def test_the_matrix_of_this_library_is_a_layout(draw):
    expected = draw(generator=seeded(3), layout=torch.sparse_csr)
    A = draw(generator=seeded(3), layout=SparseMatrix)
    assert type(A) is SparseMatrix
    assert (A.shape, A.dtype, A.values.shape) == (
        expected.shape,
        expected.dtype,
        expected.values().shape,
    )
    if A.ndim == 2:
        assert torch.equal(A.to_dense(), expected.to_dense())
    else:  # whose members share a pattern
        assert not torch.equal(A[0].values, A[1].values)


def test_the_matrix_of_this_library_without_members():
    A = rand_sparse((0, 4, 5), 7, SparseMatrix, well_conditioned=True)
    assert (A.shape, A.nnz) == ((0, 4, 5), 7)
    A = rand_sparse((3, 9, 9), 20, SparseMatrix, well_conditioned=True, values_dtype=torch.float64)
    assert condition(A.to_dense()) < 5.001


def test_members_of_a_batch_differ():
    A = rand_sparse((2, 20, 20), 50)
    assert not torch.equal(A[0].to_dense() != 0, A[1].to_dense() != 0)


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("layout", LAYOUTS)
def test_cpu_generator_gives_the_same_matrix_on_a_gpu(layout):
    kinds = {"layout": layout, "values_dtype": torch.float64, "well_conditioned": True}
    A = rand_sparse((2, 30, 40), 90, generator=seeded(), **kinds)
    B = rand_sparse((2, 30, 40), 90, generator=seeded(), device="cuda", **kinds)
    assert B.device.type == "cuda"
    assert_close(B.cpu().to_dense(), A.to_dense())
    native = torch.Generator("cuda").manual_seed(0)
    assert rand_sparse((5, 5), 5, device="cuda", generator=native).device.type == "cuda"


# --------------------------------------------------------------------------- one layout at a time


@pytest.mark.parametrize("layout", ["coo", "csr"])
@pytest.mark.parametrize("kind", ["", "triangular_", "strictly_triangular_"])
def test_functions_of_one_layout(layout, kind):
    function = getattr(random_sparse, f"generate_random_sparse_{kind}{layout}_matrix")
    options = {"values_dtype": torch.complex128, "indices_dtype": torch.int32, "device": CPU}
    if kind:
        options |= {"upper": False, "value_range": (1.0, 2.0)}
    if not kind.startswith("strictly"):
        options |= {"well_conditioned": True, "min_diag_value": 2.0}
    A = function((2, 6, 6), 12, generator=seeded(), **options)
    if kind:
        options["strict"] = kind.startswith("strictly")
    general = rand_sparse_tri if kind else rand_sparse
    layout = torch.sparse_coo if layout == "coo" else torch.sparse_csr
    B = general((2, 6, 6), 12, layout, generator=seeded(), **options)
    assert A.layout == layout
    assert torch.equal(A.to_dense(), B.to_dense())
    assert set(inspect.signature(function).parameters) == {"size", "nnz", "generator", *options} - {
        "strict"
    }
    for unknown in ("strict", "layout", "values"):
        with pytest.raises(TypeError, match=f"{function.__name__}.. got an unexpected .*{unknown}"):
            function((3, 3), 3, **{unknown: True})
    assert pickle.loads(pickle.dumps(function)) is function


# --------------------------------------------------------------------------- positive definite


@given(st.integers(0, 8), st.sampled_from([0.0, 0.3, 0.5, 1.0]), KINDS, SEEDS)
def test_positive_definite(n, ratio, kinds, seed):
    three = (kinds[name] for name in ("layout", "values_dtype", "indices_dtype"))
    A, D = make_spd_sparse(n, *three, CPU, ratio, generator=seeded(seed))
    pairs = n * (n - 1) // 2
    check_stored(A, (n, n), n + 2 * (pairs - int(ratio * pairs)), kinds)
    assert torch.equal(A.to_dense(), D)
    assert torch.equal(D, D.mH)
    assert n == 0 or float(torch.linalg.eigvalsh(wide(A)).min()) > 0.99


def test_positive_definite_when_large_and_in_half_precision():
    A, _ = make_spd_sparse(400, torch.sparse_csr, torch.bfloat16, torch.int32, CPU, 0.1)
    D = wide(A)
    rest = D - D.diag().diag()
    assert float((D.diag() - rest.abs().sum(1)).min()) > 0.99
    assert float(rest.min()) < -1
    assert float(rest.max()) > 1


@pytest.mark.parametrize("nz", [0, 7, 15])
def test_positive_definite_leaves_out_pairs(nz):
    A, _ = make_spd_sparse(6, torch.sparse_coo, torch.float64, torch.int64, CPU, 0.9, nz)
    assert A.values().shape == (36 - 2 * nz,)


# --------------------------------------------------------------------------------------- errors


@pytest.mark.parametrize(
    ("error", "match", "arguments", "kinds"),
    [
        (ValueError, "nnz is 0 to 12, the places of a 3 x 4 matrix; got 13", ((3, 4), 13), {}),
        (ValueError, "got -1", ((3, 4), -1), {}),
        (ValueError, "nnz is 3 to 12, the diagonal", ((3, 4), 2), {"well_conditioned": True}),
        (TypeError, "integer", ((3, 4), 2.0), {}),
        (TypeError, "got int", (3, 2), {}),
        (ValueError, "none negative", ((3,), 2), {}),
        (ValueError, "none negative", ((1, 1, 3, 3), 2), {}),
        (ValueError, "at most 2", ((2**31, 2**31 + 1), 2), {}),
        (ValueError, "Unsupported layout", ((3, 4), 2, torch.strided), {}),
        (ValueError, "got torch.int8", ((3, 4), 2), {"indices_dtype": torch.int8}),
        (ValueError, "got torch.int32", ((3, 4), 2), {"values_dtype": torch.int32}),
        (ValueError, "indices_dtype=", ((2, 2**31), 2, CSR), {"indices_dtype": torch.int32}),
        *(
            (ValueError, "positive", ((2, 2), 2), {"well_conditioned": True, "min_diag_value": x})
            for x in (0.0, -1.0, float("nan"), float("inf"))
        ),
    ],
)
def test_general_refuses(error, match, arguments, kinds):
    with pytest.raises(error, match=match):
        rand_sparse(*arguments, **kinds)


@pytest.mark.parametrize(
    ("match", "arguments", "kinds"),
    [
        ("nnz is 3 to 6, the diagonal", ((3, 3), 2), {}),
        ("nnz is 3 to 6, the diagonal", ((3, 3), 7), {}),
        ("nnz is 0 to 3, the places of a strict", ((3, 3), 4), {"strict": True}),
        ("square", ((3, 4), 3), {}),
        ("Unsupported layout", ((3, 3), 3, torch.strided), {}),
        ("in order", ((3, 3), 3), {"value_range": (1, 0)}),
        ("finite", ((3, 3), 3), {"value_range": (0, float("inf"))}),
        ("positive", ((3, 3), 3), {"well_conditioned": True, "min_diag_value": 0}),
    ],
)
def test_triangular_refuses(match, arguments, kinds):
    with pytest.raises(ValueError, match=match):
        rand_sparse_tri(*arguments, **kinds)


@pytest.mark.parametrize(
    ("match", "n", "layout", "options"),
    [
        ("Unsupported layout", 3, torch.strided, {}),
        ("none negative", -1, torch.sparse_coo, {}),
        ("between 0 and 1; got 1.5", 3, torch.sparse_coo, {"sparsity_ratio": 1.5}),
        ("nz is 0 to 3", 3, torch.sparse_coo, {"nz": 4}),
        ("nz is 0 to 3", 3, torch.sparse_coo, {"nz": -1}),
    ],
)
def test_positive_definite_refuses(match, n, layout, options):
    with pytest.raises(ValueError, match=match):
        make_spd_sparse(n, layout, torch.float64, torch.int64, CPU, **options)
