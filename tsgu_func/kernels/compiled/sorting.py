"""Sorting by counting, compiled: O(N + R) time for N keys from 0 to R - 1."""

from tsgu_func.kernels.compiled.compiling import compiled_as_written


@compiled_as_written
def starts(keys, start):
    """Add to zeros where each key starts among the sorted ones, and where the last one ends.

    Returns whether they are sorted.  `start` has one place more than there are keys to choose from.
    """
    in_order, before = True, 0
    for key in keys:
        start[key + 1] += 1
        in_order &= key >= before
        before = key
    for r in range(1, start.shape[0]):
        start[r] += start[r - 1]
    return in_order


@compiled_as_written
def places(keys, start, order):
    """Fill in which key comes first, second, ...: equal ones stay as they stand."""
    free = start.copy()
    for i in range(keys.shape[0]):
        key = keys[i]
        order[free[key]] = i
        free[key] += 1
