"""Every measurement is made once and kept, and edits are summed up by task and method."""

import dataclasses
import math

import pytest
from PIL import Image

import nmg
from nmg.backbones import Backbone
from nmg.editors import LocalBlend, PromptToPrompt
from nmg.lab.bench import Menagerie
from nmg.lab.profile import MENAGERIE
from nmg.lab.scoring import INFINITE
from nmg.menagerie.model import FOLDER
from nmg.menagerie.tasks import TASKS
from scripts import evaluate
from scripts.evaluate import Blended, Evaluation
from tests.lab.bench.made import record

TASK = "colour change"
PRESETS = {TASK: PromptToPrompt(self_replace=0.5)}


@pytest.fixture
def evaluation(tiny, tmp_path):
    """Of the tiny model, with the bundled one's classifier and scales."""
    made = Evaluation(FOLDER, tmp_path, 1, 2)
    vars(made).update(backbone=Backbone(tiny()), profile=MENAGERIE)
    return made


def test_a_measurement_is_made_once_for_each_model_and_setting(evaluation, build):
    calls = []
    for one in (evaluation, evaluation, dataclasses.replace(evaluation, scenes=2)):
        vars(one).setdefault("backbone", evaluation.backbone)
        assert one.kept("x", lambda: calls.append(1) or {"found": len(calls)}) == {"found": len(calls)}
    assert len(calls) == 2
    other = build()
    next(other.unet.parameters()).data.add_(1)
    vars(evaluation)["backbone"] = Backbone(other)
    assert evaluation.kept("x", lambda: "again") == "again"


def test_edits_are_made_once(evaluation, monkeypatch):
    suite = Menagerie(FOLDER, PRESETS)
    (rows,) = evaluate.by_task(found := evaluation.edits("edits", suite)).values()
    assert (
        set(rows) == {"identity", "ceiling", "DDIM", "NMG"} and 0 < rows["NMG"]["psnr"] < rows["ceiling"]["psnr"] + 60
    )
    assert {r.steps for r in found} == {2} and found[-1].settings["editor"]["self_replace"] == 0.5
    monkeypatch.setattr(nmg, "invert", lambda *_, **__: pytest.fail("it was measured again"))
    assert evaluation.edits("edits", suite) == found


def test_a_blended_edit_names_the_figure_in_both_prompts():
    for task in evaluate.BLENDED:
        suite = Blended(FOLDER, {task: PromptToPrompt()})
        ((scene, target),) = TASKS[task].scenes(7, 1)
        assert suite.editor(task, 7) == PromptToPrompt(local_blend=LocalBlend((scene.kind, target.kind)))
        assert suite.editor(task) == PromptToPrompt()


def test_means_leave_out_what_has_no_value():
    rows = [record(metrics={"psnr": value, "success": 1.0}) for value in (20.0, 30.0)]
    found = evaluate.summary(rows)
    assert found == {**dict.fromkeys(evaluate.MEANS), "psnr": 25.0, "success": 1.0}
    exact = record(metrics={"success": 1.0}, missing={"psnr": INFINITE})
    assert evaluate.summary([*rows, exact])["psnr"] is None and evaluate.summary([*rows, exact])["exact"] == 1
    lost = evaluate.summary([*rows, record(refused="it can't be")])
    assert (lost["psnr"], lost["without"], lost["reason"]) == (None, 1, "it can't be")
    assert not any(isinstance(value, float) and math.isinf(value) for value in found.values())


def test_two_runs_differ_by_their_pictures(tmp_path):
    runs = {}
    for name, grey in (("one", 0), ("other", 51)):
        (folder := tmp_path / name).mkdir()
        Image.new("RGB", (32, 32), (grey, grey, grey)).save(folder / "edit.png")
        runs[folder] = [record(method="identity"), record(method=evaluate.COMPARING, pictures={"edit": "edit.png"})]
    assert evaluate.apart(runs) == {TASK: pytest.approx(0.2)}
