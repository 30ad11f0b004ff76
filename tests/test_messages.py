"""What a newcomer tries first and cannot work says what to do instead; types for type checkers."""

import importlib.util
import json
import re
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import scipy.io
import scipy.sparse
import torch
from torch.func import grad, hessian, jvp
from torch.testing import assert_close

from tsgu_func import (
    SparseMatrix,
    sparse_generic_lstsq,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_mm,
    sparse_solve,
    sparse_triangular_solve,
)

ROOT = Path(__file__).parent.parent
D = torch.tensor([[4.0, 1, 0], [0, 3, 1], [0, 0, 5]], dtype=torch.float64)
A = SparseMatrix.from_dense(D)
B = torch.ones(3, 2, dtype=torch.float64)
NUMPY, SCIPY = np.ones((3, 3)), scipy.sparse.csr_array(D.numpy())
FUNCTIONS = [
    sparse_mm,
    sparse_solve,
    sparse_generic_solve,
    sparse_lstsq,
    sparse_generic_lstsq,
    sparse_triangular_solve,
]

OPERATORS = {
    "A @ x": lambda A, x: A @ x,
    "x @ A": lambda A, x: x @ A,
    "A + x": lambda A, x: A + x,
    "x + A": lambda A, x: x + A,
    "A - x": lambda A, x: A - x,
    "x - A": lambda A, x: x - A,
    "A * x": lambda A, x: A * x,
    "x * A": lambda A, x: x * A,
    "A / x": lambda A, x: A / x,
}


@pytest.mark.parametrize("name", OPERATORS)
@pytest.mark.parametrize(("x", "cure"), [(NUMPY, "torch.from_numpy"), (SCIPY, "from_scipy|to_sci")])
def test_arrays_of_others_are_named_with_what_converts_them(name, x, cure):
    with pytest.raises(TypeError, match=cure):
        OPERATORS[name](A, x)


def test_what_else_meets_a_matrix_is_left_to_its_own_class():
    class Other:
        def __rmatmul__(self, A):
            return "theirs"

        __radd__ = __rsub__ = __rmul__ = __rtruediv__ = __rmatmul__

    for name in ("A @ x", "A + x", "A - x", "A * x", "A / x"):
        assert OPERATORS[name](A, Other()) == "theirs"
    for operator in OPERATORS.values():
        with pytest.raises(TypeError, match="unsupported operand"):
            operator(A, {})


@pytest.mark.parametrize("function", FUNCTIONS)
def test_matrices_of_scipy_and_numpy_arrays_as_arguments(function):
    with pytest.raises((TypeError, ValueError), match=r"which SparseMatrix\.from_scipy converts"):
        function(SCIPY, B)
    for args in ((NUMPY, B), (A, NUMPY)):
        with pytest.raises((TypeError, ValueError), match=r"which torch\.from_numpy converts"):
            function(*args)
    with pytest.raises((TypeError, ValueError), match=r"B\.to_dense\(\) is one"):
        function(A, A)


@pytest.mark.parametrize("sparse", [D.to_sparse_csr(), D.to_sparse_coo()])
def test_a_product_with_a_torch_sparse_tensor(sparse):
    for name in ("A @ x", "x @ A"):
        with pytest.raises(TypeError, match=r"SparseMatrix\.from_torch\(B\)"):
            OPERATORS[name](A, sparse)
    for name in ("A + x", "A * x", "A / x"):
        with pytest.raises(TypeError, match=r"SparseMatrix\.from_torch converts it"):
            OPERATORS[name](A, sparse)
    assert_close((A @ SparseMatrix.from_torch(sparse)).to_dense(), D @ D)


@pytest.mark.parametrize(
    ("make", "wrong", "cure"),
    [
        (SparseMatrix.from_scipy, NUMPY, r"from_dense\(torch\.from_numpy\(A\)\)"),
        (SparseMatrix.from_scipy, D.to_sparse_csr(), r"from_torch\(A\)"),
        (SparseMatrix.from_torch, SCIPY, r"SparseMatrix\.from_scipy"),
        (SparseMatrix.from_torch, D, "use from_dense"),
        (SparseMatrix.from_dense, NUMPY, r"torch\.from_numpy"),
        (SparseMatrix.from_dense, SCIPY, r"SparseMatrix\.from_scipy"),
    ],
)
def test_the_wrong_constructor_names_the_right_one(make, wrong, cure):
    with pytest.raises(TypeError, match=cure):
        make(wrong)


@pytest.mark.parametrize("function", FUNCTIONS)
def test_integers_of_a_matrix_market_file(function, tmp_path):
    path, symmetric = tmp_path / "integers.mtx", D + D.mT
    scipy.io.mmwrite(path, scipy.sparse.coo_array(symmetric.numpy().astype(int)))
    integers = SparseMatrix.from_scipy(scipy.io.mmread(path))
    assert integers.dtype == torch.int64
    with pytest.raises(ValueError, match=r"got torch\.int64: A\.to\(torch\.float64\) converts it"):
        function(integers, B)
    floats = SparseMatrix.from_dense(symmetric)
    assert_close(function(integers.to(torch.float64), B), function(floats, B))
    with pytest.raises(ValueError, match=r"B\.to\(torch\.float64\)|A and B have one dtype"):
        function(A, B.long())


def test_half_precision_to_solve_with():
    with pytest.raises(ValueError, match=r"got torch\.float16: A\.to\(torch\.float32\) converts"):
        sparse_solve(A.half(), B.half())


def test_autograd_wants_the_values():
    M = SparseMatrix.from_dense(D).requires_grad_()
    y = sparse_mm(M, B).sum()
    with pytest.raises(TypeError, match=r"A\.values"):
        torch.autograd.grad(y, M)
    expected = grad(lambda M: sparse_mm(M, B).sum())(M.detach())
    assert_close(torch.autograd.grad(y, M.values)[0], expected.values)


def test_truth_and_arrays():
    for ask in (lambda: bool(A), lambda: A or B, lambda: not A):
        with pytest.raises(TypeError, match=r"A is not None|A\.nnz > 0"):
            ask()
    with pytest.raises(TypeError, match=r"A\.to_scipy\(\)"):
        np.asarray(A)


def test_a_hessian_of_a_matrix_explains_itself():
    f = lambda A: sparse_mm(A, B).pow(3).sum()
    H = hessian(f)(A)
    assert "values=SparseMatrix(shape=(5, 3, 3)" in repr(H)
    assert "values=SparseMatrix(shape=(5, 3, 3)" in H._repr_html_()
    said = r"matrix of matrices, as torch\.func\.hessian\(f\)\(A\) is.*H\.values\.values"
    for use in (H.to_dense, H.sum, H.diagonal, lambda: H @ B, lambda: H + H, H.to_scipy):
        with pytest.raises(TypeError, match=said):
            use()
    expected = hessian(lambda v: f(A.with_values(v)))(A.values)
    assert_close(H.values.values, expected)  # as the message says
    assert_close(H.values[1].values, expected[1])


def test_a_tangent_of_another_pattern_can_be_told_from_its_point():
    other = SparseMatrix.from_dense(D.mT)
    same = SparseMatrix.from_coo([2, 1, 1, 0, 0], [2, 2, 1, 1, 0], A.values, (3, 3))
    f = lambda A: sparse_mm(A, B)
    with pytest.raises(RuntimeError, match="same python structure") as caught:
        jvp(f, (A,), (other,))
    assert len(set(re.findall(r"id=\w+", str(caught.value)))) == 2
    assert_close(jvp(f, (A,), (same,))[1], f(same))  # made apart, and yet the same


# ------------------------------------------------------------------------------------ type checkers

USER = """
import torch
import tsgu_func as tf
from tsgu_func import SparseMatrix, SparseParameter, SparsityPattern

b = torch.ones(2)
A = SparseMatrix.from_coo([0, 1], [0, 1], b, (2, 2))
pattern, assemble = SparsityPattern.from_coo([0, 1], [0, 1], (2, 2))
reveal_type(A)
reveal_type(SparseMatrix(pattern, assemble(b)))
reveal_type(A @ b)
reveal_type(b @ A)
reveal_type(A @ A)
reveal_type(A + A.T)
reveal_type(2 * A / 3)
reveal_type(A.to("cpu", torch.float64))
reveal_type(A.double().cpu().clone().t())
reveal_type(A.to(A))
reveal_type(A.to(dtype=torch.float64))
reveal_type(A.size())
reveal_type(A.size(0))
reveal_type(A.to_dense())
reveal_type(A.values)
reveal_type(A.pattern)
reveal_type(SparseParameter(A)())
reveal_type(tf.sparse_mm(A, b))
reveal_type(tf.sparse_solve(A, b))
reveal_type(tf.sparse_solve(A, b, return_info=True))
reveal_type(tf.sparse_generic_solve(A, b))
reveal_type(tf.sparse_triangular_solve(A, b))
reveal_type(tf.sparse_lstsq(A, b))
reveal_type(tf.gather_mm(b[None], b[None, :, None], torch.zeros(1, dtype=torch.long)))
A.grad
A.nonsense
A.to(3, 4)
tf.sparse_solve(3, b)
"""
TYPES = [
    *("SparseMatrix", "SparseMatrix", "Tensor", "Tensor"),
    *["SparseMatrix"] * 7,
    *("Size", "int", "Tensor", "Tensor", "SparsityPattern"),
    *("SparseMatrix", "Tensor", "Tensor", "tuple[Tensor, Info]"),
    *["Tensor"] * 4,
]


@pytest.mark.slow
@pytest.mark.skipif(importlib.util.find_spec("pyright") is None, reason="pyright is not installed")
def test_a_type_checker_reads_the_public_surface(tmp_path):
    (tmp_path / "user.py").write_text(textwrap.dedent(USER))
    settings = {"include": ["user.py"], "extraPaths": [str(ROOT)], "typeCheckingMode": "standard"}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    command = [sys.executable, "-m", "pyright", "--outputjson", "--pythonpath", sys.executable]
    done = subprocess.run(
        [*command, "-p", str(tmp_path)], capture_output=True, text=True, check=False
    )
    if not done.stdout.lstrip().startswith("{"):
        pytest.skip("pyright cannot run here")
    found = json.loads(done.stdout)["generalDiagnostics"]
    revealed = [re.findall(r'is "(.*)"', x["message"]) for x in found if "Type of" in x["message"]]
    assert [x for said in revealed for x in said] == TYPES
    errors = [x["range"]["start"]["line"] + 1 for x in found if x["severity"] == "error"]
    lines = USER.splitlines()
    assert list(dict.fromkeys(lines[line - 1] for line in errors)) == lines[-4:]
