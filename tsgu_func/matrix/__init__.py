"""The sparse matrix, its pattern, and what becomes one."""
