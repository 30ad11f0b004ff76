"""Iterative solvers of least-squares problems."""
