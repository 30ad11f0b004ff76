"""The floor plan of the package, drawn from its imports: ``python docs/floor_plan.py``.

A *room* is a package inside of tsgu_func, or a module beside them.  It stands above all rooms that
it imports, as low as that allows.  An arrow that follows from others is left out.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Iterator, Mapping
from itertools import pairwise
from pathlib import Path
from statistics import fmean

__all__ = ["PICTURE", "ROOMS", "circle", "climbs", "draw", "floors", "imports", "rooms"]

ROOT = Path(__file__).resolve().parent.parent
PICTURE = ROOT / "docs" / "images" / "floor-plan.svg"
PACKAGE = "tsgu_func"

# In the order in which they may be imported: a room knows none of those below it in this list.
ROOMS = {
    "cache": "what is kept, one limit",
    "registration": "a primitive, its rules",
    "kernels": "loops without autograd",
    "solvers": "direct, Krylov, least squares",
    "ops": "the closed set of primitives",
    "matrix": "SparseMatrix, its pattern",
    "legacy": ".apply classes",
    "utils": "functions on plain tensors",
    "linear_operator": "known by its products",
    "indexed_matmul": "gather, segment",
    "coloring": "few products tell all",
    "sparse_parameter": "a matrix in a module",
    "sparse_matmul": "products",
    "sparse_solve": "systems",
    "sparse_lstsq": "least squares",
    "factorization": "factor once",
    "derivatives": "of sparse functions",
    "pattern_detection": "of Jacobian, Hessian",
    "sparse_jacobian": "Jacobians, Hessians",
    "sparse_root": "roots of sparse systems",
    PACKAGE: "the public names",
    "testing": "check_rules, strategies",
    "console": "what commands share",
    "selfcheck": "a record for each op",
    "demo": "denoising",
    "bench": "against peers",
    "warm": "loops ahead of time",
    "__main__": "the command line",
}
_ENTERED = {  # by a user
    *("solvers", "legacy", "utils", "linear_operator", "indexed_matmul", "sparse_matmul"),
    *("sparse_solve", "sparse_lstsq", "factorization", "sparse_parameter", "coloring"),
    *("pattern_detection", "sparse_jacobian", "sparse_root", PACKAGE, "testing", "__main__"),
}

_FOR_TYPES = ("TYPE_CHECKING", "typing.TYPE_CHECKING")

Graph = Mapping[str, set[str]]


# -------------------------------------------------------------------------------- what is imported


def imports(root: Path = ROOT) -> dict[str, set[str]]:
    """Return the modules of the package that each of them imports, inside of functions too."""
    files = {_module(path.relative_to(root)): path for path in (root / PACKAGE).rglob("*.py")}
    return {
        name: set(_targets(ast.parse(path.read_text(encoding="utf-8")), files)) - {name}
        for name, path in sorted(files.items())
    }


def _module(path: Path) -> str:
    parts = path.with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def _targets(node: ast.AST, known: Iterable[str]) -> Iterator[str]:
    if isinstance(node, ast.Import):
        yield from (alias.name for alias in node.names if alias.name in known)
    elif isinstance(node, ast.ImportFrom) and node.module in known:
        for alias in node.names:
            inner = f"{node.module}.{alias.name}"
            yield inner if inner in known else node.module
    elif isinstance(node, ast.If) and ast.unparse(node.test) in _FOR_TYPES:
        for child in node.orelse:
            yield from _targets(child, known)
    else:
        for child in ast.iter_child_nodes(node):
            yield from _targets(child, known)


def room_of(module: str) -> str:
    """Return the room that a module is in."""
    return module.split(".")[1] if "." in module else module


def rooms(modules: Graph) -> dict[str, set[str]]:
    """Return the rooms that each room imports."""
    plan: dict[str, set[str]] = {}
    for name, targets in modules.items():
        plan.setdefault(room_of(name), set()).update(map(room_of, targets))
    return {room: plan[room] - {room} for room in ROOMS if room in plan} | {
        room: targets - {room} for room, targets in plan.items() if room not in ROOMS
    }


def climbs(modules: Graph) -> list[str]:
    """Return the imports that go against the order of `ROOMS`, and the rooms that it lacks."""
    order = {room: number for number, room in enumerate(ROOMS)}
    unknown = {room_of(name) for name in modules} - order.keys()
    wrong = [f"{room} is in no order: add it to ROOMS" for room in sorted(unknown)]
    for name, targets in modules.items():
        for target in sorted(targets):
            above, below = room_of(name), room_of(target)
            if not {above, below} & unknown and order[below] > order[above]:
                wrong.append(f"{name} imports {target}, which is above it")
    return wrong


def circle(graph: Graph) -> list[str]:
    """Return a path that comes back to where it began, empty if there is none.

    >>> circle({"a": {"b"}, "b": {"c"}, "c": {"b"}})
    ['b', 'c', 'b']
    """
    done: set[str] = set()

    def walk(node: str, path: list[str]) -> list[str]:
        if node in path:
            return [*path[path.index(node) :], node]
        for target in () if node in done else sorted(graph.get(node, ())):
            if found := walk(target, [*path, node]):
                return found
        done.add(node)
        return []

    return next((found for node in sorted(graph) if (found := walk(node, []))), [])


# -------------------------------------------------------------------------------------- the plan


def floors(plan: Graph) -> dict[str, int]:
    """Return the floor of each room: above all that it imports, as low as that allows.

    >>> floors({"attic": {"hall", "cellar"}, "hall": {"cellar"}, "cellar": set()})
    {'cellar': 0, 'hall': 1, 'attic': 2}
    """
    if found := circle(plan):
        raise ValueError(f"rooms that import each other have no floors: {' -> '.join(found)}")
    level: dict[str, int] = {}

    def of(room: str) -> int:
        if room not in level:
            level[room] = 1 + max((of(below) for below in sorted(plan[room])), default=-1)
        return level[room]

    for room in plan:
        of(room)
    return level


def _needed(plan: Graph) -> list[tuple[str, str]]:
    """Return the arrows that do not follow from others."""

    def below(room: str) -> set[str]:
        return plan[room].union(*map(below, plan[room]))

    return [
        (room, target)
        for room, targets in plan.items()
        for target in sorted(targets)
        if not any(target in below(other) for other in targets)
    ]


# ----------------------------------------------------------------------------------- the picture

_BOX, _ROW, _GAP, _LANE, _MARGIN = 44, 84, 22, 10, 16  # heights of a box and a row; widths
_COLOURS = {True: ("#e8f1fb", "#2b6cb0"), False: ("#f6f6f4", "#6b6b66")}

Paths = list[list[str]]
Rows = list[list[str]]


def draw(modules: Graph) -> str:
    """Return the picture as SVG; the same imports give the same text."""
    plan = rooms(modules)
    level = floors(plan)
    paths, rows = _lanes(_needed(plan), level)
    place, width = _placed(_sorted(rows, paths))
    height = 2 * _MARGIN + _ROW * (len(rows) - 1) + _BOX
    lines = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" width="{width}" '
        f'height="{height}" font-family="Helvetica, Arial, sans-serif" text-anchor="middle">',
        "<title>The rooms of tsgu_func: an arrow is an import</title>",
        '<defs><marker id="head" viewBox="0 0 8 8" refX="8" refY="4" markerWidth="7" '
        'markerHeight="7" orient="auto"><path d="M0 0L8 4L0 8z" fill="#6b6b66"/></marker></defs>',
        f'<rect width="{width}" height="{height}" fill="#ffffff"/>',
        *(_arrow([place[point] for point in path]) for path in paths),
        *(_box(room, *place[room]) for room in plan),
        "</svg>",
    ]
    return "\n".join(lines) + "\n"


def _lanes(arrows: list[tuple[str, str]], level: Mapping[str, int]) -> tuple[Paths, Rows]:
    """Give each arrow a place of its own on every floor that it passes."""
    rows: Rows = [[] for _ in range(max(level.values()) + 1)]
    for room, floor in level.items():
        rows[floor].append(room)
    paths = []
    for room, target in arrows:
        passed = range(level[room] - 1, level[target], -1)
        lanes = [f"{room}|{target}|{floor}" for floor in passed]
        for floor, lane in zip(passed, lanes, strict=True):
            rows[floor].append(lane)
        paths.append([room, *lanes, target])
    return paths, rows


def _sorted(rows: Rows, paths: Paths) -> Rows:
    """Order each row by where its neighbours are, up and down the house a few times."""
    beside: dict[str, list[str]] = {}
    for path in paths:
        for above, below in pairwise(path):
            beside.setdefault(above, []).append(below)
            beside.setdefault(below, []).append(above)
    for _ in range(8):
        for row in (*rows, *reversed(rows)):
            at = {point: x for point, (x, _) in _placed(rows)[0].items()}
            row.sort(key=lambda point, at=at: fmean(at[x] for x in beside.get(point, [point])))
    return rows


def _placed(rows: Rows) -> tuple[dict[str, tuple[int, int]], int]:
    """Return the middle of each box and lane, and the width of the whole."""
    widths = [sum(map(_width, row)) + _GAP * (len(row) - 1) for row in rows]
    width = max(widths) + 2 * _MARGIN
    place = {}
    for floor, row in enumerate(rows):
        x = (width - widths[floor]) // 2
        y = _MARGIN + _BOX // 2 + _ROW * (len(rows) - 1 - floor)
        for point in row:
            place[point] = (x + _width(point) // 2, y)
            x += _width(point) + _GAP
    return place, width


def _width(point: str) -> int:
    if "|" in point:
        return _LANE
    return max(9 * len(point), 6 * len(ROOMS.get(point, ""))) + 20


def _arrow(points: list[tuple[int, int]]) -> str:
    half = _BOX // 2
    x, y = points[0]
    path = f"M{x} {y + half}"
    y += half
    for number, (x_next, y_next) in enumerate(points[1:], 2):
        top = y_next - half
        bend = (y + top) // 2
        path += f"C{x} {bend} {x_next} {bend} {x_next} {top}"
        x, y = x_next, top
        if number < len(points):
            y = y_next + half
            path += f"V{y}"
    return f'<path d="{path}" fill="none" stroke="#6b6b66" marker-end="url(#head)"/>'


def _box(room: str, x: int, y: int) -> str:
    fill, ink = _COLOURS[room in _ENTERED]
    width = _width(room)
    return (
        f'<rect x="{x - width // 2}" y="{y - _BOX // 2}" width="{width}" height="{_BOX}" rx="4" '
        f'fill="{fill}" stroke="{ink}"/>'
        f'<text x="{x}" y="{y - 3}" font-size="14" fill="{ink}">{room}</text>'
        f'<text x="{x}" y="{y + 14}" font-size="11" fill="#444444">{ROOMS.get(room, "")}</text>'
    )


if __name__ == "__main__":
    PICTURE.write_text(draw(imports()), encoding="utf-8")
    print(PICTURE.relative_to(ROOT))
