"""Right functions that are easily condemned: no cell says WRONG or RAISES."""

import pytest
import torch

from tsgu_func.testing import Verdict, check_rules
from tsgu_func.testing.checker.precision import Rounding
from tsgu_func.testing.checker.problem import problem_of

CELLS = ("value", "first", "higher", "eager", "jacobian", "vmap")
X = torch.tensor([0.5, -1.0, 2.0], dtype=torch.float64)
F64 = torch.float64
pytestmark = pytest.mark.filterwarnings("ignore:There is a performance drop")


def matrix(n):
    return torch.randn(n, n, dtype=F64, generator=torch.Generator().manual_seed(n)) + n * torch.eye(
        n, dtype=F64
    )


RIGHT = {
    # derivatives that are zero
    "sum of softmax": (lambda x: x.softmax(-1).sum(-1), (X,)),
    "corrcoef of two": (torch.corrcoef, (matrix(3)[:, :2].contiguous(),)),
    "a number, normalized": (lambda x: x / x.norm(), (X[2:],)),
    "inverse times itself": (lambda A: torch.linalg.inv(A) @ A, (matrix(3),)),
    # sizes that are far apart, and changes over short distances
    "reciprocal": (lambda x: 1 / x, (torch.tensor([1e-6, 1.0, 1e3], dtype=F64),)),
    "sine far away": (lambda x: torch.sin(x - 1e6), (X + 1e6,)),
    "fast sine": (lambda x: torch.sin(1e6 * x), (X,)),
    "tangent near its pole": (torch.tan, (torch.tensor([1.5707, 1.0], dtype=F64),)),
    "staircase": (lambda x: torch.round(x, decimals=3), (X,)),
    # low precision inside
    "float": (lambda x: x.float(), (X,)),
    "bfloat16": (lambda x: x.bfloat16(), (X,)),
    "half": (lambda x: x.half(), (X,)),
    "cfloat": (lambda x: x.cfloat(), (X,)),
    "cube in float": (lambda x: (x.float() ** 3).double(), (X,)),
    # kinks, at the point
    "norm at zero": (lambda x: x.norm(), (torch.zeros(3, dtype=F64),)),
    "power of zero": (lambda y: 0.0**y, (torch.tensor([0.0, 1.0, 2.0], dtype=F64),)),
    "relu": (lambda x: torch.relu(x - X[0]), (X,)),
    "root": (torch.sqrt, (torch.tensor([0.0, 1.0], dtype=F64),)),
    "equal eigenvalues": (
        lambda A: torch.linalg.eigvalsh((A + A.mT) / 2), (torch.eye(3, dtype=F64),)
    ),
    # batches
    "product of many": (torch.prod, (1 + torch.linspace(0, 1, 125, dtype=F64),)),
    "no influence": (lambda x, y: 2 * x, (X, X)),
    "no influence of the first": (lambda x, y: 2 * y, (X, X)),
    # views, identities, no graph
    "transposed": (lambda A: A.mT, (matrix(3),)),
    "an entry": (lambda x: x[0], (X,)),
    "identity": (lambda x: x, (X,)),
    "floor": (torch.floor, (X + 0.25,)),
    "round": (torch.round, (X + 0.25,)),
    "sign": (torch.sign, (X,)),
    "angle": (torch.angle, (X,)),
    "one output without gradient": (lambda x: (2 * x, torch.ones(2, dtype=F64)), (X,)),
}  # fmt: skip


# What PyTorch refuses, and says so.
REFUSED = {
    "sum of softmax": {"backward through forward_ad"},
    "corrcoef of two": {"linearize"},
}


def condemned(report):
    return {c.name for c in report.cells if c.verdict in (Verdict.FAILS, Verdict.RAISES)}


@pytest.mark.parametrize("name", RIGHT)
def test_what_is_right_is_not_condemned(name):
    f, args = RIGHT[name]
    report = check_rules(f, args, transforms=CELLS, dtypes=[F64])
    assert condemned(report) == REFUSED.get(name, set()), str(report)
    assert any(c.verdict is Verdict.HOLDS for c in report.cells)


def test_where_rounding_decides_nothing_is_condemned():
    def direction(x):
        # As of sums, which kernels may take in another order of what is expanded.
        rounding = 2.0**-52 * (x.stride(-1) == 0) * torch.arange(len(x), dtype=F64)
        d = (x * (1 + rounding)).diff()
        return d / (d.norm() + 1e-20)

    check_rules(direction, (X,), transforms=("value",), dtypes=[F64]).raise_if_failed()


# ------------------------------------------------------------ what is not to be differentiated


@pytest.mark.slow
def test_results_that_are_declared_constant():
    def f(x, y):
        return {"square": x**2 * y, "cube": (x**3).detach()}

    args = (X, X + 1)
    assert "f" in condemned(check_rules(f, args, transforms=("first",), dtypes=[F64]))
    options = {"transforms": CELLS, "dtypes": [F64]}
    report = check_rules(f, args, constant=["out['cube']"], **options)
    report.raise_if_failed()
    with pytest.raises(ValueError, match=r"constant holds some of out\['cube'\], .*'out\[1\]'"):
        check_rules(f, args, constant=["out[1]"], **options)


def test_the_values_of_what_is_constant_are_checked():
    calls = []

    def moody(x):
        calls.append(x)
        return x**2, torch.full_like(x, len(calls))

    report = check_rules(moody, (X,), constant="out[1]", transforms=("value",), dtypes=[F64])
    assert "repeatable" in condemned(report)


@pytest.mark.parametrize("cell", ["strides", "vmap of 5"])
def test_what_is_constant_is_checked_in_every_place_and_batch(cell):
    class Moody(torch.autograd.Function):
        @staticmethod
        def forward(x):
            return x.clone() if x.is_contiguous() else 2 * x

        @staticmethod
        def setup_context(ctx, inputs, output):
            ctx.mark_non_differentiable(output)

        @staticmethod
        def vmap(info, in_dims, x):
            return x * (info.batch_size <= 3), in_dims[0]

    report = check_rules(
        lambda x: (x**2, Moody.apply(x)), (X,), constant="out[1]", transforms=cell, dtypes=[F64]
    )
    assert condemned(report) == {cell}


def test_arguments_that_are_declared_constant():
    def f(parts, y):
        return parts["x"] * y.detach() + parts["mask"].sum().detach()

    args = ({"x": X, "mask": X}, X)
    constant = ["args[1]", "args[0]['mask']"]
    report = check_rules(f, args, constant=constant, transforms=CELLS, dtypes=[F64])
    report.raise_if_failed()
    with pytest.raises(ValueError, match=r"constant holds some of args\[0\]"):
        check_rules(f, args, constant=["args[2]"])
    with pytest.raises(ValueError, match="constant holds names"):
        check_rules(f, args, constant=["y"])


# ----------------------------------------------------------------------------------- random numbers


def dropout(x):
    return torch.nn.functional.dropout(x**2, 0.5)


def seeded(x):
    torch.manual_seed(0)
    return dropout(x)


def frozen(x):
    with torch.random.fork_rng():
        return seeded(x)


@pytest.mark.parametrize("randomness", ["same", "different"])
@pytest.mark.parametrize("f", [dropout, seeded, frozen])
def test_what_is_random_is_not_condemned(f, randomness):
    torch.manual_seed(1)
    x = torch.linspace(1, 2, 12, dtype=F64)  # a dozen: some are dropped, and others each time
    report = check_rules(f, (x,), transforms=CELLS, dtypes=[F64], randomness=randomness)
    allowed = {"hessian", "functional.jacobian, vectorized"} | (
        {"repeatable"} if f is dropout else set()
    )
    assert condemned(report) <= allowed, str(report)
    assert ("repeatable" in condemned(report)) == (f is dropout)


def test_randomness_is_one_of_vmaps():
    with pytest.raises(ValueError, match="randomness is 'error', 'same' or 'different'; got 'no'"):
        check_rules(torch.sin, (X,), randomness="no")


def test_right_functions_hold_where_differences_reach():
    for name in ("reciprocal", "sine far away", "a number, normalized", "inverse times itself"):
        f, args = RIGHT[name]
        report = check_rules(f, args, transforms=("first", "backward"), dtypes=[F64])
        assert report.holds, str(report)


def test_the_same_functions_are_not_passed_when_wrong():
    class Wrong(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return 1 / x

        @staticmethod
        def backward(ctx, ct):
            return ct / ctx.saved_tensors[0] ** 2  # minus

    (x,) = RIGHT["reciprocal"][1]
    report = check_rules(Wrong.apply, (x,), transforms=("backward",), dtypes=[F64])
    assert condemned(report) == {"backward"}


@pytest.mark.parametrize("least", [1e-9, 1e-14, 1e-300])
@pytest.mark.parametrize("factor", [2.0, 2.002, 3.0])
def test_an_entry_next_to_nothing_is_no_excuse(least, factor):
    class Square(torch.autograd.Function):
        @staticmethod
        def forward(ctx, x):
            ctx.save_for_backward(x)
            return x**2

        @staticmethod
        def backward(ctx, ct):
            return factor * ct * ctx.saved_tensors[0]

    x = torch.tensor([least, 1.0, 2.0], dtype=F64)
    report = check_rules(Square.apply, (x,), transforms=("backward",), dtypes=[F64])
    expected = Verdict.HOLDS if factor == 2 else Verdict.FAILS
    assert [c.verdict for c in report.cells] == [expected], str(report)


def test_cells_share_their_differences():
    beside = []

    def f(x):
        if not torch.equal(x, X):
            beside.append(x)
        return torch.sin(x)

    check_rules(f, (X,), transforms=("r",), dtypes=[F64])
    once = len(beside)
    check_rules(f, (X,), transforms=("r", "backward", "checkpoint"), dtypes=[F64])
    assert len(beside) == 2 * once > 0


def test_what_is_drawn_is_drawn_on_the_cpu():
    """Whatever the default device is: a generator of one device does not serve another."""
    rounding = Rounding(problem_of(torch.sin, (X,)), torch.float32)
    expected = rounding._perturbed(X, 1)
    with torch.device("meta"):
        assert torch.equal(rounding._perturbed(X, 1), expected)
