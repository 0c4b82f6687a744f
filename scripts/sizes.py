"""Count the house: lines of each floor, sizes of functions, circles of imports and imports that go up.

python -m scripts.sizes
"""

from __future__ import annotations

import ast
import statistics
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).parent.parent
FLOORS = {"scripts": "scripts", "lab": "nmg/lab", "menagerie": "nmg/menagerie", "method": "nmg"}
"""Folders of the floors, the innermost first: `nmg` is the method without what stands on it."""
MAY_IMPORT = {
    "scripts": {"scripts", "lab", "menagerie", "method"},
    "lab": {"lab", "menagerie", "method"},
    "menagerie": {"menagerie"},
    "method": {"method"},
}
LARGEST = 45
"""Lines of code that a function may have."""


class Function(NamedTuple):
    name: str
    lines: int


# ---------------------------------------------------------------- files


def files() -> dict[str, Path]:
    """Every module's file, by its dotted name."""
    paths = (path for folder in ("nmg", "scripts") for path in sorted((ROOT / folder).rglob("*.py")))
    return {".".join(path.relative_to(ROOT).with_suffix("").parts).removesuffix(".__init__"): path for path in paths}


def floor(module: str) -> str:
    if module == "nmg.__main__":  # The door of the command line.
        return "lab"
    return next(name for name, folder in FLOORS.items() if f"{module}.".startswith(folder.replace("/", ".") + "."))


def lines() -> dict[str, int]:
    """Lines of each floor's files, blank ones and docstrings included."""
    total = dict.fromkeys(reversed(FLOORS), 0)
    for module, path in files().items():
        total[floor(module)] += len(path.read_text(encoding="utf-8").splitlines())
    return total


# ---------------------------------------------------------------- functions


def functions() -> list[Function]:
    """Every function and method with its lines of code: no decorators, docstrings, comments or blank lines."""
    found = []
    for module, path in files().items():
        source = path.read_text(encoding="utf-8")
        code = {n for n, line in enumerate(source.splitlines(), 1) if line.strip() and not line.strip().startswith("#")}
        for name, node in _definitions(ast.parse(source), module):
            own = code & set(range(node.lineno, _end(node) + 1))
            if ast.get_docstring(node) is not None:
                own -= set(range(node.body[0].lineno, _end(node.body[0]) + 1))
            found.append(Function(name, len(own)))
    return found


def _definitions(node: ast.AST, name: str) -> Iterator[tuple[str, ast.FunctionDef | ast.AsyncFunctionDef]]:
    for child in ast.iter_child_nodes(node):
        inner = name
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            inner = f"{name}.{child.name}"
        if isinstance(child, ast.FunctionDef | ast.AsyncFunctionDef):
            yield inner, child
        yield from _definitions(child, inner)


def _end(node: ast.stmt) -> int:
    return node.end_lineno or node.lineno


# ---------------------------------------------------------------- imports


def imports() -> dict[str, set[str]]:
    """The modules of the house that each module imports, wherever in its file."""
    known = files()
    graph: dict[str, set[str]] = {}
    for module, path in known.items():
        reached: set[str] = set()
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                reached |= {alias.name for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
                # A name is a module of its own, or stands in the one that it is imported from.
                inner = {f"{node.module}.{alias.name}" for alias in node.names}
                reached |= {name if name in known else node.module for name in inner}
        graph[module] = (reached & known.keys()) - {module}
    return graph


def upward() -> list[str]:
    """Imports of a floor that the importer's floor doesn't know."""
    return [
        f"{module} -> {other}"
        for module, others in imports().items()
        for other in sorted(others)
        if floor(other) not in MAY_IMPORT[floor(module)]
    ]


def circles() -> list[list[str]]:
    """Groups of modules that import each other, directly or through others."""
    graph = imports()
    reached = {module: _reached(graph, module) for module in graph}
    groups = {tuple(sorted(other for other in reached[module] if module in reached[other])) for module in graph}
    return [list(group) for group in sorted(groups) if group]


def _reached(graph: dict[str, set[str]], start: str) -> set[str]:
    seen: set[str] = set()
    waiting = list(graph[start])
    while waiting:
        module = waiting.pop()
        if module not in seen:
            seen.add(module)
            waiting += graph[module]
    return seen


def main() -> None:
    for name, count in lines().items():
        print(f"{name:10} {count:6,} lines")
    found = sorted(functions(), key=lambda function: -function.lines)
    sizes = [function.lines for function in found]
    high = statistics.quantiles(sizes, n=20, method="inclusive")[-1]
    print(
        f"{len(found):,} functions: median {statistics.median(sizes):g}, 95th percentile {high:g}, "
        f"maximum {sizes[0]} lines of code"
    )
    for function in found:
        if function.lines > LARGEST:
            print(f"  over {LARGEST}: {function.name}, {function.lines}")
    for what, items in (("circles", [", ".join(group) for group in circles()]), ("upward imports", upward())):
        print(f"{len(items)} {what}")
        for item in items:
            print(f"  {item}")


if __name__ == "__main__":
    main()
