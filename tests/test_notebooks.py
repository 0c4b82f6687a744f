"""The notebooks run from top to bottom on the bundled model, and their parameters matter."""

import base64

import pytest

from tests.notebooks import ROOT, execute, inject

NOTEBOOKS = sorted(path.name for path in ROOT.glob("nmg_*.ipynb"))


def pictures(notebook) -> list[bytes]:
    return [
        base64.b64decode(output.data["image/jpeg"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/jpeg" in output.get("data", {})
    ]


@pytest.mark.notebook
@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_runs_and_its_scales_matter(name):
    quick = {"MODEL": "menagerie", "STEPS": 4}
    first = pictures(execute(ROOT / name, quick))
    assert len(first) >= 6 and all(picture[:2] == b"\xff\xd8" for picture in first)
    other = pictures(execute(ROOT / name, {**quick, "TEXT_SCALE": 1.0, "NOISE_MAP_SCALE": 0.5}))
    assert len(other) == len(first)
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_with_outputs_and_without_definitions(name):
    import nbformat

    notebook = nbformat.read(ROOT / name, as_version=4)
    assert pictures(notebook)
    for cell in notebook.cells:
        assert all(output.output_type != "error" for output in cell.get("outputs", []))
        if cell.cell_type == "code":
            assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines())


def test_an_unknown_parameter_is_an_error():
    import nbformat

    notebook = nbformat.read(ROOT / NOTEBOOKS[0], as_version=4)
    with pytest.raises(KeyError, match="no parameter STEP;"):
        inject(notebook, {"STEP": 3})
