"""What a SparseMatrix has in common with tensors; pictures; files, and other processes."""

import copy
import io
import pickle
import re
import subprocess
import sys
from multiprocessing.reduction import ForkingPickler
from xml.etree import ElementTree

import matplotlib as mpl
import numpy as np
import pytest
import torch
from torch.testing import assert_close

import tsgu_func
from tests.processes import double_in_place
from tsgu_func import SparseMatrix, SparsityPattern, sparse_solve
from tsgu_func.kernels.structure import structure_of
from tsgu_func.solvers import DIC, IC0, ILU0, SSOR, BiCGStab
from tsgu_func.utils import rand_sparse

mpl.use("Agg")
D = torch.tensor([[4.0, 1, 0], [0, 3, 1]], dtype=torch.float64)


@pytest.fixture
def A(dtype):
    return SparseMatrix.from_dense(D.to(dtype))


@pytest.fixture
def batch(A):
    return A.with_values(torch.stack([A.values, 2 * A.values, 3 * A.values]).unsqueeze(1))


# --------------------------------------------------------------------------- sizes and conversions


def test_sizes_are_those_of_the_dense_matrix(A, batch):
    for M in (A, A.T, batch):
        X = M.to_dense()
        assert M.size() == X.size()
        assert [M.size(k) for k in (-1, 0)] == [X.size(k) for k in (-1, 0)]
        assert (M.dim(), M.numel()) == (X.dim(), X.numel())
        assert (M.is_complex(), M.is_floating_point()) == (X.is_complex(), X.is_floating_point())
        assert M.is_cuda == X.is_cuda
    assert A.numel() == A.to_coo().numel() == A.to_csr().numel()


def test_transposes_are_those_of_the_dense_matrix(A, batch):
    assert_close(A.t().to_dense(), A.to_dense().t())
    assert_close(A.adjoint().to_dense(), A.to_dense().adjoint())
    assert_close(A.transpose().to_dense(), A.to_dense().T)
    for dims in ((-1, -2), (2, 3), (0, 1), (-3, -4), (1, 1), (3, 3)):
        assert_close(batch.transpose(*dims).to_dense(), batch.to_dense().transpose(*dims))
    with pytest.raises(ValueError, match=r"A\.mT transposes each member"):
        batch.t()
    with pytest.raises(ValueError, match="members share a pattern"):
        batch.transpose(0, -1)
    for dim in (4, -5):
        with pytest.raises(IndexError, match="has axes -4 to 3"):
            batch.transpose(dim, 0)


@pytest.mark.parametrize(
    "name", ["float", "double", "half", "bfloat16", "cpu", "clone", "detach", "conj", "adjoint"]
)
def test_conversions_are_those_of_the_dense_matrix(A, name):
    if A.dtype.is_complex and name in ("float", "double", "half", "bfloat16"):
        A = A.with_values(A.values.real)
    made, expected = getattr(A, name)(), getattr(A.to_dense(), name)()
    assert made.dtype == expected.dtype
    assert_close(made.to_dense(), expected)
    assert made.pattern == (A.pattern.T if name == "adjoint" else A.pattern)


FORMS = [
    ((torch.complex64,), {}),
    (("cpu",), {}),
    ((torch.device("cpu"), torch.complex64), {}),
    (("cpu", torch.complex64, False, True), {}),
    ((torch.complex64, False, True), {}),
    ((torch.ones(1, dtype=torch.complex64),), {}),
    ((), {"dtype": torch.complex64, "device": "cpu"}),
    ((), {"device": "cpu", "copy": True}),
    ((torch.ones(1, dtype=torch.complex64),), {"non_blocking": True}),
    (("meta",), {"dtype": torch.complex64}),
]


@pytest.mark.parametrize(("args", "options"), FORMS)
def test_to_takes_what_it_takes_of_tensors(args, options):
    A = SparseMatrix.from_dense(D)
    made, expected = A.to(*args, **options), A.values.to(*args, **options)
    assert (made.dtype, made.device) == (expected.dtype, expected.device)
    assert made.pattern.device == made.device
    assert (made is A) == (expected is A.values)
    other = SparseMatrix.eye(1).to(expected.device, expected.dtype)
    assert A.to(other).device == expected.device
    assert A.to(other).dtype == expected.dtype


def test_what_is_converted_is_differentiable_and_copies_are_independent(A):
    v = A.values.detach().requires_grad_()
    M = A.with_values(v)
    (M.to(torch.complex64).clone().to_dense().abs().square().sum()).backward()
    assert_close(v.grad, 2 * v.detach(), rtol=1e-6, atol=1e-6)
    copied = A.clone()
    copied.values.zero_()
    assert A.values.abs().min() > 0


def test_to_somewhere_else_raises_as_for_a_tensor(A):
    if not torch.cuda.is_available():
        for move in (lambda: A.to("cuda"), A.cuda, lambda: A.cuda(0)):
            with pytest.raises((AssertionError, RuntimeError), match=r"CUDA|NVIDIA"):
                move()
    with pytest.raises(TypeError, match="to"):
        A.to("cpu", "cpu")
    with pytest.raises(RuntimeError, match="nowhere"):
        A.to("nowhere")


def test_methods_in_a_compiled_function(A, batch):
    def function(A, batch):
        A = A.clone().to(torch.complex64).t()
        scale = A.numel() + A.dim() + A.size(0) + A.is_complex() + hasattr(A, "grad")
        return A.adjoint().to_dense() * scale, batch.transpose(0, 1).cpu().to_dense()

    compiled = torch.compile(function, backend="aot_eager", fullgraph=True)
    assert_close(compiled(A, batch), function(A, batch))


@pytest.mark.parametrize(
    "name",
    ["grad", "data", "numpy", "solve", "indices", "backward", "view", "kron", "logdet", "crow"],
)
def test_what_is_in_another_place_says_where(name):
    A = SparseMatrix.from_dense(D)
    with pytest.raises(AttributeError, match=rf"no attribute '{name}': .*(A\.|tsgu_func\.\w+\()"):
        getattr(A, name)
    assert not hasattr(A, name)
    with pytest.raises(AttributeError, match=r"no attribute 'nonsense'$"):
        _ = A.nonsense  # pyright: ignore[reportAttributeAccessIssue]
    with pytest.raises(AttributeError) as caught:
        _ = A.vlaues  # pyright: ignore[reportAttributeAccessIssue]
    assert (caught.value.name, caught.value.obj) == ("vlaues", A)  # Python's "Did you mean"


def test_what_messages_name_gives_what_they_say():
    dense = torch.tensor([[4.0, 1], [1, 3]], dtype=torch.float64)
    A = SparseMatrix.from_dense(dense)
    assert A.allclose(A.T)
    assert not A.scale_rows(torch.tensor([1.0, 2.0]).double()).allclose(A.T)
    assert_close(tsgu_func.factorize(A).logabsdet, torch.logdet(dense))
    assert_close(tsgu_func.kron(A, A).to_dense(), torch.kron(dense, dense))
    assert_close(tsgu_func.vstack([A, A]).to_dense(), torch.cat([dense, dense]))
    assert_close(tsgu_func.stack([A, A]).to_dense(), torch.stack([dense, dense]))
    assert_close(A.map(torch.sqrt).to_dense(), dense.sqrt())
    assert A.pattern.crow.tolist() == [0, 2, 4]


def test_the_gradient_is_where_the_message_says():
    A = SparseMatrix.from_dense(D).requires_grad_()
    A.to_dense().square().sum().backward()
    assert_close(A.with_values(A.values.grad).to_dense(), 2 * D)


# ---------------------------------------------------------------------------------------- pictures


def places(*pairs, shape=(3, 3)):
    row, col = zip(*pairs, strict=True) if pairs else ((), ())
    return SparsityPattern.from_coo(list(row), list(col), shape)[0]


@pytest.mark.slow
def test_a_pattern_tells_itself_from_others():
    one = places((0, 1), (2, 0))
    others = [
        places((0, 1), (2, 1)),
        places((0, 1), (2, 0), shape=(3, 4)),
        one.T,
        one.to("meta"),
        places((1, 0), (0, 2)),
    ]
    assert repr(places((2, 0), (0, 1))) == repr(one)
    assert len({repr(p) for p in (one, *others)}) == 6
    assert re.fullmatch(r"SparsityPattern\(shape=\(3, 3\), nnz=2, id=[0-9a-f]{6}\)", repr(one))
    assert repr(one.T.T) == repr(one)
    program = (
        "from tsgu_func import SparsityPattern as P; print(P.from_coo([0, 2], [1, 0], (3, 3))[0])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, check=True)
    assert done.stdout.decode().strip() == repr(one)


def svg_of(html):
    root = ElementTree.fromstring(html)  # so it is well-formed
    assert "script" not in html
    return root.find("{http://www.w3.org/2000/svg}svg")


def drawn(svg):
    """Return how opaque each cell of a picture is."""
    _, _, cols, rows = map(int, svg.get("viewBox").split())
    picture = np.zeros((rows, cols))
    for path in svg.iterfind("{http://www.w3.org/2000/svg}path"):
        assert path.get("fill") == "currentColor"  # readable on any ground
        for run in re.findall(r"M(\d+) (\d+)h(\d+)v1H(\d+)z", path.get("d")):
            x, y, length, back = map(int, run)
            assert x == back
            assert not picture[y, x : x + length].any()
            picture[y, x : x + length] = float(path.get("fill-opacity"))
    return picture


@pytest.mark.parametrize("shape", [(3, 3), (5, 40), (64, 2), (1, 1)])
def test_a_small_picture_has_a_cell_for_each_entry(shape):
    dense = torch.rand(shape) * (torch.rand(shape) > 0.5)
    dense[0, 0] = 1
    A = SparseMatrix.from_dense(dense)
    transposed = A.T
    for M in (A, transposed, A.pattern, A.with_values(A.values.expand(2, -1))):
        picture = drawn(svg_of(M._repr_html_()))
        expected = ((dense.T if M is transposed else dense) != 0).numpy()
        assert (picture == expected).all()


def test_a_large_picture_is_small_and_shows_every_entry():
    row, col = torch.tensor([0, 999_999, 5]), torch.tensor([0, 130, 70])
    A = SparseMatrix.from_coo(row, col, torch.ones(3), (10**6, 131))
    picture = drawn(svg_of(A._repr_html_()))
    assert max(picture.shape) <= 64
    assert picture[0, 0] > 0
    assert picture[-1, -1] > 0
    assert np.count_nonzero(picture) == 3
    full = SparseMatrix.from_torch(rand_sparse((2000, 2000), 20_000, torch.sparse_coo))
    assert len(full._repr_html_()) < 60_000
    band = SparseMatrix.diag(torch.ones(1000)) + SparseMatrix.diag(torch.ones(1), 999)
    picture = drawn(svg_of(band._repr_html_()))
    assert picture[0, 0] > picture[0, -1] > 0


def test_a_card_says_what_the_matrix_is(A):
    html = A.requires_grad_()._repr_html_()
    for said in ("2 × 3", "0.667", str(A.dtype).removeprefix("torch."), "cpu", "requires_grad"):
        assert said in html
    assert A.pattern.structure.label in A.pattern.T._repr_html_()
    for M in (SparseMatrix.zeros(0, 3), A.detach().to("meta")):
        assert svg_of(M._repr_html_()) is None
    assert drawn(svg_of(SparseMatrix.zeros(2, 3)._repr_html_())).sum() == 0
    seen = []
    torch.func.vmap(lambda A: seen.append(A._repr_html_()) or A.values)(
        A.with_values(torch.stack([A.values, A.values]))
    )
    assert "2 × 3" in seen[0]


def test_a_title_is_escaped():
    odd = type("A<b>", (SparseMatrix,), {})
    html = odd.from_dense(D)._repr_html_()
    assert "A&lt;b&gt;" in html
    assert svg_of(html) is not None


def test_spy():
    from matplotlib import pyplot

    figure, (left, right) = pyplot.subplots(1, 2)
    A = SparseMatrix.from_dense(D)
    assert A.spy(left) is left
    assert A.T.pattern.spy(right, cmap="Blues") is right
    for ax, dense in ((left, D), (right, D.T)):
        image = ax.get_images()[0]
        assert ((np.asarray(image.get_array()) > 0) == (dense != 0).numpy()).all()
        assert image.get_extent() == [-0.5, dense.shape[1] - 0.5, dense.shape[0] - 0.5, -0.5]
    assert right.get_images()[0].get_cmap().name == "Blues"
    assert SparseMatrix.zeros(0, 3).spy() is pyplot.gca()
    wide = SparseMatrix.diag(torch.ones(5000)).spy(left).get_images()[-1].get_array()
    assert max(wide.shape) <= 256
    assert np.count_nonzero(wide) == len(wide)
    figure.canvas.draw()
    pyplot.close("all")
    with pytest.raises(ValueError, match="meta device"):
        A.to("meta").spy()


def test_spy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "tsgu_func\[demo\]"'):
        SparseMatrix.from_dense(D).spy()


# ----------------------------------------------------------------------- files and other processes


class Named(SparseMatrix):
    """A subclass that pickle finds."""


def through_file(x):
    file = io.BytesIO()
    torch.save(x, file)
    file.seek(0)
    return torch.load(file, weights_only=True)


def test_saved_and_loaded_with_weights_only(A):
    pattern, assemble = SparsityPattern.from_coo([1, 0, 1], [0, 1, 0], (2, 2))
    saved = {"A": A, "B": [A.T, A * 2.0], "pattern": pattern.T, "assemble": assemble}
    loaded = through_file(saved)
    assert loaded["pattern"] == pattern.T
    assert loaded["A"].pattern == loaded["B"][0].pattern.T == loaded["B"][1].pattern == A.pattern
    assert_close(loaded["B"][0].to_dense(), A.T.to_dense())
    entries = torch.randn(2, 3)
    assert_close(loaded["assemble"](entries), assemble(entries))
    assert loaded["assemble"].pattern == pattern
    assert_close(through_file(A.detach().requires_grad_()).values, A.values)
    assert through_file(A.to("meta")).device.type == "meta"


@pytest.mark.parametrize(
    ("crow", "col"), [([0, 1, 2], [0, 9]), ([0, 1, 9], [0, 1]), ([0, 2, 2], [1, 0])]
)
def test_a_file_with_indices_that_are_out_of_range_is_refused(crow, col, monkeypatch):
    """Kernels trust a pattern, so what a file says is checked."""
    pattern, _ = SparsityPattern.from_coo([0, 1], [0, 1], (2, 2))
    make = pattern.__reduce__()[0]
    crow, col = (torch.tensor(x, dtype=torch.int32) for x in (crow, col))
    monkeypatch.setattr(SparsityPattern, "__reduce__", lambda _: (make, (crow, col, 2, False)))
    file = io.BytesIO()
    torch.save(pattern, file)
    file.seek(0)
    with pytest.raises(Exception, match=r"out of range|crow ends|no sparsity pattern"):
        torch.load(file, weights_only=True)


def test_copies_of_a_subclass():
    A = Named.from_dense(D)
    for made in (copy.deepcopy(A), copy.copy(A), pickle.loads(pickle.dumps(A)), A.clone(), A.t()):
        assert type(made) is Named
        assert made.pattern in (A.pattern, A.pattern.T)
    with torch.serialization.safe_globals([Named]):
        assert type(through_file(A)) is Named
    keys, _ = torch.utils._pytree.tree_flatten_with_path([A.half()])
    assert torch.utils._pytree.keystr(keys[0][0]) == "[0].values"


@pytest.mark.parametrize("share", [lambda A: A.share_memory_(), ForkingPickler.dumps])
def test_products_read_the_indices_where_they_are(share):
    """What is shared with another process is moved, and views of where it was are of nothing."""
    dense = torch.randn(61, 67, dtype=torch.float64)
    A = SparseMatrix.from_dense(dense * (dense > 1))
    B = torch.ones(67, 40, dtype=torch.float64)
    expected = A.to_dense() @ B
    for _ in range(2):
        assert_close(A @ B, expected)
        assert_close(A.T @ (A @ B), A.to_dense().T @ expected)
        structure = A.pattern.structure
        for view, index in zip(structure.arrays, (structure.crow, structure.col), strict=True):
            assert view.ctypes.data == index.data_ptr()
        share(A)


@pytest.mark.parametrize("preconditioner", [SSOR(), ILU0(), IC0(), DIC()], ids=repr)
def test_what_is_kept_is_no_view_of_the_indices(preconditioner):
    A = SparseMatrix.from_dense(torch.eye(6) * 4 - torch.ones(6, 6).triu(-1).tril(1))
    s = A.pattern.structure
    sparse_solve(A, torch.ones(6), solver=BiCGStab(preconditioner))
    parts = [*s._derived.values()]
    while parts:
        part = parts.pop()
        if isinstance(part, tuple):
            parts += part
        elif isinstance(part, np.ndarray):
            assert not any(np.shares_memory(part, index.numpy()) for index in (s.crow, s.col))


def test_shared_with_a_process():
    A = SparseMatrix.from_dense(torch.tensor([[4.0, 1, 0], [1, 3, 1], [0, 1, 5]]))
    before = A.to_dense()
    assert not A.is_shared()
    assert A.share_memory_() is A
    assert A.is_shared()
    context = torch.multiprocessing.get_context("spawn")
    reports = context.SimpleQueue()
    process = context.Process(target=double_in_place, args=(A, reports))
    process.start()
    process.join()
    assert process.exitcode == 0
    name, shared, ratio = reports.get()
    assert (name, shared) == (repr(A.pattern), True)
    assert ratio == [2, 2, 2]
    assert_close(A.to_dense(), 2 * before)
    x = torch.ones(3)
    assert_close(sparse_solve(A, A @ x), x, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("n", "move"), [(1000, lambda A: A.share_memory_()), (1001, ForkingPickler.dumps)]
)
def test_kernels_find_a_pattern_whose_indices_were_moved(n, move):
    A = SparseMatrix.diag(torch.arange(n, dtype=torch.float64), 1)
    s = A.pattern.structure
    before = s.crow.data_ptr(), s.col.data_ptr()
    move(A)  # to shared memory; what was there is free, and may become another pattern's
    assert before != (s.crow.data_ptr(), s.col.data_ptr())
    assert structure_of(s.crow, s.col, s.cols) is s
    assert_close(A @ torch.ones(n + 1).double(), A.to_dense().sum(-1))
