"""The documentation names all that is public, lists its pages, and has no link to nothing."""

import importlib.util
import re
import sys
from pathlib import Path

import pytest

import tsgu_func
import tsgu_func.solvers
import tsgu_func.testing
import tsgu_func.utils

ROOT = Path(__file__).resolve().parent.parent
DOCS = ROOT / "docs"
PAGES = sorted(DOCS.glob("*.md"))
CODE = re.compile(r"```.*?```|`[^`]*`", re.DOTALL)
MODULES = [tsgu_func, tsgu_func.solvers, tsgu_func.testing, tsgu_func.utils]
LINK = re.compile(r"\]\(([^)\s]+)\)")


def text(path):
    return path.read_text(encoding="utf-8")


def test_every_page_is_listed():
    trees = re.findall(r"```\{toctree\}\n(.*?)```", text(DOCS / "index.md"), re.DOTALL)
    lines = [line for tree in trees for line in tree.split("\n") if line and line[0] != ":"]
    assert sorted(lines) == [p.stem for p in PAGES if p.stem != "index"]


@pytest.mark.parametrize("page", [*PAGES, ROOT / "README.md"], ids=lambda page: page.name)
def test_what_a_page_links_to_is_there(page):
    prose = CODE.sub("", text(page))
    targets = [link.partition("#")[0] for link in LINK.findall(prose) if "://" not in link]
    missing = [target for target in targets if target and not (page.parent / target).exists()]
    assert not missing


def test_the_coloured_patterns_are_drawn(tmp_path, monkeypatch):
    """By the script that the guide names, as often as somebody runs it."""
    pytest.importorskip("matplotlib")
    path = DOCS / "colored_patterns.py"
    assert f"\npython docs/{path.name}\n" in text(DOCS / "sparse-derivatives.md")
    spec = importlib.util.spec_from_file_location("colored_patterns", path)
    module = importlib.util.module_from_spec(spec)
    monkeypatch.setitem(sys.modules, spec.name, module)
    spec.loader.exec_module(module)
    assert module.PICTURE.exists()
    module.draw(tmp_path / "drawn.png")
    assert (tmp_path / "drawn.png").stat().st_size > 10_000


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_the_reference_has_every_public_name(module):
    pages = "\n".join(page.read_text(encoding="utf-8") for page in DOCS.glob("api/*.md"))
    there = set(re.findall(r"^\.\. auto(?:class|function):: [\w.]*\.(\w+)$", pages, re.MULTILINE))
    assert {name for name in module.__all__ if name != "__version__"} <= there


def test_the_table_of_functions_has_every_public_name():
    words = set(re.findall(r"\w+", (DOCS / "functions.md").read_text(encoding="utf-8")))
    assert {name for name in tsgu_func.__all__ if name != "__version__"} <= words
