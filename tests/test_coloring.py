"""Colourings are valid, greedy, few, and take no longer where rows are dense."""

import time

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from numpy.testing import assert_array_equal

from tests.coloring import (
    arrowhead,
    band,
    brusselator_1d,
    brusselator_2d,
    check,
    frame,
    graphs,
    grid,
    is_orthogonal,
    is_star,
    kkt,
    masks,
    of_mask,
    path,
    random_mask,
    ring,
)
from tsgu_func import color
from tsgu_func.kernels import coloring as kernels

ORDERS = ("best", *kernels.ORDERS)
MODES = ("auto", "forward", "reverse", "bidirectional")
orders, seeds, transposed = st.sampled_from(ORDERS), st.integers(0, 99), st.booleans()


@pytest.fixture(scope="class", params=["lists", "tables"])
def kept_as(request):
    """Keep the colours around all rows in lists, or around all of them in tables."""
    short, room = (10**9, 8) if request.param == "lists" else (0, 10**9)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(kernels, "_SHORT", short)
        patch.setattr(kernels, "_ROOM", room)
        yield


# ----------------------------------------------------------------------------------------- valid


@given(masks(), st.sampled_from(MODES), orders, seeds, transposed)
def test_every_entry_is_read(kept_as, mask, mode, order, seed, transposed):
    coloring = color(of_mask(mask, transposed), mode, order=order, seed=seed)
    check(coloring)
    mask = mask.T if transposed else mask
    if coloring.mode == "forward":
        assert is_orthogonal(mask, coloring.column_color.numpy())
    if coloring.mode == "reverse":
        assert is_orthogonal(mask.T, coloring.row_color.numpy())


@given(graphs(), orders, seeds, transposed)
def test_every_entry_of_a_symmetric_matrix_is_read(kept_as, mask, order, seed, transposed):
    coloring = color(of_mask(mask, transposed), "symmetric", order=order, seed=seed)
    check(coloring)
    if order != "best":
        assert is_star(mask, coloring.column_color.numpy())


@given(masks(), orders, seeds)
def test_what_nobody_needs_has_no_color(mask, order, seed):
    for mode in MODES[1:]:
        coloring = color(of_mask(mask), mode, order=order, seed=seed)
        for colors, lines in ((coloring.column_color, mask.T), (coloring.row_color, mask)):
            if colors is not None:
                assert_array_equal(colors.numpy()[~lines.any(axis=1)], -1)


@given(graphs(), st.sampled_from(kernels.ORDERS), seeds)
def test_one_that_takes_its_color_off_is_needed(mask, order, seed):
    """No colour of a star colouring can be left out, unless the diagonal asks for it."""
    coloring = color(of_mask(mask), "symmetric", order=order, seed=seed)
    colors = coloring.column_color.numpy()
    read = set(coloring.index.numpy() // max(len(mask), 1))
    assert read == set(colors[colors >= 0].tolist())


# ---------------------------------------------------------------------------------------- greedy


def slowly(order, size, permitted):
    """Colour one after the other, each by the first colour that is permitted."""
    color = np.full(size, -1)
    for v in order:
        while True:
            color[v] += 1
            if permitted(color):
                break
    return color


@given(masks(8), st.randoms(use_true_random=False))
def test_columns_get_the_first_color_that_is_permitted(kept_as, mask, random):
    order = random.sample(range(mask.shape[1]), mask.shape[1])
    stored = [j for j in order if mask[:, j].any()]
    A = kernels.Incidence.of(of_mask(mask).structure, False)
    expected = slowly(stored, mask.shape[1], lambda color: is_orthogonal(mask, color))
    assert_array_equal(kernels.in_order(A, np.array(order, int)), expected)


@given(graphs(7), st.randoms(use_true_random=False))
def test_stars_get_the_first_color_that_is_permitted(kept_as, mask, random):
    mask = mask & ~np.eye(len(mask), dtype=bool)
    order = random.sample(range(len(mask)), len(mask))
    A = kernels.Incidence.of(of_mask(mask).structure, False)
    found = kernels.star(A.rows, np.array(order, int), one_palette=True)
    assert_array_equal(found, slowly(order, len(mask), lambda color: is_star(mask, color)))


@given(masks(5), st.randoms(use_true_random=False))
def test_stars_of_rows_and_columns_have_palettes_of_their_own(kept_as, mask, random):
    n, m = mask.shape
    both = np.block([[np.zeros((m, m), bool), mask.T], [mask, np.zeros((n, n), bool)]])
    order = random.sample(range(n + m), n + m)

    def permitted(color):
        apart = np.where((np.arange(n + m) >= m) & (color >= 0), color + 100, color)
        return is_star(both, apart)

    graph = kernels.both_parts(kernels.Incidence.of(of_mask(mask).structure, False))
    found = kernels.star(graph, np.array(order, int), one_palette=False)
    assert_array_equal(found, slowly(order, n + m, permitted))


def test_a_hub_may_not_be_the_spoke_of_another_star():
    """A path of five: colours 0 1 0 leave for the fourth neither 0 nor 1 (asdex, issue 102)."""
    mask = path(5).toarray()
    coloring = color(of_mask(mask), "symmetric", order="natural")
    assert coloring.column_color.tolist() == [0, 1, 0, 2, 0]
    assert not is_star(mask, np.array([0, 1, 0, 1, 0]))


@given(masks(9))
def test_largest_first_is_by_columns_that_are_met(mask):
    A = kernels.Incidence.of(of_mask(mask).structure, False)
    met = (mask.T.astype(int) @ mask.astype(int)) > 0
    degree = met.sum(axis=1) - np.diag(met)
    order = kernels.column_order(A, "largest_first", 0)
    assert_array_equal(order, np.argsort(-degree, kind="stable"))


@given(graphs(9))
def test_smallest_last_leaves_the_least_degree(mask):
    mask = mask & ~np.eye(len(mask), dtype=bool)
    A = kernels.Incidence.of(of_mask(mask).structure, False)
    for order, count in (
        (kernels.vertex_order(A.rows, "smallest_last", 0), mask.astype(int)),
        (kernels.column_order(A, "smallest_last", 0), mask.T.astype(int) @ mask.astype(int)),
    ):
        assert sorted(order) == list(range(len(mask)))
        for r in range(len(order)):
            left = count[np.ix_(order[: r + 1], order[: r + 1])]
            degree = left.sum(axis=1) - np.diag(left)
            assert degree[r] == degree.min()


def test_the_random_order_is_that_of_the_seed():
    pattern = of_mask(random_mask(60, 60, 0.1, 0))
    first, again, other = (color(pattern, "forward", order="random", seed=s) for s in (1, 1, 2))
    assert first == again
    assert first != other


# ------------------------------------------------------------------------------------------- few

# Colours that asdex 0.5.1 takes for these patterns (by columns, by rows, symmetric), run on the
# same patterns; None where the pattern is not symmetric.  The second triple is what suffices here.
FEW = {
    "Brusselator, 1-D": (brusselator_1d(500), (6, 6, 5), (4, 4, 4)),
    "Brusselator, 2-D, 30": (brusselator_2d(30), (10, 10, 10), (10, 10, 9)),
    "Brusselator, 2-D, 32": (brusselator_2d(32), (12, 12, 10), (10, 10, 9)),
    "heat, 1-D": (path(1000), (3, 3, 3), (3, 3, 3)),
    "heat, 2-D": (grid(32), (7, 7, 5), (5, 5, 5)),
    "heat, 2-D, odd": (grid(51), (7, 7, 5), (5, 5, 5)),
    "heat, periodic": (grid(32, ring), (9, 9, 5), (9, 9, 5)),
    "Rosenbrock, chained": (path(500), (3, 3, 3), (3, 3, 3)),
    "band 2, 3": (band(300, 2, 3), (6, 6, None), (6, 6, None)),
    "band 7, 7": (band(300, 7, 7), (15, 15, 15), (15, 15, 15)),
    "ring": (ring(301), (4, 4, 4), (4, 4, 4)),
    "arrowhead": (arrowhead(300), (300, 300, 2), (300, 300, 2)),
    "KKT": (kkt(200, 60, 0), (9, 9, 8), (8, 8, 6)),
    "KKT, more": (kkt(100, 80, 1), (10, 10, 9), (10, 10, 8)),
    "random, wide": (random_mask(200, 300, 0.025, 4), (17, 15, None), (16, 14, None)),
    "random, tall": (random_mask(1000, 100, 0.02, 12), (15, 32, None), (13, 32, None)),
}


@pytest.mark.parametrize("case", FEW)
def test_no_more_colors_than_of_others(case):
    mask, others, ours = FEW[case]
    pattern = of_mask(mask)
    for mode, theirs, most in zip(("forward", "reverse", "symmetric"), others, ours, strict=True):
        if theirs is not None:
            coloring = color(pattern, mode)
            check(coloring)
            assert coloring.colors <= most <= theirs


@given(masks())
def test_best_takes_no_more_than_any_order(mask):
    pattern = of_mask(mask)
    for mode in ("forward", "reverse"):
        few = [color(pattern, mode, order=order).colors for order in ORDERS[:4]]
        assert few[0] == min(few)
    few = [cost(color(pattern, "bidirectional", order=order)) for order in ORDERS[:4]]
    assert few[0] == min(few)


@given(graphs())
def test_best_takes_no_more_than_any_order_for_symmetric(mask):
    few = [color(of_mask(mask), "symmetric", order=order).colors for order in ORDERS[:4]]
    assert few[0] == min(few)


def cost(coloring):
    return coloring.forward_colors + 2 * coloring.reverse_colors


@given(masks(), orders)
def test_auto_is_the_cheapest(mask, order):
    pattern = of_mask(mask)
    found = {mode: color(pattern, mode, order=order) for mode in MODES}
    auto = found.pop("auto")
    assert cost(auto) <= min(cost(found[mode]) for mode in ("forward", "reverse"))
    if auto.mode == "bidirectional":
        assert auto.forward_colors
        assert auto.reverse_colors
        assert cost(auto) < min(cost(found[mode]) for mode in ("forward", "reverse"))


def test_auto_chooses():
    assert color(of_mask(np.ones((20, 3)))).mode == "forward"
    assert color(of_mask(np.ones((3, 20)))).mode == "reverse"
    assert color(of_mask(np.ones((10, 20)))).mode == "forward"  # costs the same
    assert color(of_mask(arrowhead(30))).mode == "bidirectional"
    assert color(of_mask(band(30, 1, 1))).mode == "forward"


def test_a_frame_takes_a_color_for_each_dense_row_and_column():
    """SparseMatrixColorings.jl, issue 147: 101 in the natural order."""
    pattern = of_mask(frame(100, 200, 2))
    for mode in ("bidirectional", "auto"):
        coloring = color(pattern, mode)
        check(coloring)
        assert (coloring.forward_colors, coloring.reverse_colors) == (4, 4)
    natural = color(pattern, "bidirectional", order="natural")
    check(natural)
    assert natural.colors in (100, 101)
    assert color(pattern, "bidirectional", order="random").colors <= 12


def test_dense_rows_and_columns_are_set_apart():
    mask = path(200).toarray()
    mask[[10, 150]] = mask[:, [3, 50, 180]] = True
    coloring = color(of_mask(mask))
    check(coloring)
    assert coloring.mode == "bidirectional"
    assert coloring.forward_colors <= 6
    assert coloring.reverse_colors <= 2


# -------------------------------------------------------------------------------------- in time


@pytest.mark.slow
@pytest.mark.parametrize("mode", ["forward", "reverse", "bidirectional", "symmetric"])
def test_dense_rows_take_no_longer(mode):
    """A dense row is not gone through for each of its entries, 4e10 times in all."""
    mask = arrowhead(200_000)
    for order in ORDERS:
        color(of_mask(arrowhead(100)), mode, order=order)  # compiled
        pattern = of_mask(mask)
        begun = time.process_time()
        color(pattern, mode, order=order)
        assert time.process_time() - begun < 6


def test_dense_blocks_take_no_longer():
    """A list of the colours around each would be gone through 1e9 times."""
    pattern = of_mask(np.ones((1000, 1000), bool))
    color(of_mask(np.ones((100, 100))), "bidirectional")
    begun = time.process_time()
    assert color(pattern, "bidirectional", order="natural").colors == 1000
    assert color(pattern, "symmetric", order="natural").colors == 1000
    assert time.process_time() - begun < 3
