"""Functions that return a sparse derivative: the pattern they know or find, products, entries."""

from __future__ import annotations

import itertools
import threading
from collections.abc import Callable, Hashable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, NamedTuple

import torch
from torch import Tensor
from torch.func import grad

from tsgu_func.cache import Store
from tsgu_func.derivatives.compression import (
    Function,
    Products,
    decompressed,
    directional,
    evaluated,
    mapped,
    parted,
    pulled,
    pushed,
)
from tsgu_func.derivatives.flat import (
    Argnums,
    Layout,
    bound,
    check_argnums,
    layout_of_arguments,
    plain,
    replaced,
    selected,
)
from tsgu_func.derivatives.kinds import check_holomorphic, check_kinds
from tsgu_func.matrix.sparse_matrix import SparseMatrix
from tsgu_func.registration.transforms import pytree

if TYPE_CHECKING:
    from tsgu_func.coloring import Coloring

__all__ = ["HESSIAN_MODES", "Options", "SparseHessian", "SparseJacobian"]

HESSIAN_MODES = ("forward-reverse", "reverse-forward", "reverse-reverse", "forward-forward")

# What was detected for functions that were given no pattern, by their owner and its arguments.
_found = Store("detected colorings", most=64)
_tokens = itertools.count()
_MANY = 2**22  # elements of the seeds of forward over forward mode that exist at once


class Found(NamedTuple):
    """A colouring that was found, and for which arguments."""

    token: int
    coloring: Coloring
    columns: Layout

    @property
    def bytes(self) -> int:
        """Size of what is kept, beside the pattern, which other stores count."""
        return self.coloring.nbytes


@dataclass(frozen=True)
class Options:
    """How a function is differentiated; the arguments of `sparse_jacobian`."""

    argnums: Argnums
    has_aux: bool
    mode: str
    chunk_size: int | None

    def __post_init__(self) -> None:
        check_argnums(self.argnums)
        size = self.chunk_size
        if size is not None and (not isinstance(size, int) or isinstance(size, bool) or size < 1):
            raise ValueError(f"chunk_size is a number of products, 1 or more, or None; got {size}")


class SparseDerivative:
    """A function of the arguments of f that returns a derivative of f, as a `SparseMatrix`.

    Parameters
    ----------
    f : callable
    coloring : Coloring, optional
        Of the pattern of all its derivatives.
    detect : callable
        ``detect(f, args, options) -> Coloring``, for want of one.
    options : Options
    """

    name: ClassVar[str]

    def __init__(
        self,
        f: Callable[..., Any],
        coloring: Coloring | None,
        detect: Callable[..., Coloring],
        options: Options,
    ) -> None:
        self.f, self.coloring, self.detect, self.options = f, coloring, detect, options
        self._elsewhere: tuple[Coloring, Coloring] | None = None
        if coloring is None:
            self._refuse_while_compiling()
            self._token, self._lock = next(_tokens), threading.RLock()

    def __call__(self, *args: Any) -> Any:
        """Evaluate the derivative.

        Returns
        -------
        SparseMatrix, or (SparseMatrix, aux)
        """
        options = self.options
        columns = layout_of_arguments(args, options.argnums)
        coloring = self.coloring if self.coloring is not None else self._detected(args, columns)
        _check_columns(coloring, columns)
        coloring = self._moved(coloring, columns.device)
        function = bound(self.f, args, options.argnums, options.has_aux)
        chosen = plain(selected(args, options.argnums))
        values, aux = self._evaluate(function, chosen, columns, coloring)
        matrix = SparseMatrix(coloring.pattern, values)
        return (matrix, aux) if options.has_aux else matrix

    def _evaluate(
        self, function: Function, chosen: Any, columns: Layout, coloring: Coloring
    ) -> tuple[Tensor, Any]:
        """Return the values, and aux."""
        raise NotImplementedError

    def _moved(self, coloring: Coloring, device: torch.device) -> Coloring:
        """Return a colouring on a device; the last one that had to be moved is kept."""
        if coloring.pattern.device == device:
            return coloring
        if torch.compiler.is_compiling():
            raise ValueError(
                f"the pattern is on {coloring.pattern.device}, and the arguments on {device}: "
                f"move it outside of the compiled function, with coloring.to({str(device)!r})"
            )
        kept = self._elsewhere
        if kept is None or kept[0] is not coloring or kept[1].pattern.device != device:
            self._elsewhere = kept = coloring, coloring.to(device)
        return kept[1]

    # ----------------------------------------------------------------------------- detection

    def _detected(self, args: tuple[Any, ...], columns: Layout) -> Coloring:
        """Return the colouring for these arguments, found at the first call with such."""
        self._refuse_while_compiling()
        key = _key(self._token, args, columns, self.options.argnums)
        with self._lock:
            found = None if key is None else _found.get(key)
            if found is not None:
                _found.measure(key)  # it keeps seeds since it was evaluated
            else:
                found = Found(self._token, self.detect(self.f, args, self.options), columns)
                if key is not None:
                    _found.keep(key, found, self)
            return found.coloring

    def _refuse_while_compiling(self) -> None:
        if torch.compiler.is_compiling():
            raise RuntimeError(
                f"no pattern can be detected inside of a compiled function: do it outside, with "
                f"coloring = color({self.name.removeprefix('sparse_')}_pattern(f, x)), and use "
                f"{self.name}(f, coloring) inside"
            )

    def __repr__(self) -> str:
        f = getattr(self.f, "__qualname__", None) or repr(self.f)
        o = self.options
        said = [f, *([] if self.coloring is None else [repr(self.coloring)])]
        said += [f"argnums={o.argnums}"] * (o.argnums != 0) + ["has_aux=True"] * o.has_aux
        said += [f"chunk_size={o.chunk_size}"] * (o.chunk_size is not None)
        whole = f"{self.name}({', '.join(said)})"
        if self.coloring is not None:
            return whole
        kept = [x for _, x in _found.items() if x.token == self._token]
        found = [f"{x.coloring!r} for {x.columns!r}" for x in kept]
        return f"{whole}, detected: {'; '.join(found) or 'nothing yet'}"

    def __reduce__(self) -> tuple[Any, ...]:
        return type(self), (self.f, self.coloring, self.detect, self.options)


def _key(token: int, args: tuple[Any, ...], columns: Layout, argnums: Argnums) -> Hashable | None:
    """Return what a pattern depends on: the arguments, but for the values of some.

    None if they cannot be compared.
    """
    others = pytree.tree_flatten(replaced(args, argnums, _without(argnums)))
    leaves, spec = others
    key = (token, columns, spec, *[_described(leaf) for leaf in leaves])
    try:
        hash(key)
    except TypeError:
        return None
    return key


def _without(argnums: Argnums) -> Any:
    return (None,) * len(argnums) if isinstance(argnums, tuple) else None


def _described(leaf: Any) -> Any:
    if not isinstance(leaf, Tensor):
        return type(leaf), leaf
    return Tensor, leaf.shape, leaf.dtype, leaf.device


def _check_columns(coloring: Coloring, columns: Layout) -> None:
    """Refuse a pattern with another number of columns, before anything is evaluated."""
    if coloring.pattern.shape[1] != columns.size:
        raise ValueError(
            f"the pattern has {coloring.pattern.shape[1]} columns, but there are {columns.size} "
            f"elements to differentiate with respect to, {columns}: pass the pattern of this "
            f"function for arguments of these shapes"
        )


def _check_rows(coloring: Coloring, rows: Layout) -> None:
    """Refuse a pattern with another number of rows."""
    if coloring.pattern.shape[0] != rows.size:
        raise ValueError(
            f"the pattern has {coloring.pattern.shape[0]} rows, but the function returned "
            f"{rows.size} elements, {rows}: pass the pattern of this function for arguments of "
            f"these shapes"
        )


# ------------------------------------------------------------------------------------ Jacobians


class SparseJacobian(SparseDerivative):
    """What `sparse_jacobian` returns."""

    name = "sparse_jacobian"

    def _evaluate(
        self, function: Function, chosen: Any, columns: Layout, coloring: Coloring
    ) -> tuple[Tensor, Any]:
        def check(rows: Layout) -> None:
            _check_rows(coloring, rows)
            check_kinds(columns, rows, coloring.mode)

        how = {"chunk_size": self.options.chunk_size, "check": check}
        dtype = columns.dtype
        done: list[Products] = []
        if coloring.forward_colors:
            seeds = coloring.seeds("forward", dtype)
            done.append(pushed(function, chosen, columns, seeds, **how))
        if coloring.reverse_colors:
            seeds = coloring.seeds("reverse", dtype)
            done.append(pulled(function, chosen, columns, seeds, **how))
        if not done:
            done.append(evaluated(function, chosen, check))
        if columns.is_complex:
            check_holomorphic(function, chosen, columns)
        # As of jacfwd, the dtype is that of the result.
        rows = done[0].rows
        products = [each.products.to(rows.dtype) for each in done]
        return decompressed(coloring, *products), done[0].aux


# ------------------------------------------------------------------------------------- Hessians


class SparseHessian(SparseDerivative):
    """What `sparse_hessian` returns.

    A Hessian is symmetric, so its products with seeds of rows are those with seeds of columns: a
    colouring of any mode will do.
    """

    name = "sparse_hessian"

    def _evaluate(
        self, function: Function, chosen: Any, columns: Layout, coloring: Coloring
    ) -> tuple[Tensor, Any]:
        if columns.is_complex:
            raise TypeError(
                f"a Hessian is that of a real function of real arguments; got {columns}: "
                f"differentiate with respect to torch.view_as_real of what is complex"
            )
        of_tensors, seen = parted(_of_scalar(function))
        if self.options.mode == "forward-forward":
            values, tensors = _forward_forward(of_tensors, chosen, columns, coloring, self.options)
            return values, seen.joined(tensors)
        done = self._products(of_tensors, chosen, columns, _seeds(coloring, columns))
        return decompressed(coloring, done.products), seen.joined(done.aux)

    def _products(
        self, function: Function, chosen: Any, columns: Layout, seeds: Tensor
    ) -> Products:
        """Return products with vectors."""
        mode, chunk_size = self.options.mode, self.options.chunk_size
        gradient = grad(function, has_aux=True)
        if not len(seeds):
            return evaluated(gradient, chosen, _accept)
        how = {"chunk_size": chunk_size, "check": _accept}
        if mode == "forward-reverse":
            return pushed(gradient, chosen, columns, seeds, **how)
        if mode == "reverse-reverse":
            return pulled(gradient, chosen, columns, seeds, **how)

        def product(seed: Tensor) -> list[Tensor]:
            def slope(at: Any) -> tuple[Tensor, Any]:
                return directional(function, at, columns.unravel(seed))[1:]

            gradient_of_slope, tensors = grad(slope, has_aux=True)(chosen)
            return [columns.ravel(gradient_of_slope), *tensors]

        products, *tensors = mapped(product, (seeds,), chunk_size)
        return Products(products, columns, [x[0] for x in tensors])


def _accept(rows: Layout) -> None:
    """Let a gradient pass, which has the layout of the arguments."""
    del rows


def _seeds(coloring: Coloring, columns: Layout) -> Tensor:
    dtype, device = columns.dtype, columns.device
    parts = []
    if coloring.forward_colors:
        parts.append(coloring.seeds("forward", dtype))
    if coloring.reverse_colors:
        parts.append(coloring.seeds("reverse", dtype))
    return torch.cat(parts) if parts else torch.empty(0, columns.size, dtype=dtype, device=device)


def _forward_forward(
    function: Function, chosen: Any, columns: Layout, coloring: Coloring, options: Options
) -> tuple[Tensor, list[Tensor]]:
    """Compute each entry by itself, as a derivative along two unit vectors.

    Forward mode of a scalar knows no products with vectors, so colours save nothing.
    """
    device, dtype, size = columns.device, columns.dtype, columns.size
    row, col = (index.to(device) for index in coloring.pattern.places())
    if not len(row):
        done = evaluated(function, chosen, _accept)
        return torch.empty(0, dtype=dtype, device=device), done.aux
    positions = torch.arange(size, device=device)

    def entry(i: Tensor, j: Tensor) -> list[Tensor]:
        first, second = (columns.unravel((positions == k).to(dtype)) for k in (i, j))

        def slope(at: Any) -> tuple[Tensor, Any]:
            return directional(function, at, first)[1:]

        _, tangent, tensors = directional(slope, chosen, second)
        return [tangent, *tensors]

    chunk_size = options.chunk_size or max(coloring.colors, _MANY // max(size, 1), 1)
    values, *tensors = mapped(entry, (row, col), chunk_size)
    return values.to(dtype), [x[0] for x in tensors]


def _of_scalar(function: Function) -> Function:
    def of_chosen(chosen: Any) -> tuple[Any, Any]:
        result, aux = function(chosen)
        if not (isinstance(result, Tensor) and result.ndim == 0 and result.is_floating_point()):
            given = f"{tuple(result.shape)}, {result.dtype}" if isinstance(result, Tensor) else ""
            raise ValueError(
                f"a Hessian is that of a function to one real number, a tensor of shape (); got "
                f"{type(result).__name__} {given}: sum it up, or use sparse_jacobian for the "
                f"derivative of a gradient"
            )
        return result, aux

    return of_chosen
