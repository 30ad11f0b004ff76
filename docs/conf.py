"""Sphinx: ``pip install -e ".[docs]" && sphinx-build -W docs docs/_build``.

What is built needs no network: mathematics is MathML, which browsers draw by themselves.
"""

import re

from docutils import nodes
from latex2mathml.converter import convert
from sphinx import addnodes

import tsgu_func

project = "tsgu_func"
author = "The tsgu_func developers"
copyright = "2026, The tsgu_func developers. Free software under the Apache License 2.0"  # noqa: A001
version = release = tsgu_func.__version__
extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.napoleon", "sphinx_copybutton"]
html_theme = "furo"
html_title = f"tsgu_func {release}"
html_static_path = ["_static"]
html_css_files = ["site.css"]
html_math_renderer = "mathml"
html_show_sphinx = False
exclude_patterns = ["_build"]
default_role = "code"
toc_object_entries_show_parents = "hide"
myst_heading_anchors = 4
# What is copied runs: without prompts, and without what was printed.
copybutton_prompt_text = r">>> |\.\.\. |\$ "
copybutton_prompt_is_regexp = True
# "shape" in a docstring is a word, not one of the properties of that name.
suppress_warnings = ["ref.python"]

_NAME = re.compile(r"[A-Z]\w*|.*[._].*|int|float|bool|str|complex|tuple|list|dict|None")

_BAR = re.compile(r'<mover>(<mrow>(?:(?!<mover>).)*)<mo accent="true">&#x02015;</mo></mover>')


def _draw(display):
    def visit(writer, node):
        drawn = convert(node.astext(), display=display)
        # A bar over several signs as a border: few fonts have one that grows.
        writer.body.append(_BAR.sub(r'<mrow class="overline">\1</mrow>', drawn))
        raise nodes.SkipNode

    return visit, None


def _trim(app, doctree):
    """Take off the blank line that ends a doctest, and links from the words in types of parameters.

    "shape" is no property there.
    """
    for block in doctree.findall(nodes.literal_block):
        block.rawsource = block.astext().rstrip("\n")
        block.children = [nodes.Text(block.rawsource)]
    for link in list(doctree.findall(addnodes.pending_xref)):
        if link.get("refspecific") and not _NAME.fullmatch(link["reftarget"]):
            link.replace_self(link.children)


def setup(app):
    """Register what draws mathematics, and what trims pages."""
    app.add_html_math_renderer("mathml", _draw("inline"), _draw("block"))
    app.connect("doctree-read", _trim)
