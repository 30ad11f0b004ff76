"""Work that one thread has and a second may help with, a job at a time, from compiled code.

The thread that has the work *offers* a job, does its own half, and *claims* the other half if
nobody has; only where the helper has claimed it does it wait.  So it never waits for a helper that
comes late or never, and no half is done twice.  A job takes microseconds, so both threads wait by
looking again: the words that they look at are read and written atomically.  Who has looked for long
lets others have its processor: it may be that of the thread that it waits for.  And a helper that
was waited for that long has lost its own to somebody else: it is asked no more.  What it has
claimed is waited for asleep, so that it gets a processor whatever the priorities are.  That wait
has no limit, and ends: between `claim` and `finish` there is a compiled loop over rows, which takes
no lock, allocates nothing, raises nothing and runs no Python code, so that no interrupt comes
between; no thread ends before its process does; what stops one from outside (a signal, a debugger)
only delays both; and a fork leaves the child nobody who waits, because who waits is in this loop,
so that it was another thread that forked.
"""

import os
from typing import Any, cast

import numpy as np
from numba.core import cgutils, types
from numba.extending import intrinsic

from tsgu_func.kernels.compiled.compiling import compiled_as_written

__all__ = ["claim", "close", "finish", "following", "offer", "wait", "words"]

# Words are apart by a cache line, so that who waits for one does not slow down who writes another.
_LINE = 8
_OFFERED, _CLAIMED, _FINISHED = 0, _LINE, 2 * _LINE
_CLOSED = -1
# Looks before who waits gives way: some microseconds.
_PATIENCE = 5000
# Looks before it gives up: about a second.
_END = 1_000_000


def _pointer(context, builder, signature, args):
    array = context.make_array(signature.args[0])(context, builder, args[0])
    return cgutils.get_item_pointer(context, builder, signature.args[0], array, [args[1]])


def _loading(_, array, index):
    """Return the number at a place, and with it all that was written before it was stored."""

    def generate(context, builder, signature, args):
        return builder.load_atomic(_pointer(context, builder, signature, args), "acquire", 8)

    return types.int64(array, types.intp), generate


def _storing(_, array, index, value):
    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        builder.store_atomic(args[2], pointer, "release", 8)
        return context.get_dummy_value()

    return types.void(array, types.intp, types.int64), generate


def _replacing(_, array, index, old, new):
    """Replace a number if it is the old one; return whether it was."""

    def generate(context, builder, signature, args):
        pointer = _pointer(context, builder, signature, args)
        found = builder.cmpxchg(pointer, args[2], args[3], "acq_rel", "acquire")
        return builder.extract_value(found, 1)

    return types.boolean(array, types.intp, types.int64, types.int64), generate


_load, _store, _replace = (cast(Any, intrinsic(f)) for f in (_loading, _storing, _replacing))


_give_way: Any = types.ExternalFunction(
    "SwitchToThread" if os.name == "nt" else "sched_yield", types.int32()
)
# Sleeps as long as it is told, in whatever the system counts.
_sleep: Any = types.ExternalFunction(
    "Sleep" if os.name == "nt" else "usleep", types.int32(types.uint32)
)
_NAP = np.uint32(1 if os.name == "nt" else 100)


def words() -> np.ndarray:
    """Return what two threads need to know of each other's progress; jobs are counted from one."""
    return np.zeros(3 * _LINE, np.int64)


@compiled_as_written
def offer(words):
    """Offer the next job, and return its number; what it consists of has been written before.

    After `close` nothing is offered, and the number is below zero.
    """
    if words[_OFFERED] == _CLOSED:
        return _CLOSED
    job = words[_OFFERED] + 1
    _store(words, _OFFERED, job)
    return job


@compiled_as_written
def claim(words, job):
    """Say whether the second half of a job is the caller's to do; only the first to ask is told so.

    Each job is claimed by someone before the next is offered.
    """
    return job == _CLOSED or _replace(words, _CLAIMED, job - 1, job)


@compiled_as_written
def finish(words, job):
    """Tell that the second half of a job is done."""
    _store(words, _FINISHED, job)


@compiled_as_written
def close(words):
    """Offer no more."""
    _store(words, _OFFERED, _CLOSED)


@compiled_as_written
def wait(words, job, more):
    """Wait until the second half of a job is done by who claimed it.

    If `more` looks than a helper is patient for do not see it done, let others have the processor,
    and offer no more.
    """
    for _ in range(_PATIENCE + more):
        if _load(words, _FINISHED) == job:
            return
    close(words)
    looks = 0
    while _load(words, _FINISHED) != job:
        looks += 1
        if looks > _PATIENCE:
            _sleep(_NAP)
        else:
            _give_way()


@compiled_as_written
def following(words, job):
    """Wait for a job after this one; return its number, or one below zero if none will come.

    Nor is an offer waited for without end: who should close may have been interrupted.
    """
    offered, looks = _load(words, _OFFERED), 0
    while offered == job:
        looks += 1
        if looks > _PATIENCE:
            _give_way()
        if looks > _END:
            return _CLOSED
        offered = _load(words, _OFFERED)
    return offered
