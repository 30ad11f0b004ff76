"""A colouring as an object: checked, equal, saved, drawn, and of use under every transform."""

import copy
import io
import pickle
import re
import sys

import numpy as np
import pytest
import torch
from numpy.testing import assert_array_equal
from torch.func import grad, jacrev, jvp, vjp, vmap
from torch.testing import assert_close

from tests.coloring import arrowhead, band, check, frame, kkt, of_mask, path, random_mask
from tests.differentiated import Doubled
from tsgu_func import Coloring, SparseMatrix, SparsityPattern, color, sparse_jacobian
from tsgu_func.kernels import coloring as kernels

MODES = ("forward", "reverse", "bidirectional", "symmetric")
ARROW = of_mask(arrowhead(9))


def dense(pattern):
    """Make a matrix with this pattern, symmetric where the pattern is."""
    J = torch.zeros(pattern.shape, dtype=torch.float64)
    J[pattern.row.long(), pattern.col.long()] = 1.0
    weight = torch.arange(1.0, 1.0 + max(J.shape), dtype=torch.float64)
    return J * weight[: J.shape[0], None] * weight[: J.shape[1]]


# -------------------------------------------------------------------------------------- extremes


@pytest.mark.parametrize("mode", ["auto", *MODES[:3]])
@pytest.mark.parametrize("shape", [(0, 0), (0, 3), (3, 0), (3, 4)])
def test_nothing_takes_no_products(mode, shape):
    pattern = of_mask(np.zeros(shape, bool))
    coloring = color(pattern, mode)
    assert coloring.colors == coloring.forward_colors == coloring.reverse_colors == 0
    assert coloring.index.shape == (0,)
    check(coloring)
    assert coloring == Coloring(pattern, coloring.mode, coloring.column_color, coloring.row_color)
    for seeds, size in ((coloring.forward_seeds(), shape[1]), (coloring.reverse_seeds(), shape[0])):
        assert seeds.shape == (0, size)


@pytest.mark.parametrize("size", [0, 3])
def test_nothing_symmetric_takes_no_products(size):
    assert color(of_mask(np.zeros((size, size), bool)), "symmetric").colors == 0


def test_one_entry():
    pattern = of_mask(np.ones((1, 1), bool))
    for mode in MODES:
        assert color(pattern, mode).colors == 1
    assert repr(color(pattern)) == "Coloring(forward, 1 color for 1 column)"


def test_a_matrix_without_diagonal_leaves_columns_out():
    star = np.zeros((6, 6), bool)
    star[0, 1:] = star[1:, 0] = True
    coloring = color(of_mask(star), "symmetric")
    assert coloring.column_color.tolist() == [0, -1, -1, -1, -1, -1]
    check(coloring)


@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_a_transpose_has_its_values_by_columns(mode):
    mask = kkt(12, 5, 0) if mode == "symmetric" else random_mask(12, 17, 0.2, 0)
    pattern = of_mask(mask, transposed=True)
    assert pattern.transposed
    coloring = color(pattern, mode)
    check(coloring)
    again = color(of_mask(mask.T.tocsr()), mode)
    assert coloring.colors == again.colors
    assert coloring != again


@pytest.mark.slow
@pytest.mark.parametrize("dtype", [np.int32, np.int64])
def test_kernels_take_long_indices(dtype):
    A = kernels.Incidence.of(of_mask(frame(30, 50, 2)).structure, False)
    B = kernels.Incidence(*(type(s)(*(x if x is None else x.astype(dtype) for x in s)) for s in A))
    for order in ("best", *kernels.ORDERS):
        for found, expected in zip(
            kernels.bidirectional(B, order, 0), kernels.bidirectional(A, order, 0), strict=True
        ):
            assert_array_equal(found, expected)
    index, readable = kernels.reading(B, *kernels.bidirectional(B, "best", 0))
    assert index.dtype == np.int64
    assert readable.all()


# --------------------------------------------------------------------------------- what it says


def test_what_it_says():
    coloring = color(of_mask(frame(10, 20, 2)))
    assert (
        repr(coloring) == "Coloring(bidirectional, 4 colors for 20 columns, 4 colors for 10 rows)"
    )
    assert (coloring.colors, coloring.forward_colors, coloring.reverse_colors) == (8, 4, 4)
    assert coloring.mode == "bidirectional"
    assert coloring.column_color.shape == (20,)
    assert coloring.row_color.shape == (10,)
    assert coloring.nbytes == 8 * (30 + coloring.pattern.nnz)
    forward, reverse = (color(ARROW, mode) for mode in ("forward", "reverse"))
    assert forward.row_color is None
    assert reverse.column_color is None
    assert repr(reverse) == "Coloring(reverse, 9 colors for 9 rows)"
    assert repr(color(ARROW, "symmetric")) == "Coloring(symmetric, 2 colors for 9 columns)"


def test_seeds_are_ones_of_a_dtype_on_a_device():
    coloring = color(of_mask(path(4)))
    seeds = coloring.forward_seeds()
    assert seeds.dtype == torch.get_default_dtype()
    assert seeds.tolist() == [[1, 0, 0, 1], [0, 1, 0, 0], [0, 0, 1, 0]]
    assert coloring.forward_seeds(torch.complex128, "meta").device.type == "meta"
    assert coloring.forward_seeds(torch.complex128).dtype == torch.complex128
    assert coloring.reverse_seeds(torch.float16).shape == (0, 4)


def test_it_cannot_be_written_to():
    coloring = color(of_mask(frame(10, 20, 2)))
    for part in (coloring.index, coloring.column_color, coloring.row_color):
        part.fill_(0)
    check(coloring)
    for name in ("pattern", "mode", "colors", "index"):
        with pytest.raises(AttributeError):
            setattr(coloring, name, None)
    given = torch.tensor([0, 1, 0])
    coloring = Coloring(of_mask(np.eye(3, dtype=bool)), "forward", given)
    given.fill_(0)
    assert coloring.column_color.tolist() == [0, 1, 0]


# ------------------------------------------------------------------------------ equal and saved


def test_equal_by_pattern_mode_and_colors():
    mask = np.eye(3, dtype=bool)
    one, same = (Coloring(of_mask(mask), "forward", [0, 1, 0]) for _ in range(2))
    others = [
        Coloring(of_mask(mask), "forward", [0, 1, 1]),
        Coloring(of_mask(mask), "symmetric", [0, 1, 0]),
        Coloring(of_mask(mask), "reverse", None, [0, 1, 0]),
        Coloring(of_mask(mask[:2]), "forward", [0, 1, -1]),
    ]
    assert one == same
    assert hash(one) == hash(same)
    assert len({one, same, *others}) == 5
    assert one != "forward"
    assert copy.copy(one) is copy.deepcopy(one) is one.to("cpu") is one


@pytest.mark.parametrize("mode", MODES)
def test_saved_and_loaded(mode):
    coloring = color(ARROW.T, mode)
    file = io.BytesIO()
    torch.save({"coloring": coloring}, file)
    file.seek(0)
    for loaded in (
        pickle.loads(pickle.dumps(coloring)),
        torch.load(file, weights_only=True)["coloring"],
    ):
        assert loaded == coloring
        assert_array_equal(loaded.index, coloring.index)


def test_a_file_that_lies_is_refused():
    coloring = color(of_mask(path(4)))
    make, (pattern, mode, column, row) = coloring.__reduce__()
    with pytest.raises(ValueError, match="no product tells the entry"):
        make(pattern, mode, torch.zeros_like(column), row)


# ------------------------------------------------------------------------------------- refused

ROW = of_mask([[True, True, False], [False, True, True]])
REFUSED = {
    "same color": (
        lambda: Coloring(ROW, "forward", [0, 0, 1]),
        r"the entry \(0, 0\): column 1, which row 0 stores too, has the same color, 0",
    ),
    "no color": (lambda: Coloring(ROW, "forward", [0, 1, -1]), r"\(1, 2\): column 2 has no color"),
    "reverse": (
        lambda: Coloring(ROW, "reverse", None, [0, 0]),
        r"the entry \(0, 1\): row 1, which column 1 stores too, has the same color, 0",
    ),
    "both": (
        lambda: Coloring(ROW, "bidirectional", [0, 0, -1], [-1, 0]),
        r"the entry \(0, 0\): column 1, .*; and row 0 has no color",
    ),
    "symmetric": (
        lambda: Coloring(of_mask(path(4)), "symmetric", [0, 1, 0, 1]),
        r"the entry \(1, 2\): column 0, which row 1 .*, 0; and column 3, which row 2 .*, 1",
    ),
    "gaps": (lambda: Coloring(ROW, "forward", [0, 3, 1]), r"without gaps.*got \[0, 1, 3\]"),
    "below": (lambda: Coloring(ROW, "forward", [0, -2, 1]), r"-1 for none; got \[-2, 0, 1\]"),
    "length": (lambda: Coloring(ROW, "forward", [0, 1]), r"has 3 entries; got shape \(2,\)"),
    "missing": (lambda: Coloring(ROW, "bidirectional", [0, 1, 0]), "takes a row_color of 2"),
    "too many": (lambda: Coloring(ROW, "forward", [0, 1, 0], [0, 0]), "takes no row_color"),
    "auto": (lambda: Coloring(ROW, "auto", [0, 1, 0]), "mode is one of 'forward', 'reverse'"),
    "mode": (lambda: color(ROW, "columns"), "mode is one of 'auto', 'forward'.*got 'columns'"),
    "order": (lambda: color(ROW, order="best of all"), "order is one of 'best', 'natural'"),
    "not square": (lambda: color(ROW, "symmetric"), r"square pattern; got shape \(2, 3\)"),
    "not symmetric": (
        lambda: color(of_mask(band(4, 0, 1)), "symmetric"),
        r"this one stores \(0, 1\), but not \(1, 0\)",
    ),
    "meta": (lambda: color(ROW.to("meta")), "meta device"),
    "seed": (lambda: color(ROW, order="random", seed=-1), "seed is not negative; got -1"),
}


@pytest.mark.parametrize("case", REFUSED)
def test_refused(case):
    call, message = REFUSED[case]
    with pytest.raises(ValueError, match=message):
        call()


def test_refused_kinds():
    A = SparseMatrix.eye(3)
    with pytest.raises(
        TypeError, match=r"got SparseMatrix; that of a SparseMatrix A is A\.pattern"
    ):
        color(A)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match="seed is an integer"):
        color(A.pattern, seed=0.5)  # pyright: ignore[reportArgumentType]
    with pytest.raises(TypeError, match=r"column_color holds integers; got torch\.float"):
        Coloring(A.pattern, "forward", torch.zeros(3))
    with pytest.raises(TypeError, match="column_color is a vector of integers"):
        Coloring(A.pattern, "forward", ["red"])


# --------------------------------------------------------------------- transforms and compilers


def read(coloring):
    """Make a function that reads the values of x * J from its products."""
    J = dense(coloring.pattern)

    def values(x):
        S, R = coloring.forward_seeds(x.dtype, x.device), coloring.reverse_seeds(x.dtype, x.device)
        products = torch.cat([((S * x) @ J.mT).flatten(), (R @ (J * x)).flatten()])
        return products[coloring.index]

    return values


def expected(coloring, x):
    row, col = coloring.pattern.row.long(), coloring.pattern.col.long()
    return (dense(coloring.pattern) * x)[row, col]


X = torch.linspace(1, 2, 9, dtype=torch.float64)


@pytest.mark.parametrize("mode", MODES[:3])
def test_of_use_under_transforms(mode):
    coloring = color(ARROW, mode)
    f, x, v = read(coloring), X, X.cos()
    assert_close(f(x), expected(coloring, x))
    assert_close(jvp(f, (x,), (v,))[1], expected(coloring, v))
    w = torch.linspace(0, 1, ARROW.nnz, dtype=torch.float64)
    (g,) = vjp(f, x)[1](w)
    assert_close(g, SparseMatrix(ARROW, w * expected(coloring, torch.ones_like(x))).sum(0))
    assert_close(vmap(f)(torch.stack([x, v])), torch.stack([f(x), f(v)]))
    h = lambda x: f(x).square().sum()
    assert_close(vmap(grad(h))(torch.stack([x, v])), torch.stack([grad(h)(x), grad(h)(v)]))


def test_made_under_transforms():
    def f(x):
        coloring = color(ARROW, "bidirectional")
        return read(coloring)(x).sum()

    assert_close(grad(f)(X), torch.ones(9, dtype=torch.float64) @ dense(ARROW))
    assert_close(vmap(f)(X[None]), f(X)[None])


@pytest.mark.slow
def test_compiled_functions_are_not_confused():
    """One code, closed over one colouring after the other: some equal, some not, one transposed."""
    mask = kkt(7, 2, 0)
    colorings = [
        *(color(ARROW, mode) for mode in MODES[:3]),
        *(color(ARROW, "forward") for _ in range(2)),
        color(of_mask(path(9))),
        color(of_mask(path(9), transposed=True)),
        color(of_mask(mask)),
    ]
    for coloring in colorings:
        compiled = torch.compile(read(coloring), fullgraph=True, backend="aot_eager")
        for x in (X, X.cos()):
            assert_close(compiled(x), expected(coloring, x))


def test_compiled_with_a_coloring_for_argument():
    @torch.compile(fullgraph=True, backend="aot_eager")
    def values(coloring, products):
        return products.flatten()[coloring.index] * coloring.colors

    for coloring in (color(ARROW, "symmetric"), color(of_mask(path(9)))):
        J = dense(coloring.pattern)
        products = coloring.forward_seeds(J.dtype) @ J.mT
        assert_close(
            values(coloring, products), coloring.colors * expected(coloring, torch.ones_like(X))
        )


def test_not_made_inside_of_a_compiled_function():
    @torch.compile(fullgraph=True, backend="eager")
    def f(x):
        return x * color(ARROW).colors

    with pytest.raises(Exception, match="make it outside, with color"):
        f(X)


def test_made_in_inference_mode_serves_outside():
    with torch.inference_mode():
        coloring = color(ARROW, "bidirectional")
    x = X.clone().requires_grad_()
    read(coloring)(x).sum().backward()
    assert_close(x.grad, torch.ones(9, dtype=torch.float64) @ dense(ARROW))


@pytest.mark.parametrize("mode", MODES)
def test_on_the_device_of_the_pattern(mode, device):
    pattern = ARROW.to(device)
    coloring = color(pattern, mode)
    assert coloring.pattern == pattern
    assert coloring.index.device == coloring.forward_seeds().device == pattern.device
    parts = coloring.column_color, coloring.row_color
    assert {x.device.type for x in parts if x is not None} == {"cpu"}
    assert coloring.to("cpu") == color(ARROW, mode)
    assert coloring.to("cpu").to(device) == coloring
    assert_array_equal(coloring.index.cpu(), color(ARROW, mode).index)
    assert coloring.reverse_seeds(device="cpu").device.type == "cpu"


# -------------------------------------------------------------------------------------- pictures


def cells(ax):
    return np.asarray(ax.get_images()[-1].get_array())


@pytest.mark.parametrize("mode", MODES)
def test_spy_shows_each_entry_in_its_color(mode):
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    for transposed in (False, True):
        mask = arrowhead(9).toarray()
        coloring = color(of_mask(mask, transposed), mode)
        assert coloring.spy(ax, aspect="auto") is ax
        image, pattern = cells(ax), coloring.pattern
        assert_array_equal(image[..., 3], mask)
        paint = image[pattern.row.long(), pattern.col.long(), :3]
        column, row = coloring.column_color, coloring.row_color
        if mode in ("forward", "reverse"):
            seen = column[pattern.col.long()] if mode == "forward" else row[pattern.row.long()]
        else:
            forward, ahead = 9 * coloring.forward_colors, coloring.index
            seen = torch.where(ahead < forward, ahead // 9, 100 + (ahead - forward) // 9)
        one_to_one = {(int(c), tuple(p)) for c, p in zip(seen, paint.tolist(), strict=True)}
        assert len(one_to_one) == coloring.colors == len({p for _, p in one_to_one})
    figure.canvas.draw()
    pyplot.close("all")


def test_spy_of_large_and_of_empty_patterns():
    from matplotlib import pyplot

    figure, ax = pyplot.subplots()
    color(of_mask(path(5000))).spy(ax)
    assert max(cells(ax).shape[:2]) <= 256
    figure.canvas.draw()
    assert color(of_mask(np.zeros((0, 3), bool))).spy() is pyplot.gca()
    pyplot.close("all")


def test_spy_names_the_extra(monkeypatch):
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r'pip install "tsgu_func\[demo\]"'):
        color(ARROW).spy()


@pytest.mark.slow
def test_in_a_notebook():
    html = color(of_mask(frame(10, 20, 2)))._repr_html_()
    assert len(set(re.findall(r'fill="(#[0-9a-f]{6})"', html))) == 8
    for said in ("bidirectional", "10 × 20", ">Coloring<"):
        assert said in html
    many = color(of_mask(np.ones((3000, 3000), bool)))._repr_html_()
    assert len(many) < 400_000
    assert "svg" not in color(of_mask(np.zeros((0, 3), bool)))._repr_html_()


def test_of_indices_that_a_pattern_was_made_of():
    pattern, _ = SparsityPattern.from_coo([1, 0, 1, 1], [0, 0, 1, 1], (2, 3))
    coloring = color(pattern)
    check(coloring)
    assert coloring.column_color.tolist() == [0, 1, -1]


def test_seeds_are_kept_where_they_are_few():
    f = lambda x: x * x.roll(1)
    x, eye = torch.linspace(1, 2, 30).double(), np.eye(30, dtype=bool)
    for mode in ("forward", "reverse"):
        coloring = color(of_mask(eye | np.roll(eye, -1, 1)), mode)
        jac, before = sparse_jacobian(f, coloring), coloring.nbytes
        assert_close(jac(x).to_dense(), jacrev(f)(x))
        assert coloring.nbytes == before + 8 * 30 * coloring.colors
        jac(x)
        assert_close(jac(x.float()).to_dense(), jac(x).to_dense().float())
        assert coloring.nbytes == before + (8 + 4) * 30 * coloring.colors
        assert pickle.loads(pickle.dumps(coloring)).nbytes == before


def test_many_seeds_are_not_kept():
    f = lambda x: torch.cat([(x * x).sum()[None], x.new_zeros(29)])
    mask = np.zeros((30, 30), bool)
    mask[0] = True
    coloring, x = color(of_mask(mask), "forward"), torch.linspace(1, 2, 30).double()
    before = coloring.nbytes
    assert_close(sparse_jacobian(f, coloring)(x).to_dense(), jacrev(f)(x))
    assert coloring.nbytes == before


def tripled(x):
    y = x.view(-1)
    y.mul_(3.0)
    return y


class DoubledInPlace(Doubled):
    """Writes to the cotangent."""

    @staticmethod
    def backward(ctx, g):
        return g.mul_(2)


@pytest.mark.parametrize("chunk_size", [None, 1, 2])
@pytest.mark.parametrize(
    ("f", "mode", "factor"), [(tripled, "forward", 3.0), (DoubledInPlace.apply, "reverse", 2.0)]
)
def test_functions_that_write_to_tangents(f, mode, factor, chunk_size):
    tridiagonal = np.eye(6, dtype=bool) | np.eye(6, k=1, dtype=bool) | np.eye(6, k=-1, dtype=bool)
    coloring, x = color(of_mask(tridiagonal), mode), torch.ones(6, dtype=torch.float64)
    jac = sparse_jacobian(f, coloring, chunk_size=chunk_size)
    for _ in range(3):
        assert_close(jac(x.clone()).to_dense(), factor * torch.eye(6, dtype=torch.float64))
    if mode == "forward":
        compiled = torch.compile(lambda x: jac(x).to_dense(), backend="aot_eager", fullgraph=True)
        for _ in range(3):
            found = compiled(x.clone())
            assert_close(found, factor * torch.eye(6, dtype=torch.float64))
