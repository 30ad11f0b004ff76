"""How sparse derivatives are called: what they refuse, keep, and say; kinds of numbers."""

import copy
import pickle
import threading

import pytest
import torch
from torch.func import grad, jacfwd, vmap
from torch.testing import assert_close

from tests.differentiated import complex_jacobian
from tests.functions import wave
from tsgu_func import (
    SparseMatrix,
    SparsityPattern,
    check_pattern,
    color,
    hessian_pattern,
    jacobian_pattern,
    ravel_pytree,
    sparse_hessian,
    sparse_jacobian,
)
from tsgu_func.solvers import cache_info, clear_cache

X = wave(5)
Z = torch.complex(wave(5), wave(5, seed=1))


def chain(x):
    return x[1:] ** 2 * x[:-1]


def energy(x):
    return chain(x).sum()


CHAIN = jacobian_pattern(chain, X)
ROWS = SparsityPattern.from_coo([0], [0], (7, 5))[0]
COLUMNS = SparsityPattern.from_coo([0], [0], (4, 7))[0]
STAR = color(hessian_pattern(energy, X), "symmetric")


def given(f, x, *pattern, **options):
    return lambda: sparse_jacobian(f, *pattern, **options)(x)


def itself(x):
    return x


REFUSALS = [
    (lambda: sparse_jacobian(X), TypeError, r"takes a function.*strided tensor"),
    (lambda: sparse_hessian(3), TypeError, r"sparse_hessian takes a function.*int"),
    (lambda: sparse_jacobian(chain, X), TypeError, r"is a SparsityPattern or a Coloring"),
    (lambda: sparse_jacobian(chain, mode="fast"), ValueError, r"'auto', 'forward'.*'fast'"),
    (lambda: sparse_hessian(energy, mode="auto"), ValueError, r"'forward-reverse'.*'auto'"),
    (lambda: sparse_jacobian(chain, chunk_size=0), ValueError, r"1 or more, or None; got 0"),
    (lambda: sparse_jacobian(chain, argnums=1.5), TypeError, r"int or a tuple of ints; got 1.5"),
    (lambda: sparse_jacobian(chain, argnums=()), ValueError, r"argnums is empty"),
    (given(chain, X, argnums=1), ValueError, r"argument 1.*1 positional argument"),
    (given(chain, X, argnums=(0, -1)), ValueError, r"names an argument twice"),
    (given(chain, X, color(CHAIN, "forward"), mode="reverse"), ValueError, r"does not go with"),
    (given(grad(energy), X, STAR), ValueError, r"for sparse_hessian: pass color"),
    (lambda: sparse_hessian(energy, CHAIN), ValueError, r"a Hessian is square"),
    (given(chain, X, COLUMNS), ValueError, r"7 columns, but there are 5 .*: pass the pattern"),
    (given(chain, X, ROWS), ValueError, r"7 rows, but the function returned 4 .*: pass the pat"),
    (given(chain, X, color(ROWS, "reverse")), ValueError, r"7 rows, but the function returned 4"),
    (given(itself, (X, [3.0]), CHAIN), TypeError, r"args\[0\]\[1\]\[0\] is a float: leave it out"),
    (given(itself, torch.arange(5), CHAIN), TypeError, r"a tensor of torch.int64: leave it out"),
    (given(lambda x: (x, x.argmax()), X, CHAIN), TypeError, r"result\[1\] is a tensor.*has_aux"),
    (given(itself, [], CHAIN), ValueError, r"holds no tensor"),
    (given(itself, X, CHAIN, has_aux=True), TypeError, r"a pair \(result, aux\); got Tensor"),
    (lambda: sparse_hessian(chain, STAR)(X), ValueError, r"\(\); got Tensor \(4,\).*: sum it up"),
    (lambda: sparse_hessian(torch.abs, STAR)(Z), TypeError, r"real function of real arguments"),
    (lambda: ravel_pytree({"a": 1}), TypeError, r"the tree\['a'\] is a int"),
    (lambda: ravel_pytree(X)[1](X[1:]), ValueError, r"vector of 5 elements.*\(4,\)"),
    (lambda: ravel_pytree(X)[1](X + 0j), ValueError, r"complex vector cannot be unraveled"),
]


@pytest.mark.parametrize(("call", "error", "message"), REFUSALS)
def test_refusals(call, error, message):
    with pytest.raises(error, match=f"(?s){message}"):
        call()


def test_columns_are_refused_before_anything_is_evaluated():
    def never(x):
        raise AssertionError

    with pytest.raises(ValueError, match="7 columns"):
        sparse_jacobian(never, COLUMNS)(X)


def test_nothing_is_detected_inside_of_a_compiled_function():
    outside = sparse_jacobian(chain)
    for f in (lambda x: outside(x).values, lambda x: sparse_jacobian(chain)(x).values):
        with pytest.raises(Exception, match=r"sparse_jacobian\(f, coloring\) inside"):
            torch.compile(f, fullgraph=True, backend="eager")(X)


# ------------------------------------------------------------------------------------- is kept


def test_what_is_detected_is_kept_and_shown():
    clear_cache()
    calls = []

    def counted(x):
        calls.append(x)
        return chain(x)

    jac = sparse_jacobian(counted, chunk_size=2)
    assert repr(jac).endswith("counted, chunk_size=2), detected: nothing yet")
    jac(X)
    before = len(calls)
    jac(2 * X)
    assert len(calls) == before + 1
    assert "detected: Coloring(forward, 2 colors for 5 columns) for Layout(" in repr(jac)
    jac(X[1:])
    jac(X.float())
    assert repr(jac).count("Coloring(") == 3
    kept = cache_info().kinds["detected colorings"]
    assert kept.entries == 3
    assert kept.bytes > 0
    del jac
    assert cache_info().kinds["detected colorings"].entries == 0


@pytest.mark.slow
def test_what_is_detected_is_bounded():
    jac = sparse_jacobian(chain)
    for n in range(2, 70):
        assert jac(wave(n)).shape == (n - 1, n)
    assert repr(jac).count("Coloring(") == 64


def test_other_arguments_decide_what_is_detected():
    def shifted(x, k, names):
        return x.roll(k) * x if "roll" in names else x

    jac, dense = sparse_jacobian(shifted), jacfwd(shifted)
    for k in (1, 2):
        for names in (frozenset({"roll"}), {"roll"}, {"none"}):
            assert_close(jac(X, k, names).to_dense(), dense(X, k, names))
    gather = lambda x, index: x[index]
    jac = sparse_jacobian(gather)
    for index in (torch.tensor([0, 1]), torch.tensor([3, 2])):
        assert_close(jac(X, index).to_dense(), jacfwd(gather)(X, index))


def test_threads_detect_once():
    seen, done = [], []

    def recorded(x):
        seen.append(x)
        return chain(x)

    alone = sparse_jacobian(recorded, mode="reverse")
    alone(X)
    once = len(seen)
    alone(X)
    again = len(seen) - once
    seen.clear()
    jac, start = sparse_jacobian(recorded, mode="reverse"), threading.Barrier(4)

    def work():
        start.wait()
        done.append(jac(X).to_dense())

    threads = [threading.Thread(target=work) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(seen) == once + 3 * again
    assert len(done) == 4
    for J in done:
        assert_close(J, jacfwd(chain)(X))


def test_detection_under_transforms():
    batch = torch.stack([X, 2 * X])
    got = vmap(sparse_jacobian(chain))(batch)
    assert_close(got.to_dense(), vmap(jacfwd(chain))(batch))
    jac, hess = sparse_jacobian(chain), sparse_hessian(energy)
    for sparse, dense in ((jac, jacfwd(chain)), (hess, jacfwd(grad(energy)))):
        got = grad(lambda x, f=sparse: f(x).values.square().sum())(X)
        assert_close(got, grad(lambda x, f=dense: f(x).square().sum())(X))


def test_copies_and_reprs():
    coloring = color(CHAIN)
    for jac in (sparse_jacobian(chain, coloring), sparse_jacobian(chain)):
        for other in (pickle.loads(pickle.dumps(jac)), copy.deepcopy(jac)):
            assert type(other) is type(jac)
            assert_close(other(X).values, jac(X).values)
    assert repr(sparse_jacobian(chain, coloring)) == f"sparse_jacobian(chain, {coloring!r})"
    said = repr(sparse_hessian(energy, STAR, argnums=(0,), has_aux=True))
    assert said == f"sparse_hessian(energy, {STAR!r}, argnums=(0,), has_aux=True)"


# ---------------------------------------------------------------------------------- the numbers

MODES = ["forward", "reverse", "bidirectional"]


@pytest.mark.parametrize("low", [torch.float16, torch.bfloat16, torch.float32])
@pytest.mark.parametrize("mode", MODES)
def test_low_precision(mode, low):
    x = X.to(low)
    J = sparse_jacobian(chain, CHAIN, mode=mode)(x)
    assert J.dtype == sparse_hessian(energy)(x).dtype == low
    eps = torch.finfo(low).eps
    assert_close(J.to_dense().double(), jacfwd(chain)(x.double()), rtol=8 * eps, atol=8 * eps)


@pytest.mark.parametrize("mode", MODES)
def test_mixed_dtypes(mode):
    x, y = X.float(), wave(5, seed=1)
    mixed = lambda x, y: (x.double() * y, x[:2] * 2)
    J = sparse_jacobian(mixed, argnums=(0, 1), mode=mode)(x, y)
    blocks = jacfwd(mixed, argnums=(0, 1))(x, y)
    assert_close(J.to_dense(), torch.cat([torch.cat(row, 1).double() for row in blocks]))
    assert sparse_jacobian(lambda x: x.float() * 3, mode=mode)(X).dtype == torch.float32


def test_the_order_and_the_way_back():
    tree = {"w": wave(2, 2), "b": [wave(1), wave()]}
    vector, unravel = ravel_pytree(tree)
    assert_close(vector, torch.cat([x.flatten() for x in (tree["w"], *tree["b"])]))
    assert_close(unravel(vector), tree)
    f = lambda t: {"y": t["w"] @ t["w"], "z": t["b"][0] * t["b"][1]}
    J = sparse_jacobian(f)(tree)
    assert_close(J.to_dense(), jacfwd(lambda v: ravel_pytree(f(unravel(v)))[0])(vector))
    # Jᵀ r, in the place of the leaves that it belongs to, is the gradient.
    loss = lambda t: sum(y.square().sum() for y in f(t).values()) / 2
    assert_close(unravel(J.T @ ravel_pytree(f(tree))[0]), grad(loss)(tree))
    mixed = (wave(2).float(), wave(2), wave(1) + 1j)
    vector, unravel = ravel_pytree(mixed)
    assert vector.dtype == torch.complex128
    assert_close(unravel(vector), mixed)


def test_expanded_and_lazy_arguments():
    x = torch.ones((), dtype=torch.float64).expand(5)
    assert_close(sparse_jacobian(chain)(x).to_dense(), jacfwd(chain)(x.clone()))
    z = Z.conj()
    got = sparse_jacobian(chain, CHAIN, mode="forward")(z).to_dense()
    assert_close(got, complex_jacobian(chain, z.resolve_conj()))


# ------------------------------------------------------------------------------ complex numbers


@pytest.mark.parametrize("mode", ["auto", *MODES])
def test_holomorphic(mode):
    f = lambda z: z[1:].exp() * z[:-1] ** 2
    jac = sparse_jacobian(f, mode=mode)
    J = jac(Z)
    assert J.dtype == torch.complex128
    assert_close(J.to_dense(), complex_jacobian(f, Z), rtol=1e-12, atol=1e-12)
    z = Z.clone().requires_grad_()
    got = torch.autograd.grad(jac(z).values.abs().square().sum(), z)
    right = torch.autograd.grad(complex_jacobian(f, z).abs().square().sum(), z)
    assert_close(got, right, rtol=1e-10, atol=1e-10)
    check_pattern(f, Z, J.pattern)


def test_real_arguments_of_a_complex_function():
    f = lambda x: torch.polar(x[1:].exp(), x[:-1])
    J = sparse_jacobian(f, mode="forward")(X)
    real = jacfwd(lambda x: torch.view_as_real(f(x)))(X)
    assert_close(J.to_dense(), torch.complex(real[:, 0], real[:, 1]))
    for mode in ("reverse", "bidirectional"):
        with pytest.raises(TypeError, match=r'pass mode="forward"'):
            sparse_jacobian(f, J.pattern, mode=mode)(X)


@pytest.mark.parametrize("f", [torch.conj, lambda z: z.abs() + 0j, lambda z: z.real * z])
def test_what_is_not_complex_differentiable_is_refused(f):
    pattern = SparseMatrix.eye(5).pattern
    with pytest.raises(ValueError, match=r"element 0 .* conjugate .*view_as_real"):
        sparse_jacobian(f, pattern)(Z)
    with pytest.raises(TypeError, match="a real function of complex arguments"):
        sparse_jacobian(torch.abs, pattern)(Z)


def test_a_row_that_is_only_rounding_is_not_refused():
    J = sparse_jacobian(lambda z: z * 3.7 / 3.7 - z)(Z)
    assert J.values.abs().max() < 1e-15
