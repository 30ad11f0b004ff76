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

    It is called as ``torch.func.jacrev`` is.  The difference is the cost: ``jacrev`` computes one
    product for each row of the Jacobian, and this one product for each colour of its sparsity
    pattern, of which there are often fewer than ten.  The function that is returned can be
    differentiated, in any mode and to any order, mapped by ``vmap``, and compiled.

    Parameters
    ----------
    f : callable
        A function of tensors, or pytrees of tensors, that returns a tensor or a pytree of them.
        Its results are the rows of the Jacobian.
    pattern_or_coloring : SparsityPattern or Coloring, optional
        Which entries of the Jacobian may differ from zero: a pattern from `jacobian_pattern`, or
        your own from `SparsityPattern.from_coo`; or the colouring that `color` makes of a pattern.
        By default the pattern is detected at the first call, and kept for all calls with arguments
        of the same shapes, dtypes and device; ``repr`` of the returned function shows what was
        found.
    argnums : int or tuple of int
        The arguments to differentiate with respect to.  They are the columns of the Jacobian.
    has_aux : bool
        Whether f returns a pair, of which only the first is differentiated.
    mode : {"auto", "forward", "reverse", "bidirectional"}
        Which products are computed: ``jvp``, each a sum of columns ("forward"), ``vjp``, each a
        sum of rows ("reverse"), or some of both.  "auto" takes the cheapest, where a ``vjp`` counts
        as two ``jvp``.  If a Coloring is given, it has a mode already.
    chunk_size : int, optional
        How many products are computed at the same time, by ``vmap``.  Default: all.  With 1 they
        are computed one after the other without ``vmap``.  A function that calls ``torch.cdist``
        needs that: its derivative is wrong in PyTorch where cotangents are mapped.

    Returns
    -------
    callable
        ``jac(*args)`` returns a `SparseMatrix` of shape (rows, columns), or with `has_aux` a pair
        of it and the second result of f.

    Raises
    ------
    ValueError
        If the pattern does not fit the function, or an option is unknown.  When the returned
        function is called: if shapes do not fit, or f is not complex differentiable at a complex
        argument.
    TypeError
        If what is differentiated is neither floating point nor complex.
    NotImplementedError
        When the returned function is called, if f has no derivative in this mode, or PyTorch would
        compute a wrong one without saying so.  There are three such cases, of which ``jacfwd`` and
        ``jacrev`` return wrong numbers: an op that is registered without a rule for forward mode,
        as a ``torch.library.custom_op`` is, in forward mode; an ``autograd.Function`` in forward
        mode inside of another forward mode; and ``torch.cdist`` in reverse mode, unless
        `chunk_size` is 1.

    Notes
    -----
    **Order.** Row i is element i of the *raveled* result: the leaves of the pytree one after the
    other, each read row by row (C order).  Column j is element j of the raveled argument; several
    are taken in the order of `argnums`.  Leaves come as ``torch.func`` orders them: tuples and
    lists by position, dicts as they were filled.  `ravel_pytree` makes such vectors, and goes back.

    **Entries.** The values have the dtype of the result, as those of ``torch.func.jacfwd`` have; if
    there are several results, their common dtype.  The pattern is the same at every point: an entry
    that happens to be zero is stored as a zero.  An entry that the pattern lacks, and that is not
    zero, makes others *wrong*, because products add it to them.  A pattern of `jacobian_pattern`
    lacks none, and `check_pattern` checks one of your own.  Where a derivative is not finite,
    others in its row (in reverse mode, its column) may be NaN, because zero times infinity was
    added to them; those of ``jacfwd`` are NaN then, too.

    **Complex numbers.** The Jacobian of a holomorphic function has its complex derivatives.  A
    function that is not complex differentiable at the point is refused where numbers can be looked
    at, which is outside of transforms and of compiled functions.  A function of real arguments may
    have complex results, in forward mode.

    **Cost.** One product for each colour; O(colors (rows + columns) + nnz) memory.

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

    It is called as ``torch.func.hessian`` is, and computes one product with the Hessian for each
    colour of its sparsity pattern.  Since a Hessian is symmetric, an entry can also be read in the
    place of its mirror image, so fewer colours are needed than for a Jacobian (a star colouring).

    Parameters
    ----------
    f : callable
        A function that returns a real tensor of shape ().
    pattern_or_coloring : SparsityPattern or Coloring, optional
        Which entries of the Hessian may differ from zero: a pattern from `hessian_pattern`, or your
        own; or what `color` makes of it, in any mode.  By default the pattern is detected at the
        first call, and kept, as in `sparse_jacobian`.
    argnums : int or tuple of int
        The arguments to differentiate with respect to.  They are the rows and the columns.
    has_aux : bool
        Whether f returns a pair, of which only the first is differentiated.
    mode : {"forward-reverse", "reverse-forward", "reverse-reverse", "forward-forward"}
        How a product with a vector is computed; the outer derivative is named first.  By default it
        is a ``jvp`` of the gradient.  ``"forward-forward"`` is for functions without reverse mode:
        it computes entries one by one, each by an evaluation of f.
    chunk_size : int, optional
        How many products are computed at the same time.  Default: all.  In forward over forward
        mode it is the number of entries, by default as many as fit into some tens of megabytes.

    Returns
    -------
    callable
        ``hess(*args)`` returns a `SparseMatrix` of shape (n, n), or with `has_aux` a pair of it and
        the second result of f.

    Raises
    ------
    ValueError
        If the pattern does not fit or is not square, or an option is unknown.  When the returned
        function is called: if f does not return a single real number, or shapes do not fit.
    TypeError
        If what is differentiated is not real.
    NotImplementedError
        In the cases that `sparse_jacobian` names.

    Notes
    -----
    The order of rows and columns, the entries and the cost are as described in `sparse_jacobian`.
    The rules of an ``autograd.Function`` may define a second derivative that is not symmetric.
    Then there is no Hessian, and ``sparse_jacobian(torch.func.grad(f))`` returns what they define.

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

    The Jacobian is evaluated with this pattern, and multiplied with a random vector from either
    side.  The two products are compared with one ``jvp`` and one ``vjp`` of f, as far as rounding
    allows.  If an entry is missing in the pattern, its value is lost or added to another entry, so
    the products differ.

    Parameters
    ----------
    f : callable
        As for `sparse_jacobian`.  For a Hessian, ``torch.func.grad(loss)``.
    args : Tensor, or tuple of all arguments of f
        The point at which to check.  An entry that is zero there, as behind a ``relu`` that is off,
        is not missed.
    pattern : SparsityPattern or Coloring
        The pattern to check; of a Coloring, the pattern that it colours.
    argnums, has_aux
        As for `sparse_jacobian`.
    mode : {"auto", "forward", "reverse", "bidirectional"}
        As for `sparse_jacobian`.  With ``"forward"`` no ``vjp`` is computed.  With ``"reverse"``
        forward mode is not used at all; the product is a ``vjp`` of the ``vjp``.  Pass one of these
        for a function that has no derivative in the other mode.
    seed : int
        The seed of the random vector.  It does not touch the generators of PyTorch.

    Raises
    ------
    ValueError
        If entries are missing; the message names their rows and, for some, their columns.  If the
        derivatives of f in forward and in reverse mode differ; if the shape does not fit; or if
        derivatives at this point are not finite, so that nothing can be said.
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
    """Return the leaves of a pytree in one vector, and the function that makes the tree of it.

    The vector has the order that rows and columns have in `sparse_jacobian` and `sparse_hessian`:
    the leaves as ``torch.func`` orders them, one after the other, each read row by row.  For
    several arguments, pass them as a tuple.  It is called as ``jax.flatten_util.ravel_pytree`` is.

    Parameters
    ----------
    tree : pytree of Tensor
        Floating point or complex, on one device.

    Returns
    -------
    vector : Tensor, shape (size,)
        In the common dtype of the leaves.
    unravel : callable
        ``unravel(vector)`` returns a tree with leaves of the same shapes and dtypes.

    Raises
    ------
    TypeError
        If a leaf is something else.
    ValueError
        If there is no leaf, or they are on several devices.  `unravel` raises it if the vector has
        another length, or is complex where all leaves are real.

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
