"""Write the bundled model's presets into the cells of the notebooks that use them.

    python -m scripts.notebook_presets && ruff format nmg_*.ipynb

A cell names its picture by `examples.pick(pipe, scene=(Scene(…), {…}), …)` and its editor by `editor = nmg.…(…)`. A
number of the editor is one for both models, or `DRAWN if drawn else PHOTOGRAPH`: the first of these follows the preset
of the scene's task, the other one stays. Execute the notebooks afterwards (`make notebooks`).
"""

from __future__ import annotations

import ast
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import nbformat

from nmg.editors import Editor
from nmg.lab.presets import SCENES
from nmg.menagerie import Scene
from nmg.menagerie.tasks import EXAMPLES

ROOT = Path(__file__).parents[1]


def refreshed(cells: Sequence[str]) -> list[str]:
    """The sources of a notebook's cells with the numbers of the presets.

    Raises:
        ValueError: for a scene of no task, a preset of another editor than the cell's, and one that is no number.
    """
    task, made = "", []
    for source in cells:
        nodes = [*ast.walk(ast.parse(source))]
        scene = next((node.value for node in nodes if isinstance(node, ast.keyword) and node.arg == "scene"), None)
        editor = next((node for node in nodes if isinstance(node, ast.Assign) and _name(node) == "editor"), None)
        # A cell may go on with the scene of an earlier one.
        task = task if scene is None else _task(ast.unparse(scene))
        made.append(_with_preset(source, editor, task) if task and editor else source)
    return made


def _with_preset(source: str, editor: ast.Assign, task: str) -> str:
    """A cell with the preset of a task in the place of its editor."""
    if not isinstance(editor.value, ast.Call):
        return source
    line = f"editor = {_call(editor.value, SCENES[task], task)}"
    lines = source.splitlines()
    if ast.unparse(ast.parse(line)) != ast.unparse(editor):
        lines[editor.lineno - 1 : editor.end_lineno] = [line]
    return "\n".join(lines)


def _name(node: ast.Assign) -> str:
    return node.targets[0].id if isinstance(node.targets[0], ast.Name) else ""


def _task(source: str) -> str:
    """The task whose example a scene and its change are."""
    named = {(repr(scene), repr(change)): task for task, scene, change in EXAMPLES}
    scene, change = eval(source, {"Scene": Scene})
    if (repr(scene), repr(change)) not in named:
        raise ValueError(f"{source} is the example of no task; take one of nmg.menagerie.tasks.EXAMPLES")
    return named[repr(scene), repr(change)]


def _call(call: ast.Call, preset: Editor, task: str) -> str:
    """The call that makes the preset on drawn scenes, and the same editor as before on photographs."""
    made = ast.unparse(call.func).removeprefix("nmg.")
    if made != type(preset).__name__:
        raise ValueError(f"the preset of {task} is {preset}, and the cell makes a {made}; write the cell anew")
    held = {word.arg: word.value for word in call.keywords}
    given = [ast.unparse(value) for value in call.args]
    for field in dataclasses.fields(preset)[len(given) :]:
        drawn, usual = getattr(preset, field.name), _default(field)
        if field.name not in held and drawn == usual:
            continue
        if not isinstance(drawn, int | float | str | None):
            raise ValueError(f"the preset of {task} has {field.name}={drawn!r}, no number; write the cell anew")
        value = held.get(field.name)
        other = value.orelse if isinstance(value, ast.IfExp) else value
        photograph = repr(usual) if other is None else ast.unparse(other)
        same = repr(drawn) == photograph
        given.append(f"{field.name}={drawn!r}" + ("" if same else f" if drawn else {photograph}"))
    return f"nmg.{made}({', '.join(given)})"


def _default(field: dataclasses.Field) -> object:
    return field.default if field.default_factory is dataclasses.MISSING else field.default_factory()


def main() -> None:
    for path in sorted(ROOT.glob("nmg_*.ipynb")):
        notebook = nbformat.read(path, as_version=4)
        cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
        fresh = zip(cells, refreshed([cell.source for cell in cells]), strict=True)
        stale = [(cell, source) for cell, source in fresh if cell.source != source]
        for cell, source in stale:
            cell.source = source
        if stale:
            nbformat.write(notebook, path)
            print(f"{path.name}: {len(stale)} cells")


if __name__ == "__main__":
    main()
