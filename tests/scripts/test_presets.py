"""Presets are chosen on validation scenes, kept, and found beside the model."""

import json

import pytest

import nmg
from nmg.backbones import Backbone
from nmg.editors import FlowEdit, MasaCtrl, PromptToPrompt
from nmg.lab.bench import Menagerie
from nmg.lab.presets import FILE, UNCHOSEN, chosen
from nmg.menagerie.model import FOLDER
from nmg.menagerie.tasks import VALIDATION_SEEDS
from nmg.serialize import packed
from scripts import presets

TASK = "colour change"


@pytest.fixture
def few(monkeypatch):
    monkeypatch.setitem(presets.GRID, PromptToPrompt, {"cross_replace": (0.2, 0.8), "self_replace": (0.0,)})


def test_every_setting_of_the_grid_is_tried():
    tried = presets.candidates(MasaCtrl(threshold=0.3))
    assert len(tried) == len(set(tried)) == 25 and {editor.threshold for editor in tried} == {0.3}


def test_success_comes_first_and_then_the_psnr(few):
    one, other = map(presets.named, presets.candidates(UNCHOSEN[TASK]))
    scenes = [{one: {"success": a, "psnr": 20.0}, other: {"success": b, "psnr": 30.0}} for a, b in ((1, 1), (1, 0))]
    assert presets.best(TASK, scenes).cross_replace == 0.2
    assert presets.best(TASK, scenes[:1]).cross_replace == 0.8


def test_a_scene_is_tried_once(few, monkeypatch):
    backbone = Backbone(nmg.load("menagerie"))
    given = (backbone, FOLDER, TASK, VALIDATION_SEEDS, 2)
    found = presets.attempts(*given, {})
    assert list(found) == [presets.named(editor) for editor in presets.candidates(UNCHOSEN[TASK])]
    assert all(values["psnr"] > 5 and values["success"] in (0, 1) for values in found.values())
    monkeypatch.setattr(nmg, "invert", lambda *_, **__: pytest.fail("it was tried again"))
    assert presets.attempts(*given, found) == found


def test_a_further_editor_is_tried_on_the_inversion_it_is_published_with(monkeypatch):
    monkeypatch.setitem(presets.GRID, FlowEdit, {"source_scale": (1.0, 3.0)})
    inverted, invert = [], nmg.invert
    monkeypatch.setattr(nmg, "invert", lambda *given, **own: inverted.append(own["inversion"]) or invert(*given, **own))
    task = f"{TASK} by FlowEdit"
    found = presets.attempts(Backbone(nmg.load("menagerie")), FOLDER, task, VALIDATION_SEEDS, 4, {})
    assert inverted == [FlowEdit().inversion()] and {presets.best(task, [found])} <= {
        FlowEdit(source_scale=scale) for scale in (1.0, 3.0)
    }


def test_presets_lie_beside_the_model(tmp_path):
    assert chosen(tmp_path) == UNCHOSEN
    editor = PromptToPrompt(cross_replace=0.1)
    (tmp_path / FILE).write_text(json.dumps({TASK: packed(editor)}))
    assert chosen(tmp_path) == {**UNCHOSEN, TASK: editor} and set(chosen(tmp_path)) == {
        *Menagerie().tasks,
        *Menagerie().further,
    }
