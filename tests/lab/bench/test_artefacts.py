import csv
import json

import pytest

import nmg
from nmg.lab.bench import Menagerie, artefacts, runner, sheets
from nmg.lab.bench.artefacts import ARTEFACTS, Paper
from nmg.lab.bench.groups import gather
from nmg.lab.bench.methods import METHODS, on_variant
from nmg.lab.bench.pictures import Pictures
from nmg.lab.presets import Example
from tests.lab.bench.made import TASK


@pytest.fixture(scope="module")
def shared(tmp_path_factory):
    return tmp_path_factory.mktemp("paper")


@pytest.fixture
def make(pipe, shared):
    """The artefacts of one scene of a task, by plain DDIM and NMG, which share a folder."""
    options = {"suite": Menagerie(), "methods": ("DDIM", "NMG"), "tasks": (TASK,), "count": 1, "steps": 2}
    return lambda **others: Paper(pipe, shared, **{**options, "progress": False, **others})


def lines(path):
    """The lines of a long table by method, scale and metric, over all tasks."""
    with path.open() as file:
        return {(x["method"], x["scale"], x["metric"]): x for x in csv.DictReader(file) if x["task"] == "all"}


def test_reconstruction_is_measured_on_the_source_row(make, shared, unmeasured):
    text, table = make().reconstruction()
    found = lines(table)
    (own,) = [r for r in gather(shared) if r.method == "DDIM"]
    assert float(found["DDIM", "", "reconstruction_mse"]["mean"]) == pytest.approx(
        own.metrics["reconstruction_mse"], rel=1e-5
    )
    assert found["DDIM", "", "reconstruction_lpips"]["n"] == "0"
    assert "Lpips is not here" in found["DDIM", "", "reconstruction_lpips"]["reason"]
    assert "missing [1]" in text.read_text() and "| identity |" not in text.read_text()


def test_artefacts_share_their_edits_and_another_run_repeats_none(make, shared, monkeypatch, unmeasured):
    make().reconstruction()
    count = len(runner.records.read(shared))
    monkeypatch.setattr(nmg, "edit", lambda *given, **options: pytest.fail("an edit was made again"))
    for artefact in ("reconstruction", "editing", "runtime"):
        assert all(path.stat().st_size > 200 for path in ARTEFACTS[artefact](make()))
    assert len(runner.records.read(shared)) == count


def test_runtime_has_the_cost_of_every_edit(make):
    text, table = make().runtime()
    (seconds,) = [
        float(x["mean"]) for (method, _, metric), x in lines(table).items() if (method, metric) == ("NMG", "seconds")
    ]
    assert seconds > 0 and "| seconds ↓ |" in text.read_text() and "2402.04625" in text.read_text()
    assert "minus DDIM" not in text.read_text()


def test_the_sweep_has_a_row_per_scale_on_the_validation_split(make, shared):
    text, table, curve = make().sweep([0.0, 3.0])
    found = lines(table)
    values = {found["NMG", scale, "reconstruction_psnr"]["mean"] for scale in ("0", "3")}
    assert len(values) == 2 and {x["split"] for x in found.values()} == {"validation"}
    assert "NMG, scale 3" in text.read_text() and "split validation" in text.read_text()
    assert curve.name == "sweep-prompttoprompt.png"
    # The tables of the test split have no part in it.
    assert all(r.scale not in (0.0, 3.0) for r in gather(shared) if r.method == "NMG")


def test_robustness_runs_both_guidances_on_every_inversion(make):
    variants = ("", ", authors' levels", ", edit-friendly")
    text, table, chart = make().robustness(variants)
    assert {f"{name}{variant}" for name in ("DDIM", "NMG") for variant in variants} < {m for m, _, _ in lines(table)}
    assert "No row: NMG, edit-friendly: refused on 1 of 1 items" in text.read_text()
    assert chart.name == "robustness-prompttoprompt.png" and "inversion seconds" in text.read_text()


def test_sheets_show_the_ready_examples(make, picture, monkeypatch):
    example = Example(picture, "a cat", "a dog", nmg.PromptToPrompt(), picture)
    monkeypatch.setattr(artefacts, "examples_of", lambda pipe: Pictures({"swap": {"swap": example}}))
    drawn, draw = [], sheets.sheet
    monkeypatch.setattr(sheets, "sheet", lambda *a, **o: drawn.append(draw(*a, **o)) or drawn[-1])
    (path,) = make(methods=("DDIM",)).sheets()
    # Source, edit and truth.
    assert path.name == "sheet-prompttoprompt.png" and len(drawn[0].axes) == 3


def test_chosen_scales_are_used(pipe, tmp_path):
    scales = {"NMG, unbounded": {"PromptToPrompt": 3.0}}
    (tmp_path / "scales.json").write_text(json.dumps({"scales": scales}))
    assert Paper(pipe, tmp_path, Menagerie())._scales() == scales
    assert Paper(pipe, tmp_path, scales=5)._scales() == 5.0
    # Else the model's own, which the bundled one leaves to the guidance.
    assert Paper(pipe, tmp_path / "elsewhere", Menagerie())._scales() is None


def test_the_paper_s_methods_are_known():
    assert set(artefacts.COMPARED) <= set(METHODS)
    for variant in artefacts.VARIANTS:
        assert on_variant("NMG", variant).name == f"NMG{variant}"
