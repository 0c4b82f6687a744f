"""Execute notebooks: `python tests/notebooks.py nmg_ptp.ipynb …` runs them and writes their outputs back."""

from __future__ import annotations

import ast
import sys
from pathlib import Path

import nbformat
from nbclient import NotebookClient

ROOT = Path(__file__).parent.parent


def inject(notebook: nbformat.NotebookNode, parameters: dict[str, object]) -> None:
    """Set values of the cell tagged `parameters`.

    Raises:
        KeyError: for a parameter that the cell does not define.
    """
    (cell,) = [c for c in notebook.cells if "parameters" in c.metadata.get("tags", [])]
    defined = {t.id for node in ast.parse(cell.source).body if isinstance(node, ast.Assign) for t in node.targets}
    if unknown := parameters.keys() - defined:
        raise KeyError(
            f"the notebook has no parameter {', '.join(sorted(unknown))}; it has {', '.join(sorted(defined))}"
        )
    lines = [f"{name} = {value!r}" for name, value in parameters.items()]
    notebook.cells.insert(notebook.cells.index(cell) + 1, nbformat.v4.new_code_cell("\n".join(lines), id="injected"))


def execute(path: Path, parameters: dict[str, object] | None = None, timeout: int = 1200) -> nbformat.NotebookNode:
    """The notebook with its outputs; an exception in a cell is raised."""
    notebook = nbformat.read(path, as_version=4)
    inject(notebook, parameters or {})
    client = NotebookClient(
        notebook, timeout=timeout, kernel_name="python3", resources={"metadata": {"path": str(ROOT)}}
    )
    client.execute()
    notebook.cells = [cell for cell in notebook.cells if cell.get("id") != "injected"]
    return notebook


def clean(notebook: nbformat.NotebookNode) -> None:
    """Drop what changes from run to run and tells nothing: timings, progress bars, the kernel's version."""
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":
            cell.outputs = [o for o in cell.outputs if not passing(o)]
    notebook.metadata = {
        "kernelspec": {"display_name": "Python 3", "language": "python", "name": "python3"},
        "language_info": {"name": "python"},
    }


def passing(output: nbformat.NotebookNode) -> bool:
    """Whether an output is a progress bar or a notice."""
    widget = "application/vnd.jupyter.widget-view+json" in output.get("data", {})
    return widget or (output.output_type == "stream" and output.name == "stderr")


if __name__ == "__main__":
    for name in sys.argv[1:]:
        executed = execute(Path(name))
        clean(executed)
        nbformat.write(executed, name)
        print(name)
