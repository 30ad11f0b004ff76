"""Patterns of all operators in PyTorch's own database hold what their derivatives do."""

import re
import subprocess
import sys
from pathlib import Path

import pytest

# Operators that are refused by name, and of which PyTorch has entries that are not there: what is
# overwritten has a gradient in reverse mode.
KNOWN = {
    "to_sparse": "ValueError: .*layout torch.sparse_coo to aten::_to_sparse",
    "nn.functional.embedding_bag": "NotImplementedError: .*no rule .*embedding_bag",
    "as_strided_scatter": "lacks ",
}


@pytest.mark.slow
def test_no_pattern_lacks_an_entry():
    pytest.importorskip("expecttest")
    done = subprocess.run(
        [sys.executable, "-m", "tests.database", "float64"],
        cwd=Path(__file__).resolve().parent.parent,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-2000:]
    for line in done.stdout.splitlines():
        name, told = line.split("\t")
        assert name in KNOWN, line
        assert re.search(KNOWN[name], told), line
