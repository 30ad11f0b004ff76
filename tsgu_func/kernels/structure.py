"""The index structure of a stored matrix, and what kernels derive from it.

There is one `Structure` for given indices on a device, as long as anybody holds it: so the
transpose, the row indices and whatever else is needed are derived once per pattern, at the first
call that asks for them.  An op is handed plain index tensors; its kernel finds the structure by
their address.
"""

from __future__ import annotations

import hashlib
import itertools
import threading
import weakref
from collections.abc import Callable, Hashable
from typing import Any, NamedTuple, TypeVar

import numpy as np
import torch
from torch import Tensor

from tsgu_func.cache import Store
from tsgu_func.registration.transforms import mark_static, outside_transforms, storage_number

__all__ = [
    "Structure",
    "Transpose",
    "compress",
    "index_dtype",
    "rows_of",
    "shared",
    "structure_of",
    "unsigned",
]

T = TypeVar("T")
_FITS_INT32 = 2**31 - 1
_serials = itertools.count()


class Transpose(NamedTuple):
    """Compressed rows of the transpose; its values are ``values[..., order]``."""

    structure: Structure
    order: Tensor


class Structure:
    """Compressed row indices of a stored matrix: sorted, without duplicates, never modified.

    Parameters
    ----------
    crow : Tensor, shape (rows + 1,)
        Where each row starts in `col`.
    col : Tensor, shape (nnz,)
        Column of each entry, increasing within a row; dtype and device of `crow`.
    cols : int
        Number of columns.
    """

    crow: Tensor
    col: Tensor
    rows: int
    cols: int
    serial: int  # unlike an id, never given twice

    def __init__(self, crow: Tensor, col: Tensor, cols: int) -> None:
        self.crow, self.col = crow, col
        self.rows, self.cols = crow.shape[0] - 1, cols
        # What this structure is found by; None for one that is not shared.
        self.content: Hashable = None
        self.serial = next(_serials)
        self._lock = threading.RLock()
        self._derived: dict[Any, Any] = {}
        self._bytes = crow.nbytes + col.nbytes
        self._inner: list[Structure] = []
        self._arrays: tuple[np.ndarray, np.ndarray]
        self._at: tuple[int, int] | None = None  # where these are
        self._outer: weakref.ref[Structure] | None = None  # that this one was derived from

    @property
    def nnz(self) -> int:
        """Number of stored entries."""
        return self.col.shape[0]

    @property
    def bytes(self) -> int:
        """Size of the indices, and of all that was derived from them."""
        return self._bytes + sum(inner.bytes for inner in list(self._inner))

    def derive(self, key: Any, make: Callable[[Structure], T]) -> T:
        """Return ``make(self)``, computed at the first call with `key` and kept.

        It is made outside of all transforms, graphs and modes: it outlives them.
        """
        # A dict is safe to read while another thread writes; the lock keeps the work single.
        try:
            return self._derived[key]
        except KeyError:
            pass
        with self._lock, outside_transforms():
            if key not in self._derived:
                piece = make(self)
                self._count(piece)
                self._derived[key] = piece
                self._tell()
            return self._derived[key]

    def _count(self, piece: Any) -> None:
        """Count the size of a derived piece; another structure goes on growing."""
        if isinstance(piece, Structure):
            self._inner.append(piece)
            piece._outer = weakref.ref(self)
        elif isinstance(piece, tuple):
            for part in piece:
                self._count(part)
        else:
            self._bytes += getattr(piece, "nbytes", 0)

    def _tell(self) -> None:
        """Let the store that keeps this structure, or what it was derived from, know its size."""
        whole: Structure | None = self
        while whole is not None:
            if whole.content is not None:
                patterns.measure(whole.content)
            whole = None if whole._outer is None else whole._outer()

    @property
    def row(self) -> Tensor:
        """Row of each entry."""
        # A traced region must not fill the store of derived pieces, so there it is computed.
        return rows_of(self) if torch.compiler.is_compiling() else self.derive("row", rows_of)

    @property
    def arrays(self) -> tuple[np.ndarray, np.ndarray]:
        """The indices as compiled loops read them: the same memory, for structures on the CPU.

        PyTorch moves the memory under a tensor that is shared with another process, so views are
        made again where it is no longer there.
        """
        at = self.crow.data_ptr(), self.col.data_ptr()
        if at != self._at:
            self._arrays, self._at = (unsigned(self.crow), unsigned(self.col)), at
        return self._arrays

    @property
    def label(self) -> str:
        """A few hexadecimal digits: the same for the same indices, in any process."""
        content = self.content
        known = isinstance(content, tuple) and isinstance(content[0], (bytes, tuple))
        said = repr(content if known else self.serial).encode()
        return hashlib.blake2b(said, digest_size=3).hexdigest()

    @property
    def transpose(self) -> Transpose:
        """Compressed rows of the transpose.  O(nnz) time on the CPU, O(nnz log nnz) elsewhere."""
        return self.derive("transpose", _transpose)

    def oriented(self, transpose: bool) -> tuple[Structure, Tensor | None]:
        """Return this structure, or its transpose with the order of the values."""
        return self.transpose if transpose else (self, None)


def rows_of(s: Structure) -> Tensor:
    """Expand where rows start to the row of each entry."""
    index = torch.arange(s.rows, dtype=s.crow.dtype, device=s.crow.device)
    return torch.repeat_interleave(index, s.crow.diff(), output_size=s.nnz)


def compress(row: Tensor, rows: int) -> Tensor:
    """Return where each row starts: row ``(*batch, nnz)``, increasing -> ``(*batch, rows + 1)``."""
    index = torch.arange(rows + 1, dtype=row.dtype, device=row.device)
    return torch.searchsorted(row.contiguous(), index.expand(*row.shape[:-1], -1).contiguous())


def _transpose(s: Structure) -> Transpose:
    if s.col.device.type == "cpu":
        crow, col, order = _transpose_cpu(s)
    else:
        order = torch.argsort(s.col, stable=True)
        crow = compress(s.col[order], s.cols).to(s.crow.dtype)
        col = s.row[order]
    return Transpose(Structure(crow, col, s.rows), order)


def _transpose_cpu(s: Structure) -> tuple[Tensor, ...]:
    """Transpose by counting sort: SciPy's conversion carries the entries' positions along."""
    from scipy.sparse import csr_array

    position = torch.arange(s.nnz, dtype=s.col.dtype, device="cpu").numpy()
    csr = csr_array((position, s.col.numpy(), s.crow.numpy()), shape=(s.rows, s.cols))
    csc = csr.tocsc()
    parts = (torch.from_numpy(part) for part in (csc.indptr, csc.indices, csc.data))
    return tuple(part.to(s.crow.dtype) for part in parts)


# ------------------------------------------------------------------------ one for given indices

# Structures that somebody holds, by their content, and by the storage of their index tensors.  A
# structure owns these, so one that is found here has not been reused.
_by_content: weakref.WeakValueDictionary[Hashable, Structure] = weakref.WeakValueDictionary()
_by_address: weakref.WeakValueDictionary[Hashable, Structure] = weakref.WeakValueDictionary()
# The same for a while after nobody does: torch sparse tensors bring their indices along each time.
patterns = Store("patterns", most=64, rank=0)
# Structures of index tensors that were not copied, so that others may write to them: constants of
# an exported program, tensors that a user hands to an op.
_foreign = Store("index tensors", most=8, rank=0)
_lock = threading.RLock()


def shared(structure: Structure) -> Structure:
    """Return the one structure with these indices: one that is there, else this one.

    O(nnz) time for a new one.  Nobody may write to its index tensors from now on.
    """
    if structure.content is None:
        with outside_transforms():
            structure = _by_its_content(structure)
    if patterns.get(structure.content) is None:
        patterns.keep(structure.content, structure)
    return structure


def _by_its_content(structure: Structure) -> Structure:
    content = _content(structure)
    found = _published(structure, content)
    if found is structure:
        return found
    if torch.equal(found.crow, structure.crow) and torch.equal(found.col, structure.col):
        return found
    return _published(structure, object())  # other indices with one digest: shared with nobody


def _published(structure: Structure, content: Hashable) -> Structure:
    """Let a structure be found; return what is found by its content already."""
    with _lock:
        found = _by_content.setdefault(content, structure)
        if found is structure:
            structure.content = content
            for index in (structure.crow, structure.col):
                mark_static(index)
            _by_address[_address(structure.crow, structure.col, structure.cols)] = structure
        return found


def _content(s: Structure) -> Hashable:
    return _digest(s), s.rows, s.cols, s.nnz, s.crow.dtype, s.crow.device


def _digest(s: Structure) -> Hashable:
    if s.crow.is_meta:
        return object()  # nothing is stored there that could be compared
    if s.crow.device.type == "cpu":
        digest = hashlib.blake2b(digest_size=16)
        for index in (s.crow, s.col):
            digest.update(index.numpy().data)
        return digest.digest()
    # Sums with weights as good as random, without a copy to the host.
    sums = (_mixed(index) for index in (s.crow, s.col))
    return tuple(torch.stack([*sums]).tolist())


def _mixed(index: Tensor) -> Tensor:
    weight = torch.arange(1, index.shape[0] + 1, device=index.device) * 0x1E3779B97F4A7C15
    weight = (weight ^ (weight >> 30)) * 0x3F58476D1CE4E5B9
    return ((weight ^ (weight >> 27)) * index).sum()


def _address(crow: Tensor, col: Tensor, cols: int) -> tuple[Any, ...]:
    version = () if crow.is_inference() else (crow._version, col._version)
    return *_place(crow), *_place(col), *crow.shape, *col.shape, crow.dtype, cols, *version


def _place(index: Tensor) -> tuple[Any, ...]:
    # Not the address of the numbers: `share_memory_`, or a queue to another process, moves them.
    return storage_number(index), index.storage_offset()


def structure_of(crow: Tensor, col: Tensor, cols: int) -> Structure:
    """Return the structure of these index tensors, with all that was derived before."""
    address = _address(crow, col, cols)
    if (found := _by_address.get(address)) is not None:
        return found
    if crow.is_inference() or col.is_inference():
        # Without a version counter a change in place could not be noticed: keep nothing.
        return Structure(crow, col, cols)
    with _lock:
        found = _foreign.get(address)
        if found is None:
            found = Structure(crow, col, cols)
            _foreign.keep(address, found)
    return found


def unsigned(index: Tensor) -> np.ndarray:
    """View indices as compiled loops read them: without a sign, none is taken from the end."""
    array = index.numpy()
    return array.view(f"u{array.itemsize}")


def index_dtype(rows: int, cols: int, nnz: int) -> torch.dtype:
    """int32 where it fits: with int64, MKL and cuSPARSE convert on every call."""
    return torch.int32 if max(rows, cols, nnz) <= _FITS_INT32 else torch.int64
