"""The documentation names everything that is public."""

import re
from pathlib import Path

import pytest

import tsgu_func
import tsgu_func.solvers
import tsgu_func.testing
import tsgu_func.utils

DOCS = Path(__file__).parents[1] / "docs"
MODULES = [tsgu_func, tsgu_func.solvers, tsgu_func.testing, tsgu_func.utils]


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name(module):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("api/*.md"))
    there = set(re.findall(r"^\.\. auto(?:class|function):: [\w.]*\.(\w+)$", pages, re.MULTILINE))
    assert {name for name in module.__all__ if name != "__version__"} <= there


def test_the_table_of_functions_has_every_public_name():
    words = set(re.findall(r"\w+", (DOCS / "functions.md").read_text(encoding="utf-8")))
    assert {name for name in tsgu_func.__all__ if name != "__version__"} <= words
