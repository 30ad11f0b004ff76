"""Hypothesis strategies for sparse matrices, and for what goes with them.

They first draw the pattern, and then a seed for the values, so that a failing example shrinks to a
handful of entries.  They also draw what code for sparse matrices tends to forget: matrices that
store nothing, empty and full rows, a single row or column, the same place twice, entries in any
order, stored zeros and, if you ask for them, huge and tiny numbers.

Examples
--------
A property that is checked for many matrices (without a deadline, because the first call of a kernel
takes longer than the others):

>>> import torch
>>> from hypothesis import given, settings, strategies as st
>>> from tsgu_func import sparse_mm
>>> from tsgu_func.testing.strategies import entries, right_hand_sides
>>> @settings(deadline=None)
... @given(entries(), st.data())
... def test_product_is_the_dense_one(e, data):
...     B = data.draw(right_hand_sides(e.shape[1], dtype=e.values.dtype))
...     torch.testing.assert_close(sparse_mm(e.matrix(), B), e.dense() @ B)
>>> test_product_is_the_dense_one()

The example that a failure shrinks to, here for a function that keeps only the last of several
entries at the same place:

>>> from hypothesis import find
>>> def forgetful(e):
...     A = torch.zeros(e.shape, dtype=e.values.dtype)
...     A[e.row.long(), e.col.long()] = e.values
...     return A
>>> e = find(entries(), lambda e: not torch.equal(forgetful(e), e.dense()))
>>> e.row, e.col, e.values, e.shape
(tensor([0, 0]), tensor([0, 0]), tensor([1., 1.], dtype=torch.float64), (1, 1))
"""

try:
    import hypothesis  # noqa: F401
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "tsgu_func.testing.strategies needs Hypothesis: "
        'pip install "tsgu_func[testing]" brings it along',
        name=error.name,
    ) from error

from tsgu_func.testing.strategies.coordinates import LAYOUTS, Entries
from tsgu_func.testing.strategies.dense import dense_tensors, right_hand_sides
from tsgu_func.testing.strategies.entries import entries
from tsgu_func.testing.strategies.indices import index_vectors, segments
from tsgu_func.testing.strategies.kinds import KINDS
from tsgu_func.testing.strategies.matrices import sparse_matrices
from tsgu_func.testing.strategies.options import DTYPES, INDEX_DTYPES
from tsgu_func.testing.strategies.places import Places, Where, patterns
from tsgu_func.testing.strategies.transforms import LEVELS, TransformStack, transform_stacks
from tsgu_func.testing.strategies.values import (
    STRIDES,
    VALUES,
    magnitudes,
    numbers,
    restrided,
    scales,
    special_numbers,
)

__all__ = [
    "DTYPES",
    "INDEX_DTYPES",
    "KINDS",
    "LAYOUTS",
    "LEVELS",
    "STRIDES",
    "VALUES",
    "Entries",
    "Places",
    "TransformStack",
    "Where",
    "dense_tensors",
    "entries",
    "index_vectors",
    "magnitudes",
    "numbers",
    "patterns",
    "restrided",
    "right_hand_sides",
    "scales",
    "segments",
    "sparse_matrices",
    "special_numbers",
    "transform_stacks",
]
