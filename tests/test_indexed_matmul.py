"""gather_mm and segment_mm against row by row products: values, batches, errors, memory."""

import threading

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import Tensor
from torch.func import grad, vmap
from torch.fx.experimental.proxy_tensor import make_fx
from torch.testing import assert_close

from tests.derivatives import assert_derivatives
from tests.indexed import WAYS, by_row, factors, repeated
from tsgu_func import gather_mm, segment_mm
from tsgu_func.kernels import segments as segments_kernels
from tsgu_func.ops.segments import segment_outer, segment_product
from tsgu_func.selfcheck.records.base import randn
from tsgu_func.testing.checker.problem import inner
from tsgu_func.testing.strategies import index_vectors, right_hand_sides, segments

SEEDS = st.integers(0, 999)
DTYPES_TAKEN = {
    torch.float16: 2e-3,
    torch.bfloat16: 2e-2,
    torch.float32: 1e-5,
    torch.float64: 1e-12,
    torch.complex64: 1e-5,
    torch.complex128: 1e-12,
}


@pytest.fixture(params=WAYS)
def way(request, monkeypatch):
    for name, value in WAYS[request.param].items():
        monkeypatch.setattr(segments_kernels, name, value)
    return request.param


# --------------------------------------------------------------------------------------- values


@pytest.mark.parametrize("way", WAYS)
@given(lengths=segments(), data=st.data())
def test_values(way, lengths, data):
    a, b = data.draw(factors(int(lengths.sum()), len(lengths)))
    idx = data.draw(index_vectors(len(a), len(lengths)))
    G = data.draw(right_hand_sides(len(a), b.shape[2], dtype=a.dtype))
    with pytest.MonkeyPatch.context() as patch:
        for name, value in WAYS[way].items():
            patch.setattr(segments_kernels, name, value)
        assert_close(segment_mm(a, b, lengths), by_row(a, b, repeated(lengths.tolist())))
        found = gather_mm(a, b, idx)
        assert_close(found, by_row(a, b, idx.tolist()))
        # The adjoint law: <G, a b> = <sum of aᴴ G by segment, b>.
        order = idx.argsort(stable=True)
        offsets = torch.searchsorted(idx[order].long(), torch.arange(len(lengths) + 1))
        assert_close(inner([G], [found]), inner([segment_outer(a.conj(), G, offsets, order)], [b]))


# PyTorch's forward mode fails by itself where an argument is lazily conjugated or expanded.
PLAIN = st.sampled_from(["contiguous", "transposed", "sliced", "offset"])


@pytest.mark.slow
@given(segments(longest=3), st.data(), SEEDS)
def test_derivatives(lengths, data, seed):
    a, b = data.draw(factors(int(lengths.sum()), len(lengths), strides=PLAIN))
    idx = data.draw(index_vectors(len(a), len(lengths)))
    assert_derivatives(lambda a, b: torch.sin(gather_mm(a, b, idx)), (a, b), seed)
    assert_derivatives(lambda a, b: torch.sin(segment_mm(a, b, lengths)), (a, b), seed)


@given(segments(longest=4), st.data())
def test_map_is_the_stack(lengths, data):
    n, number = int(lengths.sum()), len(lengths)
    a, b = data.draw(factors(n, number, batch=(3,)))
    vectors = index_vectors(n, number, index_dtype=torch.int64)
    idx = torch.stack([data.draw(vectors) for _ in range(3)])
    shuffle = torch.tensor([data.draw(st.permutations(range(number))) for _ in range(3)]).long()
    for function, integers in ((gather_mm, idx), (segment_mm, lengths[shuffle])):
        given_ = a, b, integers
        for which in range(1, 8):
            dims = tuple(0 if which & bit else None for bit in (1, 2, 4))
            args = tuple(x if d == 0 else x[1] for x, d in zip(given_, dims, strict=True))
            members = [
                function(*(x[k] if d == 0 else x for x, d in zip(args, dims, strict=True)))
                for k in range(3)
            ]
            assert_close(vmap(function, dims)(*args), torch.stack(members))


@pytest.mark.parametrize(("dtype", "tolerance"), DTYPES_TAKEN.items(), ids=str)
@pytest.mark.parametrize("lengths", [[3, 0, 40, 1], [5, 5, 5, 5], [1, 2, 3, 4, 0] * 9])
def test_dtypes(way, dtype, tolerance, lengths):
    index = repeated(lengths)
    a = randn(len(index), 3, dtype=dtype).requires_grad_()
    b = randn(len(lengths), 3, 5, dtype=dtype).requires_grad_()
    wide = torch.complex128 if dtype.is_complex else torch.float64
    A, B = (x.detach().to(wide).requires_grad_() for x in (a, b))
    G = randn(len(index), 5, dtype=dtype, seed=3)
    expected = torch.stack([A[i] @ B[r] for i, r in enumerate(index)])
    expected.backward(G.to(wide))
    anyhow = torch.randperm(len(index))
    for out in (
        segment_mm(a, b, torch.tensor(lengths)),
        gather_mm(a[anyhow], b, torch.tensor(index)[anyhow])[anyhow.argsort()],
    ):
        assert out.dtype == dtype
        a.grad = b.grad = None
        out.backward(G)
        close = {"rtol": tolerance, "atol": 8 * tolerance, "check_dtype": False}
        assert_close(out, expected, **close)
        assert_close(a.grad, A.grad, **close)
        assert_close(b.grad, B.grad, **close)
        assert a.grad.dtype == b.grad.dtype == dtype


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16])
def test_half_precision_accumulates_in_single(low):
    n = 4000
    a, b = torch.full((2, n), 0.1).to(low), torch.ones(1, n, 1).to(low).requires_grad_()
    exact = a[0].double().sum().item()
    out = segment_mm(a, b, torch.tensor([2]))
    assert abs(out[0].item() - exact) / exact < torch.finfo(low).eps
    ones = torch.ones(n, 1, dtype=low)
    bank = torch.ones(1, 1, 1, dtype=low, requires_grad=True)
    segment_mm(ones * 0.1, bank, torch.tensor([n])).sum().backward()
    assert abs(bank.grad.item() - exact) / exact < torch.finfo(low).eps


@pytest.mark.parametrize("n", [0, 1])
@pytest.mark.parametrize("matrices", [0, 1, 3])
@pytest.mark.parametrize("d1", [0, 2])
@pytest.mark.parametrize("d2", [0, 2])
def test_nothing_there(n, matrices, d1, d2, dtype):
    n = n if matrices else 0
    a = randn(n, d1, dtype=dtype).requires_grad_()
    b = randn(matrices, d1, d2, dtype=dtype).requires_grad_()
    lengths = torch.tensor([0] * (matrices - 1) + [n] * (matrices > 0))
    index = torch.full((n,), matrices - 1)
    for out in (segment_mm(a, b, lengths.long()), gather_mm(a, b, index)):
        assert_close(out, by_row(a, b, index.tolist()))
        assert out.requires_grad
        grads = torch.autograd.grad(out.abs().sum(), (a, b))
        assert [g.shape for g in grads] == [a.shape, b.shape]
        assert_close(grads[1][:-1], torch.zeros_like(b[:-1]))


@pytest.mark.parametrize(
    "integer", [torch.uint8, torch.int8, torch.int16, torch.uint16, torch.int32, torch.int64]
)
def test_integer_dtypes(integer):
    a, b = randn(5, 2, dtype=torch.float64), randn(3, 2, 2, dtype=torch.float64)
    idx, lengths = torch.tensor([2, 0, 1, 0, 2]), torch.tensor([1, 0, 4])
    assert torch.equal(gather_mm(a, b, idx.to(integer)), gather_mm(a, b, idx))
    assert torch.equal(segment_mm(a, b, lengths.to(integer)), segment_mm(a, b, lengths))


def test_strides(way, dtype):
    index = [r % 11 for r in range(40)]
    idx = torch.tensor(index)
    for a in (
        randn(3, 40, dtype=dtype).mT,
        randn(80, 7, dtype=dtype)[::2, 1:6:2],
        randn(3, dtype=dtype).expand(40, 3),
        randn(40, 3, dtype=dtype).conj(),
    ):
        for b in (
            randn(11, 4, 3, dtype=dtype).mH,
            randn(3, 4, dtype=dtype).expand(11, 3, 4),
            randn(4, 3, 22, dtype=dtype).permute(2, 1, 0)[::2],
        ):
            assert_close(gather_mm(a, b, idx), by_row(a, b, index))
            G = randn(8, 40, dtype=dtype)[::2].T
            gradient = torch.func.vjp(lambda b, a=a: gather_mm(a, b, idx), b)[1](G)[0]
            rows = a.unsqueeze(2).conj() * G.unsqueeze(1)
            assert_close(gradient, torch.zeros_like(b).index_add(0, idx, rows))
    # Every second place of a longer list, and one number repeated.
    a, b = randn(40, 3, dtype=dtype), randn(11, 3, 4, dtype=dtype)
    assert torch.equal(gather_mm(a, b, torch.tensor(index).repeat_interleave(2)[::2]),
                       gather_mm(a, b, idx))  # fmt: skip
    assert_close(gather_mm(a, b, torch.tensor(3).expand(40)), a @ b[3])
    assert_close(
        segment_mm(a[:11], b, torch.tensor(1).expand(11)), by_row(a, b, list(range(11)))[:11]
    )


def test_padding_never_shows(way):
    """What is infinite in one segment stays there, though a shorter one is padded with it."""
    lengths = torch.tensor([3, 1, 2] * 8)
    plain, b = torch.ones(48, 2), torch.ones(24, 2, 2)
    spoilt = plain.clone()
    spoilt[3] = torch.inf
    others = torch.arange(24) != 1
    assert int(segment_mm(spoilt, b, lengths).isfinite().all(1).sum()) == 47
    for a, ct in ((spoilt, plain), (plain, spoilt)):
        gradient = torch.func.vjp(lambda b, a=a: segment_mm(a, b, lengths), b)[1](ct)[0]
        assert torch.equal(gradient.isfinite().all(-1).all(-1), others)


def test_grouped_products_of_pytorch_agree():
    """What CUDA uses for bfloat16; the CPU has it too, without need."""
    lengths = torch.tensor([3, 0, 4, 1])
    offsets = torch.tensor([0, 3, 3, 7, 8])
    a, y = randn(8, 16, dtype=torch.bfloat16), randn(8, 24, dtype=torch.bfloat16, seed=2)
    b = randn(4, 16, 24, dtype=torch.bfloat16, seed=3)
    close = {"rtol": 2e-2, "atol": 2e-2}
    assert_close(
        segments_kernels.grouped_product(a, b, offsets), segment_mm(a, b, lengths), **close
    )
    shifted = randn(8 * 16 + 1, dtype=torch.bfloat16)[1:].view(8, 16)
    found = segments_kernels.grouped_product(shifted, b.mT.contiguous().mT, offsets)
    assert_close(found, segment_mm(shifted, b, lengths), **close)
    in_place = torch.empty(0, dtype=torch.int64)
    expected = segments_kernels.outer(a, y, offsets, in_place)
    assert_close(segments_kernels.grouped_outer(a, y, offsets), expected, **close)


# ---------------------------------------------------------------------- transforms and compilers


def test_mapped_indices_have_gradients(dtype):
    a, b = randn(3, 6, 2, dtype=dtype), randn(4, 2, 3, dtype=dtype)
    idx = torch.randint(0, 4, (3, 6))
    loss = lambda a, b, idx: gather_mm(a, b, idx).abs().square().sum()
    found = vmap(grad(loss, (0, 1)), (0, None, 0))(a, b, idx)
    each = [grad(loss, (0, 1))(x, b, i) for x, i in zip(a, idx, strict=True)]
    assert_close(found, tuple(torch.stack(g) for g in zip(*each, strict=True)))
    twice = vmap(vmap(gather_mm, (0, None, None)), (None, 0, 0))(a, b.expand(3, *b.shape), idx)
    expected = torch.stack([torch.stack([gather_mm(x, b, i) for x in a]) for i in idx])
    assert_close(twice, expected)
    last = vmap(gather_mm, (None, None, 1))(a[0], b, idx.T)
    assert_close(last, torch.stack([gather_mm(a[0], b, i) for i in idx]))
    # Sorted along the mapped axis, which says nothing of each member.
    alike = torch.tensor([3, 0, 1, 2, 0, 1]).unsqueeze(1).expand(6, 2)
    last = vmap(gather_mm, (None, None, 1))(a[0], b, alike)
    assert_close(last, by_row(a[0], b, alike[:, 0].tolist()).expand(2, 6, 3))


def test_compiled_once_for_all_indices_and_shapes():
    from torch._dynamo.testing import CompileCounterWithBackend

    counter = CompileCounterWithBackend("aot_eager")
    f = torch.compile(gather_mm, fullgraph=True, dynamic=True, backend=counter)
    for n in (5, 8):
        a = randn(n, 2, dtype=torch.float64)
        b = randn(4, 2, 3, dtype=torch.float64).requires_grad_()
        for idx in (torch.randint(0, 4, (n,)), torch.arange(n) % 4):
            out = f(a, b, idx)
            assert_close(out, by_row(a, b, idx.tolist()))
            found, expected = (torch.autograd.grad(y.sin().sum(), b)[0] for y in
                               (out, by_row(a, b, idx.tolist())))  # fmt: skip
            assert_close(found, expected)
    assert counter.frame_count == 1


def test_a_graph_serves_other_indices():
    """It must not hold that the indices were sorted when it was made."""
    a, b = randn(4, 2, dtype=torch.float64), randn(3, 2, 3, dtype=torch.float64)
    graph = make_fx(gather_mm)(a, b, torch.tensor([0, 1, 1, 2]))
    idx = torch.tensor([2, 0, 1, 0])
    assert_close(graph(a, b, idx), by_row(a, b, idx.tolist()))
    graph = make_fx(segment_mm)(a, b, torch.tensor([1, 1, 2]))
    assert_close(graph(a, b, torch.tensor([0, 4, 0])), a @ b[1])


@pytest.mark.parametrize("backend", ["aot_eager", "inductor"])
def test_compiled_refuses_when_it_runs(backend):
    a, b = randn(4, 2, dtype=torch.float64), randn(3, 2, 3, dtype=torch.float64)
    gather = torch.compile(gather_mm, fullgraph=True, backend=backend)
    segment = torch.compile(segment_mm, fullgraph=True, backend=backend)
    idx = torch.tensor([2, 0, 1, 0])
    assert_close(gather(a, b, idx), by_row(a, b, idx.tolist()))
    for bad in ([0, 3, 1, 0], [0, -1, 1, 0]):
        with pytest.raises(ValueError, match=r"rows 0 to 4 .* indices are in range"):
            gather(a, b, torch.tensor(bad))
    for bad in ([4, -1, 1], [1, 1, 1], [2, 2, 1]):
        with pytest.raises(ValueError, match=r"rows 0 to 4 .* sum to 4"):
            segment(a, b, torch.tensor(bad))


@pytest.mark.parametrize("dims", [(0, None, 0), (0, 0, 0), (None, 0, 0), (None, None, 0)])
def test_one_bad_member_is_not_hidden_by_another(dims):
    a, b = randn(2, 4, 2, dtype=torch.float64), randn(2, 3, 2, 3, dtype=torch.float64)
    args = tuple(x if d == 0 else x[0] for x, d in zip((a, b), dims, strict=False))
    # One row too many in the first member, one too few in the second.
    for bad in ([[2, 2, 1], [1, 1, 1]], [[4, -1, 1], [2, 1, 1]]):
        lengths = torch.tensor(bad)
        with pytest.raises(ValueError, match="seglen_a"):
            vmap(segment_mm, dims)(*args, lengths)
        compiled = torch.compile(vmap(segment_mm, dims), fullgraph=True, backend="aot_eager")
        with pytest.raises(ValueError, match="cover the rows"):
            compiled(*args, lengths)
    idx = torch.tensor([[0, 1, 2, 0], [0, 1, -2, 0]])
    with pytest.raises(ValueError, match=r"from 0 to 2; got -2 at \(1, 2\)"):
        vmap(gather_mm, dims)(*args, idx)
    compiled = torch.compile(vmap(gather_mm, dims), fullgraph=True, backend="aot_eager")
    with pytest.raises(ValueError, match="cover the rows"):
        compiled(*args, idx)


@pytest.mark.parametrize("function", [gather_mm, segment_mm])
def test_export(function):
    class Module(torch.nn.Module):
        def forward(self, a, b, integers):
            return function(a, b, integers)

    a, b = randn(3, 2, dtype=torch.float64), randn(3, 2, 3, dtype=torch.float64)
    integers = torch.tensor([0, 1, 2])
    program = torch.export.export(Module(), (a, b, integers))
    other = torch.tensor([2, 0, 1])
    assert_close(program.module()(a, b, other), function(a, b, other))


@pytest.mark.parametrize("compiled", [False, True])
def test_autocast(compiled):
    a = randn(4, 2, dtype=torch.float32).requires_grad_()
    b = randn(3, 2, 3, dtype=torch.float32).requires_grad_()
    idx = torch.tensor([2, 0, 1, 0])

    def f(a, b):
        with torch.autocast("cpu", dtype=torch.bfloat16):
            return gather_mm(a, b, idx)

    out = (torch.compile(f, fullgraph=True, backend="aot_eager") if compiled else f)(a, b)
    assert out.dtype == torch.bfloat16
    assert_close(out.float(), by_row(a, b, idx.tolist()), rtol=2e-2, atol=2e-2)
    out.sum().backward()
    assert a.grad.dtype == b.grad.dtype == torch.float32
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert gather_mm(a.detach(), b.detach().bfloat16(), idx).dtype == torch.bfloat16
        assert gather_mm(a.double(), b.double(), idx).dtype == torch.float64
        with pytest.raises(ValueError, match="one dtype"):
            gather_mm(a.double(), b, idx)


# --------------------------------------------------------------------------------------- errors

A, B, IDX, LENGTHS = torch.ones(4, 2), torch.ones(3, 2, 5), torch.zeros(4).long(), [1, 0, 3]
FACTORS = [
    ([1.0], B, "a is a dense tensor; got list"),
    (A, None, "b is a dense tensor; got NoneType"),
    (A.to_sparse(), B, "a is a dense tensor; got a sparse_coo tensor"),
    (A[0], B, r"\(N, D1\) and b \(R, D1, D2\); got \(2,\) and \(3, 2, 5\).*vmap"),
    (A.expand(6, 4, 2), B, r"got \(6, 4, 2\) and \(3, 2, 5\)"),
    (A, B[0], r"got \(4, 2\) and \(2, 5\)"),
    (A[:, :1], B, r"as many columns .* got a \(4, 1\) and b \(3, 2, 5\)"),
    (A.double(), B, "one dtype; got torch.float64 and torch.float32"),
    (A, B.to(torch.complex64), "one dtype; got torch.float32 and torch.complex64"),
    (A.long(), B.long(), "a is floating-point or complex; got torch.int64"),
    (A, B.to(torch.float8_e5m2), "b is floating-point or complex; got torch.float8"),
    (A, B.to("meta"), "one device; got cpu and meta"),
]
INTEGERS = [
    ([0, 1], "is a dense tensor; got list"),
    (IDX.to_sparse(), "is a dense tensor; got a sparse_coo"),
    (IDX.bool(), "holds integers; got torch.bool"),
    (IDX.float(), "holds integers; got torch.float32"),
    (IDX.to(torch.complex64), "holds integers; got torch.complex64"),
    (torch.tensor(1), r"got shape \(\)"),
    (IDX.expand(2, 4), r"got shape \(2, 4\)"),
    (IDX[:2], r"got shape \(2,\)"),
]
BY_INDEX = [
    (torch.tensor([0, 1, 3, 9]), r"idx_b is from 0 to 2; got 3 at \(2,\)"),
    (torch.tensor([0, -1, 2, 0]), r"idx_b is from 0 to 2; got -1 at \(1,\)"),
    (torch.tensor([0, 255, 2, 0], dtype=torch.uint8), r"got 255 at \(1,\)"),
    (IDX.to("meta"), "on the CPU or on the device of a, cpu; got meta"),
]
BY_LENGTH = [
    (torch.tensor([1, 4, -1]), r"seglen_a is 0 or more; got -1 at \(2,\)"),
    (torch.tensor([1, 1, 1]), "sums to the number of rows of a, 4; got 3"),
    (torch.tensor([2, 2, 1]), "sums to the number of rows of a, 4; got 5"),
    (torch.tensor([2, 2, 1], device="meta"), "on the CPU or on the device of a, cpu; got meta"),
    (IDX, r"one length for each matrix of b, shape \(3,\); got shape \(4,\)"),
]
FUNCTIONS = [(gather_mm, IDX), (segment_mm, torch.tensor(LENGTHS))]


@pytest.mark.parametrize(("a", "b", "message"), FACTORS)
@pytest.mark.parametrize(("function", "integers"), FUNCTIONS)
def test_factors_that_do_not_fit(function, integers, a, b, message):
    with pytest.raises(ValueError, match=message):
        function(a, b, integers)


@pytest.mark.parametrize(("integers", "message"), INTEGERS)
@pytest.mark.parametrize("function", [gather_mm, segment_mm])
def test_integers_of_the_wrong_kind(function, integers, message):
    name = "idx_b" if function is gather_mm else "seglen_a"
    with pytest.raises(ValueError, match=f"{name} .*{message}"):
        function(A, B, integers)


@pytest.mark.parametrize(("idx", "message"), BY_INDEX)
def test_index_out_of_range(idx, message):
    for call in (gather_mm, grad(lambda a, b, idx: gather_mm(a, b, idx).sum())):
        with pytest.raises(ValueError, match=message):
            call(A, B, idx)


def test_index_into_an_empty_bank():
    with pytest.raises(ValueError, match=r"without matrices: none; got 0 at \(0,\)"):
        gather_mm(A, B[:0], IDX)
    with pytest.raises(ValueError, match="number of rows of a, 4; got 0"):
        segment_mm(A, B[:0], IDX[:0])


@pytest.mark.parametrize(("lengths", "message"), BY_LENGTH)
def test_lengths_that_do_not_fit(lengths, message):
    for call in (segment_mm, grad(lambda a, b, lengths: segment_mm(a, b, lengths).sum())):
        with pytest.raises(ValueError, match=message):
            call(A, B, lengths)


@pytest.mark.parametrize("op", [segment_product, segment_outer])
@pytest.mark.parametrize("offsets", [[0, 2, 3, 5], [1, 2, 3, 4], [0, 4, 2, 4], [0, 1, 2, 3]])
def test_kernels_read_within_bounds(op, offsets):
    second = B if op is segment_product else torch.ones(4, 5)
    with pytest.raises(ValueError, match="segments cover the rows 0 to 4"):
        op(A, second, torch.tensor(offsets), IDX[:0])


# ----------------------------------------------------------------------------- state and memory


def test_arguments_are_left_alone_and_shared_by_threads(way, dtype):
    index = torch.arange(300) % 37 * 5 % 37
    a, b = randn(300, 4, dtype=dtype), randn(37, 4, 4, dtype=dtype)
    before = a.clone(), b.clone(), index.clone()
    results = []

    def run():
        loss = lambda a, b: gather_mm(a, b, index).abs().square().sum()
        results.append((gather_mm(a, b, index), *grad(loss, (0, 1))(a, b)))

    threads = [threading.Thread(target=run) for _ in range(8)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert len(results) == 8
    assert all(torch.equal(x, y) for r in results for x, y in zip(r, results[0], strict=True))
    assert all(torch.equal(x, y) for x, y in zip((a, b, index), before, strict=True))


@pytest.mark.parametrize("lengths", [[2], [1, 1], [2, 0], [0, 2]])
def test_output_owns_its_memory(lengths, dtype):
    a, b = torch.ones(2, 2, dtype=dtype), torch.eye(2, dtype=dtype).repeat(len(lengths), 1, 1)
    out = segment_mm(a, b, torch.tensor(lengths))
    addresses = {x.untyped_storage().data_ptr() for x in (a, b)}
    assert out.untyped_storage().data_ptr() not in addresses
    assert out.is_contiguous()
    assert out.untyped_storage().nbytes() == out.nbytes
    out.zero_()
    assert bool((a == 1).all())


def test_one_long_segment_does_not_lengthen_the_others():
    """Padded to the longest, these rows would take 160 GB."""
    lengths = torch.ones(20_000, dtype=torch.int64)
    lengths[7] = 1_000_000
    n = int(lengths.sum())
    a, b = torch.ones(n, 1), torch.arange(20_000.0).view(-1, 1, 1).requires_grad_()
    out = segment_mm(a, b, lengths)
    assert_close(out.flatten(), torch.arange(20_000.0).repeat_interleave(lengths))
    out.sum().backward()
    assert_close(b.grad.flatten(), lengths.float())


def test_gradient_of_the_bank_is_never_one_for_each_row():
    """Of all tensors that a kernel makes, none is larger than the rows and the bank together."""
    n, d = 3000, 32
    idx = torch.randint(0, 100, (n,))
    a, b = randn(n, d, dtype=torch.float32), randn(100, d, d, dtype=torch.float32)
    sizes = []

    class Watch(torch.utils._python_dispatch.TorchDispatchMode):
        def __torch_dispatch__(self, func, types, args=(), kwargs=None):
            out = func(*args, **(kwargs or {}))
            sizes.append(out.numel() if isinstance(out, Tensor) else 0)
            return out

    plain = idx.sort(stable=True)
    offsets = torch.searchsorted(plain.values, torch.arange(101))
    with Watch():
        segments_kernels.outer(a, a, offsets, plain.indices)
        segments_kernels.product(a, b, offsets, plain.indices)
    assert len(sizes) > 10
    assert max(sizes) <= 2 * n * d + b.numel()
