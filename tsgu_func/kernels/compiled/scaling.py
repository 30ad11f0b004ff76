"""Compiled scaling of the columns of a matrix to norm one."""

import numpy as np

from tsgu_func.kernels.compiled.compiling import compiled_as_written
from tsgu_func.kernels.compiled.products import member


@compiled_as_written
def scale_columns(column, values, out, scale):
    """Scale values (b or 1, nnz), each with a column, into `out`; `scale` (b, n) gets the factors.

    They are zero for a column of zeros.  A column is divided by its largest entry first, so that no
    square over- or underflows.
    """
    for batch in range(out.shape[0]):
        v, found = member(values, batch), scale[batch]
        peak, square = np.zeros_like(found), np.zeros_like(found)
        for k in range(column.shape[0]):
            peak[column[k]] = max(peak[column[k]], abs(v[k]))
        for j in range(peak.shape[0]):
            found[j] = 1 / peak[j] if peak[j] > 0 else 0
        for k in range(column.shape[0]):
            part = v[k] * found[column[k]]
            square[column[k]] += part.real * part.real + part.imag * part.imag
        for j in range(peak.shape[0]):
            if peak[j] > 0:
                found[j] = 1 / peak[j] / square[j] ** 0.5
        for k in range(column.shape[0]):
            out[batch, k] = v[k] * found[column[k]]
