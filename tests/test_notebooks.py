"""The notebooks run from top to bottom on the bundled model, and their parameters matter."""

import base64

import pytest

import nmg
from nmg.lab.presets import SCENES
from scripts.notebook_presets import refreshed
from tests.families import FAMILIES
from tests.notebooks import ROOT, execute, inject

NOTEBOOKS = sorted(path.name for path in ROOT.glob("nmg_*.ipynb"))
FLOW = ROOT / "nmg" / "menagerie" / "flow"
"""The bundled model's twin: a small Stable Diffusion 3 that was trained."""
EDITING = [name for name in NOTEBOOKS if name != "nmg_paper.ipynb"]


def pictures(notebook) -> list[bytes]:
    return [
        base64.b64decode(output.data["image/jpeg"])
        for cell in notebook.cells
        for output in cell.get("outputs", [])
        if "image/jpeg" in output.get("data", {})
    ]


@pytest.mark.notebook
@pytest.mark.parametrize("name", EDITING)
def test_a_notebook_runs_and_its_scales_matter(name):
    quick = {"MODEL": "menagerie", "STEPS": 4}
    first = pictures(execute(ROOT / name, quick))
    assert len(first) >= 6 and all(picture[:2] == b"\xff\xd8" for picture in first)
    other = pictures(execute(ROOT / name, {**quick, "TEXT_SCALE": 1.0, "NOISE_MAP_SCALE": 0.5}))
    assert len(other) == len(first)
    assert all(a != b for a, b in zip(first, other, strict=True))


@pytest.mark.notebook
@pytest.mark.slow
@pytest.mark.parametrize("family", ["xl", "sd3", "the flow twin"])
@pytest.mark.parametrize("name", EDITING)
def test_a_notebook_runs_on_a_model_of_another_family(name, family, tmp_path):
    if family in FAMILIES:
        FAMILIES[family]().save_pretrained(tmp_path)
    folder = tmp_path if family in FAMILIES else FLOW
    made = execute(ROOT / name, {"MODEL": str(folder), "STEPS": 2})
    assert len(pictures(made)) >= 6


@pytest.mark.notebook
@pytest.mark.slow
def test_the_notebook_of_the_paper_makes_tables_and_figures(tmp_path):
    few = {"MODEL": "menagerie", "STEPS": 2, "METHODS": ("DDIM", "NMG"), "FOLDER": str(tmp_path / "paper")}
    made = execute(ROOT / "nmg_paper.ipynb", {**few, "TASKS": ["colour change", "pose modification"]})
    shown = [output.data for cell in made.cells for output in cell.get("outputs", []) if "data" in output]
    tables = [data["text/markdown"] for data in shown if "text/markdown" in data]
    assert len(tables) == 5 and all("NMG" in table for table in tables)
    # Of each editor a sheet, a sweep and a chart.
    assert len(pictures(made)) >= 3


@pytest.mark.parametrize("name", NOTEBOOKS)
def test_a_notebook_is_committed_whole_and_without_definitions(name):
    import nbformat

    notebook = nbformat.read(ROOT / name, as_version=4)
    # As `make notebooks` executes it, or without any outputs.
    ran = {cell.execution_count is not None for cell in notebook.cells if cell.cell_type == "code"}
    assert len(ran) == 1 and bool(pictures(notebook)) == ran.pop()
    for cell in notebook.cells:
        assert all(output.output_type != "error" for output in cell.get("outputs", []))
        if cell.cell_type == "code":
            assert not any(line.startswith(("def ", "class ")) for line in cell.source.splitlines())


@pytest.mark.parametrize("name", EDITING)
def test_the_editors_numbers_are_the_presets(name):
    import nbformat

    cells = [cell.source for cell in nbformat.read(ROOT / name, as_version=4).cells if cell.cell_type == "code"]
    assert sum("scene=(Scene(" in source for source in cells) >= 2
    words = f"{name} has other numbers than presets.json; python -m scripts.notebook_presets writes them"
    assert refreshed(cells) == cells, words


def test_a_preset_is_written_beside_the_numbers_for_photographs(monkeypatch):
    scene = 'example = examples.pick(pipe, scene=(Scene("rabbit", "pink", "forest", seed=10_004), {"colour": "blue"}))'
    monkeypatch.setitem(SCENES, "colour change", nmg.PromptToPrompt(cross_replace=0.8, self_replace=0.1))
    plain, usual = "nmg.PromptToPrompt", nmg.PromptToPrompt().self_replace
    for held, written in (
        ("cross_replace=0.5 if drawn else 0.8, self_replace=0.2", "self_replace=0.1 if drawn else 0.2"),
        ("cross_replace=0.8", f"self_replace=0.1 if drawn else {usual}"),
    ):
        cell, later = refreshed([f"{scene}\neditor = {plain}({held})\nprint()", f"editor = {plain}({held})"])
        assert cell == f"{scene}\neditor = {plain}(cross_replace=0.8, {written})\nprint()"
        assert later == f"editor = {plain}(cross_replace=0.8, {written})"
        assert refreshed([cell, later]) == [cell, later]
    with pytest.raises(ValueError, match="the preset of colour change is PromptToPrompt.*makes a MasaCtrl"):
        refreshed([scene, "editor = nmg.MasaCtrl()"])
    with pytest.raises(ValueError, match="the example of no task"):
        refreshed([scene.replace("pink", "gray")])


def test_an_unknown_parameter_is_an_error():
    import nbformat

    notebook = nbformat.read(ROOT / NOTEBOOKS[0], as_version=4)
    with pytest.raises(KeyError, match="no parameter STEP;"):
        inject(notebook, {"STEP": 3})
