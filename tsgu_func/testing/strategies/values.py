"""Numbers that a seed stands for, their magnitudes, and their places in memory."""

from __future__ import annotations

import math
from collections.abc import Callable

import torch
from hypothesis import strategies as st
from torch import Tensor

from tsgu_func.testing.strategies.options import one_of_names

__all__ = [
    "SEEDS",
    "STRIDES",
    "VALUES",
    "magnitudes",
    "numbers",
    "numbers_of",
    "restrided",
    "scales",
    "special_numbers",
]

# A failing example ends with seed 0, which stands for ones, unless it takes other numbers.
SEEDS = st.integers(0, 2**16 - 1)


def numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Return the random numbers that belong to a seed: normal, with one in ten exactly zero.

    Parameters
    ----------
    shape : tuple of int
    dtype : torch.dtype
        Floating-point or complex.
    seed : int
        With 0, all numbers are ones: the simplest numbers, to which a failing example shrinks.

    Returns
    -------
    Tensor
        Contiguous, on the default device; the same numbers on every device.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.strategies import numbers
    >>> numbers((2,), torch.float64, 0)
    tensor([1., 1.], dtype=torch.float64)
    >>> numbers((2,), torch.float64, 3)
    tensor([0.0000, 1.6762], dtype=torch.float64)
    """
    if seed == 0:
        return torch.ones(shape, dtype=dtype)
    generator = torch.Generator("cpu").manual_seed(seed)
    zero = torch.rand(shape, generator=generator, device="cpu") < 0.1
    x = torch.randn(shape, dtype=dtype, generator=generator, device="cpu")
    return x.masked_fill(zero, 0).to(torch.get_default_device())


def special_numbers(shape: tuple[int, ...], dtype: torch.dtype, seed: int) -> Tensor:
    """Return the special numbers that belong to a seed: 0, 1, -1, and powers of two from 1/8 to 8.

    Sums and products of a few of them are exact.  So they cancel to zero, and tie.

    Parameters
    ----------
    shape : tuple of int
    dtype : torch.dtype
        Floating-point or complex; some complex numbers are imaginary.
    seed : int
        With 0, all numbers are ones, as for `numbers`.

    Returns
    -------
    Tensor
        Contiguous, on the default device; the same numbers on every device.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.strategies import special_numbers
    >>> special_numbers((5,), torch.float64, 2)
    tensor([...], dtype=torch.float64)
    """
    if seed == 0:
        return torch.ones(shape, dtype=dtype)
    choices: list[complex] = [0, 1, 1, 1, -1, -1]
    choices += [sign * 2.0**power for power in range(-3, 4) for sign in (1, -1)]
    if dtype.is_complex:
        choices += [1j * number for number in choices]
    generator = torch.Generator("cpu").manual_seed(seed)
    which = torch.randint(len(choices), shape, generator=generator, device="cpu")
    return torch.tensor(choices, dtype=dtype, device="cpu")[which].to(torch.get_default_device())


_NUMBERS: dict[str, Callable[[tuple[int, ...], torch.dtype, int], Tensor]] = {
    "random": numbers,
    "special": special_numbers,
}
VALUES = tuple(_NUMBERS)


def numbers_of(values: str) -> Callable[[tuple[int, ...], torch.dtype, int], Tensor]:
    """Return `numbers` or `special_numbers`, by one of the names in `VALUES`."""
    one_of_names("values", values, VALUES)
    return _NUMBERS[values]


def magnitudes(dtype: torch.dtype = torch.float64) -> st.SearchStrategy[float]:
    """Draw a factor for all numbers of a tensor.  Mostly it is one, and else huge or tiny.

    Parameters
    ----------
    dtype : torch.dtype
        The product of two numbers of the drawn size neither overflows nor vanishes in this dtype.

    Returns
    -------
    SearchStrategy of float
        1, or a positive or negative power of ten: up to 1e150 in double precision, and up to 1e18
        in single.

    Examples
    --------
    >>> import torch
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import magnitudes
    >>> find(magnitudes(torch.float32), lambda x: x > 1)
    1000.0
    """
    limits = torch.finfo(dtype)
    # Half of the powers on either side, less a little for sums and for normal numbers.
    power = math.floor(0.49 * min(math.log10(limits.max), -math.log10(limits.tiny)))
    middle = min(3, power)
    others = [10.0**middle, 10.0**-middle, 10.0**power, 10.0**-power]
    return st.one_of(st.just(1.0), st.just(1.0), st.sampled_from(others))


def scales(dtype: torch.dtype = torch.float64) -> st.SearchStrategy[float]:
    """Draw a power of two, from nearly the whole range, as a factor for all numbers of a tensor.

    Such a factor rounds nothing.  So what does not depend on the units of the numbers has to come
    out the same to the last bit.  The product of two numbers of the drawn size may overflow or
    vanish.

    Parameters
    ----------
    dtype : torch.dtype

    Returns
    -------
    SearchStrategy of float
        In double precision from 2⁻⁶⁸¹, about 1e-205, to 2⁵¹², about 1e154; in single from 2⁻⁸⁴,
        about 5e-26, to 2⁶⁴, about 2e19.

    Examples
    --------
    >>> import torch
    >>> from hypothesis import find
    >>> from tsgu_func.testing.strategies import scales
    >>> find(scales(torch.float32), lambda x: True), find(scales(), lambda x: x * x == 0) < 1e-161
    (1.0, True)
    """
    limits = torch.finfo(dtype)
    largest, smallest = math.frexp(limits.max)[1], math.frexp(limits.tiny)[1] - 1
    powers = st.integers(-(-2 * smallest // 3), largest // 2)
    extremes = st.sampled_from([-(-2 * smallest // 3), largest // 2])
    return st.one_of(powers, extremes).map(lambda power: 2.0**power)


def _transposed(x: Tensor) -> Tensor:
    return x.mT.contiguous().mT if x.ndim > 1 else x


def _sliced(x: Tensor) -> Tensor:
    return torch.stack([x, x + 1], -1)[..., 0]


def _offset(x: Tensor) -> Tensor:
    return torch.cat([x.new_zeros(1), x.flatten()])[1:].view(x.shape)


def _lazy(x: Tensor) -> Tensor:
    if x.is_complex():
        return x.conj().resolve_conj().conj()
    if x.dtype not in (torch.float32, torch.float64):  # half precision has no complex numbers
        return x
    return torch.complex(torch.zeros_like(x), -x).conj().imag


def _expanded(x: Tensor) -> Tensor:
    return x[..., :1].expand_as(x) if x.ndim else x


_WAYS: dict[str, Callable[[Tensor], Tensor]] = {
    "contiguous": lambda x: x,
    "transposed": _transposed,
    "sliced": _sliced,
    "offset": _offset,
    "lazy": _lazy,
    "expanded": _expanded,
}
STRIDES = tuple(_WAYS)


def restrided(x: Tensor, strides: str) -> Tensor:
    """Return a tensor with the same numbers that lies in memory in another way.

    Parameters
    ----------
    x : Tensor, dense
    strides : str
        One of `STRIDES`:

        - ``"contiguous"``;
        - ``"transposed"``: the columns lie one after the other;
        - ``"sliced"``: it is every second number of a larger tensor;
        - ``"offset"``: it does not start where its memory starts;
        - ``"lazy"``: it is conjugated (or, if real, negated) only when it is read; in half
          precision it is contiguous;
        - ``"expanded"``: the first column stands for all columns.  This is the only way that
          changes the numbers.

    Returns
    -------
    Tensor
        With the shape and dtype of x.

    Raises
    ------
    ValueError
        If `strides` is not one of these.

    Notes
    -----
    ``torch.func.jvp`` of PyTorch 2.13 fails for arguments that are lazy or expanded.  Leave these
    two out if you test forward mode.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func.testing.strategies import restrided
    >>> x = restrided(torch.tensor([[1.0, 2.0], [3.0, 4.0]]), "transposed")
    >>> x, x.stride()
    (tensor([[1., 2.],
            [3., 4.]]), (1, 2))
    """
    one_of_names("strides", strides, STRIDES)
    return _WAYS[strides](x)
