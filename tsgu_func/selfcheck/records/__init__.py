"""One record for each op in each of its uses: what every rule is checked on.

A primitive without a record fails the tests.
"""

from __future__ import annotations

import torch

from tsgu_func.selfcheck.records.algebra import algebra_records
from tsgu_func.selfcheck.records.base import Record
from tsgu_func.selfcheck.records.derivatives import derivative_records
from tsgu_func.selfcheck.records.indexed import indexed_primitive_records, indexed_public_records
from tsgu_func.selfcheck.records.least_squares import lstsq_records
from tsgu_func.selfcheck.records.operators import operator_records
from tsgu_func.selfcheck.records.products import product_records
from tsgu_func.selfcheck.records.roots import root_records
from tsgu_func.selfcheck.records.systems import solve_records
from tsgu_func.selfcheck.records.triangular import triangular_records

__all__ = ["Record", "all_records", "record_named"]

_KINDS = (
    product_records,
    algebra_records,
    triangular_records,
    solve_records,
    operator_records,
    root_records,
    derivative_records,
    lstsq_records,
    indexed_primitive_records,
    indexed_public_records,
)


def all_records(dtype: torch.dtype) -> list[Record]:
    """Return the records of all ops, public ones and primitives."""
    return [record for kind in _KINDS for record in kind(dtype)]


def record_named(name: str, dtype: torch.dtype) -> Record:
    """Return one record."""
    return next(record for record in all_records(dtype) if record.name == name)
