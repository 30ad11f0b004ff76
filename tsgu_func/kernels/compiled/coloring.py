"""Greedy colourings and their orders, compiled.

What is coloured are the columns of a matrix, given by columns (`start`, `row`) and by rows, or the
vertices of a graph, given by the neighbours of each (`start`, `neighbor`).  A colour is a number
from 0; -1 stands for none.

Each step asks which colours are taken around a row or a vertex.  A short one keeps a list of them,
which is gone through.  A long one (`number` says which row it has in a table, -1 for a short one)
keeps a table by colour, and the least colour that is free there: nothing below needs to be looked
at.  So what is dense costs no more than what is sparse, where a list would cost the square of its
length.
"""

import numpy as np

from tsgu_func.kernels.compiled.compiling import compiled_as_written

# What a table or a list says of a colour around a vertex, where it is not the one neighbour that
# has it: none has it, or several do.
_NONE, _SEVERAL = -2, -1


# --------------------------------------------------------------------------------------- columns


@compiled_as_written
def columns(start, row, row_start, order, number, taken):
    """Colour columns so that no two that meet in a row share a colour, in a given order.

    `taken` (long rows, colours + 1) is all false.  Columns that are not in `order` get no colour.
    """
    n, m = row_start.shape[0] - 1, start.shape[0] - 1
    color, mark = np.full(m, -1, np.int64), np.full(m + 1, -1, np.int64)
    shade, length = np.empty(row.shape[0], row.dtype), np.zeros(n, np.int64)
    least, watched = np.zeros(taken.shape[0], np.int64), np.empty(taken.shape[0], np.int64)
    for j in order:
        c, watching = 0, 0
        for k in range(start[j], start[j + 1]):
            i = row[k]
            if number[i] >= 0:
                watched[watching] = number[i]
                watching += 1
                c = max(c, least[number[i]])
            else:
                for q in range(row_start[i], row_start[i] + length[i]):
                    mark[shade[q]] = j
        while mark[c] == j or _is_taken(taken, watched[:watching], c):
            c += 1
        color[j] = c
        for k in range(start[j], start[j + 1]):
            i = row[k]
            if number[i] >= 0:
                taken[number[i], c] = True
                while taken[number[i], least[number[i]]]:
                    least[number[i]] += 1
            else:
                shade[row_start[i] + length[i]] = c
                length[i] += 1
    return color


@compiled_as_written
def _is_taken(taken, watched, c):
    k = 0
    while k < watched.shape[0] and not taken[watched[k], c]:
        k += 1
    return k < watched.shape[0]


# ------------------------------------------------------------------------------------------ star


@compiled_as_written
def star(start, neighbor, order, number, entry, one_palette):
    """Colour vertices so that each path of four has three colours at least, in a given order.

    That is: for each edge, one of its ends is the only neighbour of the other in its colour.  With
    one palette neighbours have different colours too; of a bipartite graph each part has a palette
    of its own.  `entry` (long vertices, colours + 1) is all -2.

    A vertex that has several neighbours of a colour is the hub of a star, these are its spokes.
    What forbids a colour c to v is, for a neighbour w of colour b: v is the hub of a star of b, and
    c is around w already; or v would make w the hub of a star of c, of which one is a spoke in a
    star of b.
    """
    n = start.shape[0] - 1
    graph, color = (start, neighbor), np.full(n, -1, np.int64)
    # Of each vertex the colours around it, and who has them; the colours whose spoke it is.
    lists = (np.empty_like(neighbor), np.empty_like(neighbor), np.zeros(n, np.int64))
    spokes = (np.empty_like(neighbor), np.zeros(n, np.int64))
    table = (number, entry, np.zeros(entry.shape[0], np.int64))
    seen, mark, listed = np.full(n + 1, -2, np.int64), np.full(n + 1, -1, np.int64), color.copy()
    watched = np.empty(entry.shape[0], np.int64)
    for v in order:
        _look_around(graph, color, seen, v)
        c, watching = _forbid(graph, color, (seen, mark), lists, spokes, table, watched, v)
        if one_palette:
            _forbid_theirs(graph, color, mark, v)
        while mark[c] == v or _is_around(entry, watched[:watching], c):
            c += 1
        color[v] = c
        if one_palette and number[v] >= 0:  # as if it were around itself: nobody near may have it
            _set(table, number[v], c, _SEVERAL)
        _connect(graph, color, (seen, listed), lists, spokes, table, v)
    return color


@compiled_as_written
def _look_around(graph, color, seen, v):
    """Let seen[b] be 2 v where one neighbour of v has colour b, and 2 v + 1 where several do."""
    start, neighbor = graph
    for k in range(start[v], start[v + 1]):
        b = color[neighbor[k]]
        if b >= 0:
            seen[b] = 2 * v + 1 if seen[b] // 2 == v else 2 * v


@compiled_as_written
def _forbid(graph, color, stamps, lists, spokes, table, watched, v):
    """Mark the colours that v must not have; return from where to look, and tables to look at."""
    (start, neighbor), (seen, mark), (shade, _, length) = graph, stamps, lists
    (spoke, count), (number, _, least) = spokes, table
    c, watching = np.int64(0), 0
    for k in range(start[v], start[v + 1]):
        w = neighbor[k]
        if color[w] < 0:
            continue
        if seen[color[w]] == 2 * v:
            for q in range(start[w], start[w] + count[w]):
                mark[spoke[q]] = v
        elif number[w] < 0:
            for q in range(start[w], start[w] + length[w]):
                mark[shade[q]] = v
        else:
            watched[watching] = number[w]
            watching += 1
            c = max(c, least[number[w]])
    return c, watching


@compiled_as_written
def _forbid_theirs(graph, color, mark, v):
    """Mark the colours of the neighbours of v."""
    start, neighbor = graph
    for k in range(start[v], start[v + 1]):
        if color[neighbor[k]] >= 0:
            mark[color[neighbor[k]]] = v


@compiled_as_written
def _is_around(entry, watched, c):
    k = 0
    while k < watched.shape[0] and entry[watched[k], c] == _NONE:
        k += 1
    return k < watched.shape[0]


@compiled_as_written
def _connect(graph, color, stamps, lists, spokes, table, v):
    """Note the colour of v around its neighbours, and theirs around v."""
    (start, neighbor), (seen, listed) = graph, stamps
    c = color[v]
    for k in range(start[v], start[v + 1]):
        w = neighbor[k]
        b = color[w]
        if b < 0:
            continue
        x = _exchange(start, lists, table, w, c, v)
        if x >= 0:  # w becomes the hub of a star
            _add_spoke(start, spokes, x, b)
        if x != _NONE:
            _add_spoke(start, spokes, v, b)
        several = seen[b] != 2 * v
        if several:
            _add_spoke(start, spokes, w, c)
        if listed[b] != v:
            listed[b] = v
            _exchange(start, lists, table, v, b, _SEVERAL if several else w)


@compiled_as_written
def _exchange(start, lists, table, w, c, v):
    """Note that v has colour c around w, or that several have; return what was noted before."""
    (shade, only, length), (number, entry, _) = lists, table
    if number[w] >= 0:
        before = np.int64(entry[number[w], c])
        _set(table, number[w], c, v if before == _NONE else _SEVERAL)
        return before
    end = start[w] + length[w]
    for q in range(start[w], end):
        if shade[q] == c:
            before = np.int64(only[q])
            only[q] = _SEVERAL
            return before
    shade[end], only[end] = c, v
    length[w] += 1
    return np.int64(_NONE)


@compiled_as_written
def _set(table, r, c, x):
    _, entry, least = table
    entry[r, c] = x
    while entry[r, least[r]] != _NONE:
        least[r] += 1


@compiled_as_written
def _add_spoke(start, spokes, v, c):
    spoke, count = spokes
    spoke[start[v] + count[v]] = c
    count[v] += 1


# ---------------------------------------------------------------------------------------- orders


@compiled_as_written
def degrees(start, row, row_start, column, longest):
    """Count the columns that each column meets in some row.

    In rows with more than `longest` entries all are counted, also those that it has met before:
    that takes no longer than such a row is.
    """
    m = start.shape[0] - 1
    degree, mark = np.zeros(m, np.int64), np.full(m, -1, np.int64)
    for j in range(m):
        mark[j] = j
        for k in range(start[j], start[j + 1]):
            i = row[k]
            if row_start[i + 1] - row_start[i] > longest:
                degree[j] += row_start[i + 1] - row_start[i] - 1
                continue
            for q in range(row_start[i], row_start[i + 1]):
                if mark[column[q]] != j:
                    mark[column[q]] = j
                    degree[j] += 1
    return degree


@compiled_as_written
def smallest_last_columns(start, row, row_start, column, longest, ties):
    """Order columns from the end: the last is the one that meets fewest of those before it.

    They are counted once for each row in which they meet, and in rows with more than `longest`
    entries as if none had been taken away.  At first, of several that meet as few, it is the last
    in `ties`, an order of all; later the one that was changed last.
    """
    m = start.shape[0] - 1
    degree = np.zeros(m, np.int64)
    for j in range(m):
        for k in range(start[j], start[j + 1]):
            degree[j] += row_start[row[k] + 1] - row_start[row[k]] - 1
    buckets, order, low = _buckets(degree, ties), np.empty(m, np.int64), np.int64(0)
    for r in range(m - 1, -1, -1):
        low = _first_bucket(buckets, low)
        j = _take(buckets, degree, low)
        order[r] = j
        for k in range(start[j], start[j + 1]):
            i = row[k]
            if row_start[i + 1] - row_start[i] <= longest:
                for q in range(row_start[i], row_start[i + 1]):
                    low = min(low, _lower(buckets, degree, np.int64(column[q])))
    return order


@compiled_as_written
def smallest_last(start, neighbor, ties):
    """Order vertices from the end: the last is the one with fewest neighbours before it."""
    n = start.shape[0] - 1
    degree = np.empty(n, np.int64)
    for v in range(n):
        degree[v] = start[v + 1] - start[v]
    buckets, order, low = _buckets(degree, ties), np.empty(n, np.int64), np.int64(0)
    for r in range(n - 1, -1, -1):
        low = _first_bucket(buckets, low)
        v = _take(buckets, degree, low)
        order[r] = v
        for k in range(start[v], start[v + 1]):
            low = min(low, _lower(buckets, degree, np.int64(neighbor[k])))
    return order


# Vertices in lists by degree, each linked both ways: the first of a degree, the following one, and
# the one before.


@compiled_as_written
def _buckets(degree, ties):
    n, most = degree.shape[0], np.int64(0)
    for v in range(n):
        most = max(most, degree[v])
    first, after, before = np.full(most + 1, -1, np.int64), np.empty(n, np.int64), degree.copy()
    for v in ties:
        _link(first, after, before, degree[v], v)
    return first, after, before


@compiled_as_written
def _link(first, after, before, d, v):
    after[v], before[v] = first[d], -1
    if first[d] >= 0:
        before[first[d]] = v
    first[d] = v


@compiled_as_written
def _unlink(first, after, before, d, v):
    if before[v] >= 0:
        after[before[v]] = after[v]
    else:
        first[d] = after[v]
    if after[v] >= 0:
        before[after[v]] = before[v]


@compiled_as_written
def _first_bucket(buckets, low):
    while buckets[0][low] < 0:
        low += 1
    return low


@compiled_as_written
def _take(buckets, degree, low):
    """Take the first vertex of a bucket away, for good: its degree is -1 from now on."""
    first, after, before = buckets
    v = first[low]
    _unlink(first, after, before, low, v)
    degree[v] = -1
    return v


@compiled_as_written
def _lower(buckets, degree, v):
    """Move a vertex to the bucket below, unless it was taken; return its degree."""
    first, after, before = buckets
    d = degree[v]
    if d < 0:
        return first.shape[0]
    _unlink(first, after, before, d, v)
    _link(first, after, before, d - 1, v)
    degree[v] = d - 1
    return d - 1


# --------------------------------------------------------------------------------- what is read


@compiled_as_written
def alone(start, column, color, colors):
    """Say of each entry whether its column has a colour that no other has in its row."""
    found = np.zeros(column.shape[0], np.bool_)
    count, mark = np.zeros(colors, np.int64), np.full(colors, -1, np.int64)
    for i in range(start.shape[0] - 1):
        for k in range(start[i], start[i + 1]):
            c = color[column[k]]
            if c >= 0:
                if mark[c] != i:
                    mark[c], count[c] = i, 0
                count[c] += 1
        for k in range(start[i], start[i + 1]):
            c = color[column[k]]
            found[k] = c >= 0 and count[c] == 1
    return found


@compiled_as_written
def needed(left, right, by_left, by_right, color, cost):
    """Choose vertices whose colours are kept, so that each entry can be read by one of them.

    Entry k can be read by the product of vertex left[k], if by_left[k], and by that of right[k], if
    by_right[k]: by one of them at least.  What need not be chosen is by colours that are kept
    already, then by those with which most entries can be read for their cost.
    """
    chosen, kept = np.zeros(color.shape[0], np.bool_), np.zeros(cost.shape[0], np.bool_)
    for k in range(left.shape[0]):
        if by_left[k] != by_right[k]:
            v = left[k] if by_left[k] else right[k]
            chosen[v], kept[color[v]] = True, True
    useful = np.zeros(cost.shape[0], np.float64)
    for k in range(left.shape[0]):
        if by_left[k] and by_right[k]:
            for v in (left[k], right[k]):
                useful[color[v]] += 1 / cost[color[v]]
    for k in range(left.shape[0]):
        if by_left[k] and by_right[k] and not (chosen[left[k]] or chosen[right[k]]):
            a, b = color[left[k]], color[right[k]]
            if kept[a] != kept[b]:
                v = left[k] if kept[a] else right[k]
            else:
                v = left[k] if useful[a] >= useful[b] else right[k]
            chosen[v], kept[color[v]] = True, True
    return chosen


@compiled_as_written
def set_apart(row_start, column, columns, order):
    """Return, for r = 0, 1, ..., the most entries in a column of the first r rows in an order."""
    n = order.shape[0]
    most, count = np.zeros(n + 1, np.int64), np.zeros(columns, np.int64)
    for r in range(n):
        most[r + 1] = most[r]
        for k in range(row_start[order[r]], row_start[order[r] + 1]):
            count[column[k]] += 1
            most[r + 1] = max(most[r + 1], count[column[k]])
    return most
