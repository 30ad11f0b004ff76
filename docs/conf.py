"""Sphinx: ``pip install -e ".[docs]" && sphinx-build -W docs docs/_build``."""

import tsgu_func

project = "tsgu_func"
author = "The tsgu_func developers"
version = release = tsgu_func.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx.ext.mathjax"]
html_theme = "furo"
exclude_patterns = ["_build"]
default_role = "code"
# "shape" in a docstring is a word, not one of the properties of that name.
suppress_warnings = ["ref.python"]
