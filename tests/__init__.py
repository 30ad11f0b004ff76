"""Tests of tsgu_func."""
