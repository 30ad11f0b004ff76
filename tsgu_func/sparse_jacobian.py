"""Sparse Jacobians and Hessians by a handful of products; see `tsgu_func.derivatives`."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, Literal

from torch import Tensor

from tsgu_func.coloring import Coloring, color
from tsgu_func.derivatives.evaluation import (
    HESSIAN_MODES,
    Options,
    SparseHessian,
    SparseJacobian,
)
from tsgu_func.derivatives.flat import Argnums, Layout
from tsgu_func.derivatives.missing import check_entries
from tsgu_func.matrix.arguments import describe
from tsgu_func.matrix.pattern import SparsityPattern
from tsgu_func.pattern_detection import detected

__all__ = ["Mode", "check_pattern", "ravel_pytree", "sparse_hessian", "sparse_jacobian"]

Mode = Literal["auto", "forward", "reverse", "bidirectional"]
HessianMode = Literal["forward-reverse", "reverse-forward", "reverse-reverse", "forward-forward"]
_MODES = ("auto", "forward", "reverse", "bidirectional")


def sparse_jacobian(
    f: Callable[..., Any],
    pattern_or_coloring: SparsityPattern | Coloring | None = None,
    *,
    argnums: Argnums = 0,
    has_aux: bool = False,
    mode: Mode = "auto",
    chunk_size: int | None = None,
) -> SparseJacobian:
    """Make a function that returns the Jacobian of f, as a `SparseMatrix`.

    It stands where ``torch.func.jacrev`` does, and asks for as many products with the Jacobian as
    its pattern has colours, instead of one for each row.  What it returns can be differentiated,
    in any mode and to any order, mapped by ``vmap``, and compiled.

    Parameters
    ----------
    f : callable
        A function of tensors, or pytrees of them, that returns tensors, which are the rows.
    pattern_or_coloring : SparsityPattern or Coloring, optional
        Where the Jacobian stores entries, at least, from `jacobian_pattern`, by hand, or from
        `SparsityPattern.from_coo`; or the colouring that `color` makes of it.  Default: it is
        detected at the first call, and kept for arguments of the same shapes, dtypes and device;
        ``repr`` tells what was found.
    argnums : int or tuple of int
        The arguments to differentiate with respect to, which are the columns.
    has_aux : bool
        Whether f returns a pair, of which the second is not differentiated.
    mode : {"auto", "forward", "reverse", "bidirectional"}
        By which products: columns with ``jvp``, rows with ``vjp``, or some of each.  By default
        what needs the fewest, where a ``vjp`` counts as two ``jvp``.  A Coloring has its mode.
    chunk_size : int, optional
        How many products are computed at once.  Default: all.  With 1, ``vmap`` is not used, which
        ``torch.cdist`` needs: its derivative is wrong in PyTorch where cotangents are mapped.

    Returns
    -------
    callable
        ``jac(*args) -> SparseMatrix (rows, columns)``, or with `has_aux` a pair of it and aux.

    Raises
    ------
    ValueError
        If the pattern does not fit the function or an option is unknown; when called, if shapes do
        not fit, or if f is not complex differentiable where it should be.
    TypeError
        If what is differentiated is not floating point or complex.
    NotImplementedError
        When called, if f has no derivative in that mode.  That of a ``torch.library.custom_op``,
        and of all ops that are registered without a rule for forward mode, PyTorch takes for zero
        there, as in ``jacfwd``: here such an op is an error that names it.  So is an
        ``autograd.Function`` where its ``jvp`` is differentiated in forward mode once more, and
        ``torch.cdist`` in reverse mode, but with a `chunk_size` of 1.

    Notes
    -----
    **Order.** Row i is element i of the *raveled* result: the leaves of the pytree one after the
    other, each read row by row (C order).  Column j is element j of the raveled argument; several
    are taken in the order of `argnums`.  Leaves come as ``torch.func`` orders them: tuples and
    lists by position, dicts as they were filled.  `ravel_pytree` makes such vectors, and goes back.

    **Entries.** The values have the dtype of the result, to which several are promoted, as those of
    ``torch.func.jacfwd``.  An entry that the pattern stores and that is zero stays: patterns do not
    depend on numbers.  An entry that is not zero and that the pattern lacks makes others *wrong*:
    `jacobian_pattern` lacks none, and `check_pattern` finds out about one made by hand.  Where a
    derivative is not finite, others in its row (in reverse mode, its column) may be NaN, as those
    of ``jacfwd`` are, where zero times infinity was added up.

    **Complex numbers.** Of a holomorphic function, these are the complex derivatives.  One that is
    not complex differentiable at the point is refused where numbers can be looked at, which is
    not so under transforms or in a graph.  Real arguments may have a complex result, in forward
    mode.

    **Cost.** As many products as there are colours; O(colors (rows + columns) + nnz) memory.

    The method is that of Curtis, Powell and Reid, *On the Estimation of Sparse Jacobian Matrices*,
    IMA J. Appl. Math. 13 (1974); see Gebremedhin, Manne and Pothen, *What Color Is Your Jacobian?*,
    SIAM Review 47 (2005).

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import sparse_jacobian
    >>> f = lambda x: x[1:] ** 2 - x[:-1]
    >>> x = torch.tensor([1.0, 2.0, 3.0, 4.0])
    >>> jac = sparse_jacobian(f)
    >>> jac(x).to_dense()
    tensor([[-1.,  4.,  0.,  0.],
            [ 0., -1.,  6.,  0.],
            [ 0.,  0., -1.,  8.]])
    >>> torch.func.grad(lambda x: jac(x).values.square().sum())(x)
    tensor([ 0., 16., 24., 32.])
    """
    _check_callable("sparse_jacobian", f)
    if mode not in _MODES:
        raise ValueError(f"mode is one of {', '.join(map(repr, _MODES))}; got {mode!r}")
    coloring = _colored(pattern_or_coloring, mode)
    if coloring is not None and coloring.mode == "symmetric":
        raise ValueError(
            f"a symmetric coloring takes entries for their mirror images, which is for "
            f"sparse_hessian: pass color(pattern), or the pattern itself; got {coloring!r}"
        )
    given = pattern_or_coloring
    if isinstance(given, Coloring) and mode not in ("auto", given.mode):
        raise ValueError(f"mode={mode!r} does not go with {given!r}, which has its own")
    return SparseJacobian(
        f, coloring, _detect_jacobian, Options(argnums, has_aux, mode, chunk_size)
    )


def sparse_hessian(
    f: Callable[..., Any],
    pattern_or_coloring: SparsityPattern | Coloring | None = None,
    *,
    argnums: Argnums = 0,
    has_aux: bool = False,
    mode: HessianMode = "forward-reverse",
    chunk_size: int | None = None,
) -> SparseHessian:
    """Make a function that returns the Hessian of f, as a `SparseMatrix`.

    It stands where ``torch.func.hessian`` does.  Since a Hessian is symmetric, an entry need not be
    alone in a product: it may be read in the place of its mirror image, which takes fewer colours
    (a star colouring).

    Parameters
    ----------
    f : callable
        A real function, which returns a tensor of shape ().
    pattern_or_coloring : SparsityPattern or Coloring, optional
        Where the Hessian stores entries, at least, from `hessian_pattern` or by hand, or what
        `color` makes of it, in any mode.  Default: it is detected at the first call, and kept, as
        in `sparse_jacobian`.
    argnums : int or tuple of int
        The arguments to differentiate with respect to: rows and columns, in raveled order.
    has_aux : bool
        Whether f returns a pair, of which the second is not differentiated.
    mode : {"forward-reverse", "reverse-forward", "reverse-reverse", "forward-forward"}
        How products with vectors are made; the first named is the outer one.  By default a ``jvp``
        of the gradient.  ``"forward-forward"`` is for functions without reverse mode: it knows no
        products, and costs an evaluation of f for each stored entry.
    chunk_size : int, optional
        How many products are computed at once.  Default: all; of entries in forward over forward
        mode, as many as take the memory of some.

    Returns
    -------
    callable
        ``hess(*args) -> SparseMatrix (n, n)``, or with `has_aux` a pair of it and aux.

    Raises
    ------
    ValueError
        If the pattern does not fit or is not square, if an option is unknown; when called, if f
        returns no single real number, or shapes do not fit.
    TypeError
        If what is differentiated is not real.

    Notes
    -----
    What `sparse_jacobian` says of the order of rows and columns, of entries and of cost holds here.
    Where rules of an ``autograd.Function`` make a second derivative that is not symmetric, there is
    no Hessian: ``sparse_jacobian(torch.func.grad(f))`` returns what the rules say.

    Forward over forward mode is wrong for a few ops of PyTorch, such as ``torch.linalg.solve`` and
    ``batch_norm`` (the page on errors in PyTorch lists them).

    The method is that of Coleman and Moré, *Estimation of Sparse Hessian Matrices and Graph
    Coloring Problems*, Math. Programming 28 (1984).

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import sparse_hessian
    >>> loss = lambda x: (x[1:] - x[:-1]).pow(4).sum()
    >>> hess = sparse_hessian(loss)
    >>> hess(torch.tensor([0.0, 1.0, 3.0])).to_dense()
    tensor([[ 12., -12.,   0.],
            [-12.,  60., -48.],
            [  0., -48.,  48.]])
    """
    _check_callable("sparse_hessian", f)
    if mode not in HESSIAN_MODES:
        raise ValueError(f"mode is one of {', '.join(map(repr, HESSIAN_MODES))}; got {mode!r}")
    if isinstance(pattern_or_coloring, SparsityPattern):
        rows, columns = pattern_or_coloring.shape
        if rows != columns:
            raise ValueError(f"a Hessian is square; got {pattern_or_coloring}")
    coloring = _colored(pattern_or_coloring, "symmetric")
    return SparseHessian(f, coloring, _detect_hessian, Options(argnums, has_aux, mode, chunk_size))


def check_pattern(
    f: Callable[..., Any],
    args: Any,
    pattern: SparsityPattern | Coloring,
    *,
    argnums: Argnums = 0,
    has_aux: bool = False,
    mode: Mode = "auto",
    seed: int = 0,
) -> None:
    """Check that a pattern lacks no entry of the Jacobian of f, at a point.

    The Jacobian that is evaluated by the pattern is multiplied with a random vector from either
    side, and the products compared with one ``jvp`` and one ``vjp``.  A missing entry changes them,
    wherever it went: it is lost, or added to another one.  Differences that rounding explains are
    none.

    Parameters
    ----------
    f : callable
        As for `sparse_jacobian`.  For a Hessian, ``torch.func.grad(loss)``.
    args : Tensor, or tuple of all arguments of f
        Where to check.  Entries that are zero here, as behind a ``relu`` that is off, cannot be
        seen.
    pattern : SparsityPattern or Coloring
        Of a Coloring, its pattern is checked.
    argnums, has_aux
        As for `sparse_jacobian`.
    mode : {"auto", "forward", "reverse", "bidirectional"}
        As for `sparse_jacobian`.  With ``"forward"`` there is no ``vjp``; with ``"reverse"`` no
        forward mode is used at all: the product is a ``vjp`` of the ``vjp``.  Pass one of these for
        a function that has no derivative in the other mode.
    seed : int
        Of the random vector; the generators of PyTorch are not used.

    Raises
    ------
    ValueError
        If entries are missing, with their rows and, of some, their columns; if the derivatives of
        f in forward and in reverse mode differ; if the shape does not fit; or if derivatives at
        this point are not finite, so that nothing can be said.
    NotImplementedError
        If f has no derivative in one of the modes.

    Notes
    -----
    An entry that is smaller than the rounding error of its row is not seen.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import SparsityPattern, check_pattern, jacobian_pattern
    >>> f = lambda x: x[1:] * x[:-1]
    >>> x = torch.tensor([1.0, 2.0, 3.0])
    >>> check_pattern(f, x, jacobian_pattern(f, x))
    >>> pattern, _ = SparsityPattern.from_coo([0, 0, 1], [0, 1, 1], (2, 3))
    >>> check_pattern(f, x, pattern)
    Traceback (most recent call last):
    ...
    ValueError: the pattern lacks entries of the Jacobian, which makes others wrong: row 1 lacks
    column 2...
    """
    args = args if isinstance(args, tuple) else (args,)
    given = pattern.pattern if isinstance(pattern, Coloring) else pattern
    jac = sparse_jacobian(f, given, argnums=argnums, has_aux=has_aux, mode=mode)
    check_entries(jac, args, seed)


def ravel_pytree(tree: Any) -> tuple[Tensor, Callable[[Tensor], Any]]:
    """Return the leaves of a pytree in one vector, and the function that goes back.

    Rows and columns of `sparse_jacobian` and `sparse_hessian` are in this order: the leaves as
    ``torch.func`` orders them, one after the other, each read row by row.  Several arguments are a
    tuple.  As ``jax.flatten_util.ravel_pytree``.

    Parameters
    ----------
    tree : pytree of Tensor
        Floating point or complex, on one device.

    Returns
    -------
    vector : Tensor, shape (size,)
        In the dtype to which those of the leaves are promoted.
    unravel : callable
        ``unravel(vector) -> tree`` with leaves of the same shapes and dtypes.

    Raises
    ------
    TypeError
        If a leaf is something else.
    ValueError
        If there is no leaf, or they are on several devices; of `unravel`, if the vector has another
        length, or is complex where all leaves are real.

    Examples
    --------
    >>> import torch
    >>> from tsgu_func import ravel_pytree, sparse_jacobian, sparse_solve
    >>> f = lambda x: {"a": x["u"] * x["v"] - 2, "b": x["u"] + x["v"] - 3}
    >>> x = {"u": torch.tensor([1.5, 0.5]), "v": torch.tensor([2.5, 2.5])}
    >>> jac = sparse_jacobian(f)
    >>> for _ in range(6):  # Newton's method
    ...     vector, unravel = ravel_pytree(x)
    ...     x = unravel(vector - sparse_solve(jac(x), ravel_pytree(f(x))[0]))
    >>> {name: value.round(decimals=3) for name, value in x.items()}
    {'u': tensor([1., 1.]), 'v': tensor([2., 2.])}
    """
    layout = Layout.of(tree, "the tree")
    return layout.ravel(tree), layout.unravel


# ------------------------------------------------------------------------------------- arguments


def _check_callable(name: str, f: Any) -> None:
    if not callable(f):
        raise TypeError(
            f"{name} takes a function, and returns one of the same arguments: {name}(f)(x); got "
            f"{describe(f)} for f"
        )


def _colored(given: Any, mode: str) -> Coloring | None:
    """Return the colouring that was given, or that of the pattern that was."""
    if given is None or isinstance(given, Coloring):
        return given
    if not isinstance(given, SparsityPattern):
        raise TypeError(
            f"what is known beforehand is a SparsityPattern or a Coloring; got {describe(given)}"
        )
    return color(given, mode)


def _detect_jacobian(f: Callable[..., Any], args: tuple[Any, ...], options: Options) -> Coloring:
    found, reverse = detected(False, f, args, options.argnums, options.has_aux)
    return color(found, "reverse" if reverse and options.mode == "auto" else options.mode)


def _detect_hessian(f: Callable[..., Any], args: tuple[Any, ...], options: Options) -> Coloring:
    found, _ = detected(True, f, args, options.argnums, options.has_aux)
    return color(found, "symmetric")
