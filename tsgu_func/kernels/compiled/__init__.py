"""Loops compiled by Numba, for the CPU; imported when first used."""
