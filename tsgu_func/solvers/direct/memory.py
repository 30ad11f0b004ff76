"""What is said where memory does not suffice: that is not a property of the matrix."""

from __future__ import annotations

__all__ = ["no_memory"]


def no_memory(package: str, rows: int, entries: int) -> MemoryError:
    """Return the error that says so, and what needs less."""
    return MemoryError(
        f"{package} found no memory for the factor of a matrix with {rows} rows and "
        f"{entries} entries: an iterative solver, such as CG(IC0()) or BiCGStab(ILU0()), "
        f"needs less"
    )
