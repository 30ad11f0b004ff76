"""`tsgu_func.testing.gradcheck` beside PyTorch's."""

import inspect

import pytest
import torch

from tsgu_func.testing import GradcheckError, RuleError, gradcheck, gradgradcheck

OWN = {"gradcheck": gradcheck, "gradgradcheck": gradgradcheck}


def point(*numbers, dtype=torch.float64):
    return torch.tensor(numbers or (0.5, 2.0, -1.5), dtype=dtype, requires_grad=True)


class Old(torch.autograd.Function):
    """As in the years before torch.func: `forward` takes the context."""

    factor = 3.0

    @staticmethod
    def forward(ctx, x):
        ctx.save_for_backward(x)
        return x**3

    @staticmethod
    def backward(ctx, ct):
        return Old.factor * ct * ctx.saved_tensors[0] ** 2


class Two(torch.autograd.Function):
    """Wrong where the second of its outputs has no cotangent."""

    generate_vmap_rule = True

    @staticmethod
    def forward(x):
        return x**2, x**3

    @staticmethod
    def setup_context(ctx, inputs, output):
        ctx.set_materialize_grads(False)
        ctx.save_for_backward(*inputs)

    @staticmethod
    def backward(ctx, first, second):
        (x,) = ctx.saved_tensors
        if second is None:
            return 5 * first * x
        return (0 if first is None else 2 * first * x) + 3 * second * x**2


@pytest.mark.parametrize("name", OWN)
def test_the_signature_is_that_of_pytorch(name):
    own = inspect.signature(OWN[name]).parameters
    theirs = inspect.signature(getattr(torch.autograd, name)).parameters
    assert list(own)[1:] == list(theirs)[1:]
    for parameter in list(theirs)[1:]:
        assert own[parameter].kind == theirs[parameter].kind
        if parameter not in ("atol", "rtol", "masked"):
            assert own[parameter].default == theirs[parameter].default


@pytest.mark.parametrize("dtype", [torch.float64, torch.complex128, torch.float32])
@pytest.mark.parametrize("name", OWN)
def test_what_is_right_passes(name, dtype):
    assert OWN[name](torch.sin, (point(dtype=dtype),)) is True
    assert OWN[name](torch.sin, point(dtype=dtype), raise_exception=False) is True


def test_every_option_passes_what_is_right():
    forward = {"check_forward_ad": True, "check_batched_forward_grad": True}
    assert gradcheck(torch.tanh, point(), check_batched_grad=True, fast_mode=True, **forward)
    both = {"check_fwd_over_rev": True, "check_batched_grad": True}
    assert gradgradcheck(torch.tanh, point(), gen_non_contig_grad_outputs=True, **both)


@pytest.mark.slow
@pytest.mark.parametrize("fn", [lambda x: x.square() / 2 + x.square().detach() / 2, Two.apply])
def test_what_is_wrong_raises_the_report(fn):
    assert gradcheck(fn, point(), raise_exception=False) is False
    for kind in (AssertionError, RuntimeError, RuleError, GradcheckError):
        with pytest.raises(kind, match=r"WRONG; .* from finite differences"):
            gradcheck(fn, point())
    with pytest.raises(torch.autograd.gradcheck.__globals__["GradcheckError"]):
        gradcheck(fn, point())


def test_an_undefined_cotangent_is_looked_at_as_asked():
    options = {"fast_mode": True, "raise_exception": False}
    assert not gradcheck(Two.apply, point(), **options)
    assert gradcheck(Two.apply, point(), check_undefined_grad=False, **options)


def test_an_error_that_pytorch_allows_is_found():
    wrong = lambda x: x.sin() + 1e-4 * (x - x.detach())
    x = point(0.5, 1.0)
    assert torch.autograd.gradcheck(wrong, x)
    assert not gradcheck(wrong, x, raise_exception=False)
    assert gradcheck(wrong, x, rtol=1e-3, atol=1e-5)


@pytest.mark.parametrize("factor", [3.0, 2.0])
def test_an_old_function_is_checked_by_autograd(factor, monkeypatch):
    monkeypatch.setattr(Old, "factor", factor)
    assert gradcheck(Old.apply, point(), raise_exception=False) is (factor == 3.0)
    assert gradgradcheck(Old.apply, point())  # the second is the derivative of the first


def test_an_old_function_without_a_second_derivative():
    class Once(Old):
        @staticmethod
        @torch.autograd.function.once_differentiable
        def backward(ctx, ct):
            return 3 * ct * ctx.saved_tensors[0] ** 2

    assert gradcheck(Once.apply, point())
    with pytest.raises(GradcheckError, match="WRONG"):
        gradgradcheck(Once.apply, point())


@pytest.mark.slow
def test_what_requires_no_gradient_is_held_constant():
    def fn(x, y, n, name):
        assert name == "name"
        return x * y.detach() * n, y.square().detach()

    x, y = point(), point().detach()
    assert gradcheck(fn, (x, y, 2, "name"))
    assert gradgradcheck(fn, (x, y, 2, "name"))
    assert not gradcheck(fn, (x, y.requires_grad_(), 2, "name"), raise_exception=False)


def test_complex_and_real_inputs_stay_what_they_are():
    def product(z, x):
        assert z.is_complex()
        assert not x.is_complex()
        return z.conj() * x

    assert gradcheck(product, (point(1 + 2j, 3j, dtype=torch.complex128), point(2.0, 3.0)))


@pytest.mark.slow
def test_a_second_derivative_that_is_wrong():
    half = lambda x: x**3 + (x - x.detach()) ** 2
    assert gradcheck(half, point())
    assert not gradgradcheck(half, point(), raise_exception=False)
    assert not gradgradcheck(
        half, point(), check_rev_over_rev=False, check_fwd_over_rev=True, raise_exception=False
    )


def test_given_cotangents_are_what_is_pulled_back():
    symmetric = lambda A: torch.linalg.eigh(A)[0]
    A = torch.tensor([[2.0, 1.0], [1.0, 5.0]], dtype=torch.float64, requires_grad=True)
    lower = lambda A: symmetric(A.tril() + A.tril(-1).mT)
    assert gradgradcheck(lower, A, point(1.0, 0.5))
    with pytest.raises(ValueError, match=r"\[\(2,\)\]; got \[\(3,\)\]"):
        gradgradcheck(lower, A, point())


def test_noise_is_allowed_as_far_as_it_is_said():
    # An absolute tolerance for derivatives is none for what two runs give.
    def noisy(x):
        noisy.calls += 1
        return x**2 + 1e-10 * (noisy.calls % 2)

    noisy.calls = 0
    with pytest.raises(GradcheckError, match="repeatable"):
        gradcheck(noisy, point(), atol=1e-5)


def test_what_cannot_be_told_is_no_success():
    assert gradcheck(torch.relu, point(0.0, 1.0), raise_exception=False) is False
    with pytest.raises(GradcheckError, match="can't tell"):
        gradcheck(torch.relu, point(0.0, 1.0))


@pytest.mark.parametrize(
    ("check", "options", "message"),
    [
        (gradcheck, {"check_backward_ad": False}, "check_forward_ad or check_backward_ad"),
        (gradcheck, {"check_batched_forward_grad": True}, "check_forward_ad, for"),
        (gradcheck, {"masked": True}, r"torch\.sparse"),
        (gradgradcheck, {"check_rev_over_rev": False}, "check_fwd_over_rev or"),
    ],
)
def test_refuses(check, options, message):
    with pytest.raises(ValueError, match=message):
        check(torch.sin, point(), **options)


def test_refuses_inputs_of_which_none_moves():
    with pytest.raises(ValueError, match="requires_grad=True"):
        gradcheck(torch.sin, torch.ones(2))


@pytest.mark.parametrize("fn", [lambda x: 3, lambda x: x.argmax(), lambda x: None])
def test_refuses_functions_of_which_nothing_moves(fn):
    with pytest.raises(TypeError, match="no floating or complex tensor"):
        gradcheck(fn, point())
