"""Images: where they come from, noise, and how alike two of them are.

An image is a float64 tensor (height, width) with values in [0, 1].
"""

from __future__ import annotations

import tokenize
import zipfile
import zlib
from pathlib import Path
from typing import IO, cast

import numpy as np
import torch
from torch import Tensor

from tsgu_func.console.ending import CommandError

__all__ = [
    "SMALLEST",
    "add_noise",
    "checked",
    "psnr",
    "read_image",
    "resample",
    "sample_image",
    "ssim",
]

SMALLEST = 32  # pixels along a side: the window of `ssim` spans 11 of them
_LUMA = (0.299, 0.587, 0.114)  # what red, green and blue add to the brightness: ITU-R BT.601
# What NumPy and the archive reader raise for files that are not what their names say.
_DAMAGED = (
    ValueError,
    EOFError,
    RuntimeError,
    SyntaxError,
    tokenize.TokenError,
    zipfile.BadZipFile,
    zlib.error,
)


# ------------------------------------------------------------------------------------- sources


def sample_image() -> Tensor:
    """Return the slice of a head, by magnetic resonance, that matplotlib ships: 256 x 256."""
    from matplotlib.cbook import get_sample_data

    # Opened, and unpacked, by matplotlib; its annotations know only of arrays.
    with cast("IO[bytes]", get_sample_data("s1045.ima.gz")) as file:
        raw = file.read()
    return checked(np.frombuffer(raw, dtype=">u2").reshape(256, 256), "the sample image")


def read_image(path: Path) -> Tensor:
    """Read a PNG image, or a 2-D array from a .npy or .npz file, and scale it to [0, 1].

    Colours are turned into brightness; transparency is ignored.

    Raises
    ------
    CommandError
        If there is no such file, it is of another kind, or what it holds is no usable image.
    """
    readers = {".png": _read_png, ".npy": _read_numpy, ".npz": _read_numpy}
    reader = readers.get(path.suffix.lower())
    if reader is None:
        raise CommandError(f"{path}: takes a .png, .npy or .npz file")
    try:
        return checked(reader(path), str(path))
    except OSError as error:
        # Pillow's own errors carry no strerror; those of the system do.
        reason = error.strerror or "is damaged, or no image"
        raise CommandError(f"{path}: {reason[0].lower()}{reason[1:]}") from error
    except MemoryError as error:  # a header may claim any shape
        raise CommandError(f"{path}: claims an image that does not fit into memory") from error


def _read_png(path: Path) -> np.ndarray:
    from matplotlib.image import imread

    try:
        image = imread(path, format="png")
    except (SyntaxError, ValueError) as error:  # Pillow calls a file that is no PNG bad syntax
        raise CommandError(f"{path}: is damaged, or no PNG image") from error
    return image[..., :3] @ np.array(_LUMA) if image.ndim == 3 else image


def _read_numpy(path: Path) -> np.ndarray:
    try:
        with path.open("rb") as file:
            found = np.load(file, allow_pickle=False)
            if isinstance(found, np.ndarray):
                return found
            if len(found.files) == 1:
                return found[found.files[0]]
    except _DAMAGED as error:  # NumPy's messages run over lines, and offer to unpickle
        raise CommandError(f"{path}: holds no array of numbers (pickles are not read)") from error
    names = ", ".join(found.files) or "none"
    raise CommandError(f"{path}: takes an archive of one array; found {names}")


def checked(array: np.ndarray, name: str) -> Tensor:
    """Scale a 2-D array of real numbers to [0, 1], or say why that cannot be done."""
    if not isinstance(array, np.ndarray) or array.dtype.kind not in "buif":
        raise CommandError(f"{name}: holds no real numbers")
    if array.ndim != 2:
        raise CommandError(f"{name}: an image has two axes; got shape {array.shape}")
    if min(array.shape) < SMALLEST:
        raise CommandError(
            f"{name}: {array.shape[1]} x {array.shape[0]} pixels are too few, "
            f"each side takes {SMALLEST}"
        )
    image = array.astype(np.float64)
    if not np.isfinite(image).all():
        raise CommandError(f"{name}: holds values that are not finite")
    image /= np.abs(image).max() or 1.0  # first, so that the range below cannot overflow
    low, high = image.min(), image.max()
    if low == high:
        raise CommandError(f"{name}: is constant, there is nothing to see")
    return torch.from_numpy((image - low) / (high - low))


def resample(image: Tensor, longer: int) -> Tensor:
    """Bring the longer side to a number of pixels, keeping the aspect and [0, 1].

    Raises
    ------
    CommandError
        If the shorter side becomes too short.
    """
    scale = longer / max(image.shape)
    height, width = (round(scale * n) for n in image.shape)
    if min(height, width) < SMALLEST:
        raise CommandError(
            f"the image would be resampled to {width} x {height} pixels, each side takes {SMALLEST}"
        )
    return torch.nn.functional.interpolate(
        image[None, None], (height, width), mode="bilinear", antialias=True
    )[0, 0].clamp(0, 1)


def add_noise(image: Tensor, sigma: float, generator: torch.Generator) -> Tensor:
    """Add white Gaussian noise with standard deviation `sigma`."""
    return image + sigma * torch.randn(image.shape, dtype=image.dtype, generator=generator)


# -------------------------------------------------------------------------------------- quality


def psnr(mean_square: Tensor | float) -> float:
    """Return the peak signal-to-noise ratio in dB that belongs to a mean squared error.

    The peak is 1.  An estimate of the error may be negative; the ratio is then NaN.

    Examples
    --------
    >>> psnr(0.01)
    20.0
    """
    return float(-10 * torch.log10(torch.as_tensor(mean_square, dtype=torch.float64)))


def ssim(x: Tensor, y: Tensor) -> float:
    """Return the structural similarity of two images in [0, 1]: 1 where they are equal.

    Wang, Bovik, Sheikh and Simoncelli, *Image Quality Assessment: From Error Visibility to
    Structural Similarity*, IEEE TIP 13(4), 2004; with its Gaussian window, 11 x 11 and sigma 1.5,
    where that fits into the image.

    Examples
    --------
    >>> x = torch.eye(32, dtype=torch.float64)
    >>> ssim(x, x)
    1.0
    """
    from scipy.ndimage import gaussian_filter

    def mean(z: np.ndarray) -> np.ndarray:
        return gaussian_filter(z, sigma=1.5, radius=5)[5:-5, 5:-5]

    a, b = x.numpy(), y.numpy()
    mean_a, mean_b, c1, c2 = mean(a), mean(b), 0.01**2, 0.03**2
    var_a, var_b = mean(a * a) - mean_a**2, mean(b * b) - mean_b**2
    covariance = mean(a * b) - mean_a * mean_b
    alike = (2 * mean_a * mean_b + c1) * (2 * covariance + c2)
    return float((alike / ((mean_a**2 + mean_b**2 + c1) * (var_a + var_b + c2))).mean())
