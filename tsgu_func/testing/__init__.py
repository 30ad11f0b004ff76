"""Verification of derivative and batching rules, of this library and of anyone."""
