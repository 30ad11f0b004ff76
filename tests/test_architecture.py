"""The house: imports go down, never in a circle, and the picture in the docs is of today."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="module")
def plan():
    """Give the script that draws the picture, as a module."""
    spec = importlib.util.spec_from_file_location("floor_plan", ROOT / "docs" / "floor_plan.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.fixture(scope="module")
def modules(plan):
    return plan.imports()


@pytest.mark.slow
def test_what_python_imports_is_found(modules):
    """Everything that is there after an import follows from the arrows, and from what is around."""
    program = "import sys, tsgu_func.__main__; print(*(m for m in sys.modules if 'tsgu_func' in m))"
    done = subprocess.run(
        [sys.executable, "-c", program], capture_output=True, text=True, check=True, cwd=ROOT
    )
    found, new = set(), {"tsgu_func.__main__"}
    while new:
        found |= new
        around = {name.rpartition(".")[0] for name in new} - {""}
        new = around.union(*(modules[name] for name in new)) - found
    loaded = set(done.stdout.split())
    assert len(loaded) > 50
    assert loaded <= found


def test_no_import_climbs(plan, modules):
    assert plan.climbs(modules) == []


def test_no_modules_import_each_other(plan, modules):
    assert plan.circle(modules) == []


def test_the_picture_is_of_today(plan, modules):
    assert plan.PICTURE.read_text(encoding="utf-8") == plan.draw(modules), (
        "imports have changed: python docs/floor_plan.py draws the picture again"
    )


@pytest.fixture
def planted(plan, tmp_path):
    """Give a function that reads a package with one more import."""

    def plant(name, text):
        for path in (ROOT / "tsgu_func").rglob("*.py"):
            copy = tmp_path / path.relative_to(ROOT)
            copy.parent.mkdir(parents=True, exist_ok=True)
            copy.write_text(path.read_text(encoding="utf-8"), encoding="utf-8")
        file = tmp_path / "tsgu_func" / name
        before = file.read_text(encoding="utf-8") if file.exists() else ""
        file.write_text(before + text, encoding="utf-8")
        return plan.imports(tmp_path)

    return plant


@pytest.mark.slow
@pytest.mark.parametrize(
    "text",
    [
        "import tsgu_func.ops.products\n",
        "from tsgu_func.ops import products\n",
        "from tsgu_func.ops.products import spmm\n",
        "def late():\n    from tsgu_func.ops.products import spmm\n",
        "if not TYPE_CHECKING:\n    from tsgu_func.ops import products\n",
    ],
)
def test_an_import_that_climbs_is_found(plan, planted, text):
    modules = planted("kernels/threads.py", text)
    target = "tsgu_func.ops.products, which is above it"
    assert plan.climbs(modules) == [f"tsgu_func.kernels.threads imports {target}"]
    assert plan.circle(modules)
    with pytest.raises(ValueError, match="import each other"):
        plan.draw(modules)


def test_an_import_for_types_alone_is_none(plan, planted):
    text = "if TYPE_CHECKING:\n    from tsgu_func.ops.products import spmm\n"
    assert plan.climbs(planted("kernels/threads.py", text)) == []


def test_a_room_without_a_place_is_found(plan, planted):
    assert plan.climbs(planted("attic.py", "import tsgu_func.cache\n")) == [
        "attic is in no order: add it to ROOMS"
    ]


@pytest.mark.slow
def test_an_arrow_more_is_another_picture(plan, planted, modules):
    assert plan.draw(planted("cache.py", "")) == plan.draw(modules)
    later = planted("legacy.py", "import tsgu_func.ops.keys\n")
    assert plan.draw(later) != plan.draw(modules)
