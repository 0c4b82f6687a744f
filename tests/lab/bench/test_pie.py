import argparse
import json

import numpy as np
import pytest
import torch

import nmg
from nmg import Backbone, images
from nmg.editors import LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.lab import metrics
from nmg.lab.bench import annotations, command, judges, pie, read, run
from nmg.lab.bench.annotations import decode
from nmg.lab.bench.pie import PieBench
from nmg.menagerie import Scene
from tests.lab.bench.drawn import write

OUTSIDE = ("psnr_outside", "mse_outside", "ssim_outside", "lpips_outside")
LEARNED = {"structure", "clip", "clip_edited", "lpips_outside", "clip_direction", "dino", "dreamsim"}


@pytest.fixture(scope="module")
def bench(tmp_path_factory):
    red = Scene("cat", "red", "forest", seed=1)
    scenes = {
        "000000000000": (red, {"colour": "blue"}, 6, "red blue"),
        "000000000001": (red, {"kind": "dog"}, 1, "cat puppy"),
        "000000000002": (red, {"style": "at night"}, 9, ""),
        "000000000003": (Scene("dog", "white", "snow", seed=2), {"colour": "blue"}, 6, "white blue"),
    }
    return PieBench(write(tmp_path_factory.mktemp("pie"), scenes))


# ---------------------------------------------------------------- the folder


def test_tasks_are_kinds_of_edit_by_editor(bench):
    assert bench.tasks[:3] == tuple(
        f"{kind} by Prompt-to-Prompt" for kind in ("change object", "change colour", "change style")
    )
    assert len(bench.tasks) == 9
    assert bench.items("change colour by MasaCtrl", "test", None) == ["000000000000", "000000000003"]
    assert bench.items("change colour by MasaCtrl", "test", 1) == ["000000000000"]


def test_the_mask_lies_where_the_edit_belongs(bench, tiny):
    scene = Scene("cat", "red", "forest", seed=1)
    inner = (slice(1, -1), slice(1, -1))
    plain = PieBench(bench.folder, border=False)
    entry = plain.entries["000000000000"]
    assert np.array_equal(
        decode(entry.runs, scene.render().size, border=False), scene.changed(scene.edit(colour="blue"))
    )
    case = plain.case("change colour by MasaCtrl", "000000000000", Backbone(tiny()))
    assert case.picture.size == (32, 32) and case.truth.shape == (1, 1, 32, 32)
    small = scene.changed(scene.edit(colour="blue"), 32)
    assert (case.truth[0, 0].numpy()[inner] == small[inner]).mean() > 0.95


@pytest.mark.parametrize("missing", [annotations.MAPPING, annotations.PICTURES])
def test_another_folder_is_refused(tmp_path, missing):
    for name in {annotations.MAPPING, annotations.PICTURES} - {missing}:
        (tmp_path / name).mkdir()
    with pytest.raises(FileNotFoundError, match="is no PIE-Bench; give the folder that holds mapping_file.json"):
        PieBench(tmp_path)


# ---------------------------------------------------------------- editors


def test_prompt_to_prompt_runs_as_published(bench):
    assert bench.editor("change colour by Prompt-to-Prompt", "000000000000") == PromptToPrompt(
        mode="refine",
        cross_replace=0.4,
        self_replace=0.6,
        weights={"blue": 2.0},
        local_blend=LocalBlend((("red",), ("blue",))),
    )


def test_a_word_that_its_prompt_lacks_is_left_out_alone(bench):
    editor = bench.editor("change object by Prompt-to-Prompt", "000000000001")
    assert editor.local_blend == LocalBlend((("cat",), ())) and not editor.weights
    plain = bench.editor("change style by Prompt-to-Prompt", "000000000002")
    assert plain.local_blend is None and not plain.weights


def test_a_blend_without_a_word_returns_the_source(tiny, picture):
    """As in the published runs: no place is marked, so the target becomes the source."""
    values = {"image_path": "a.png", "editing_type_id": "1", "blended_word": "fox wolf", "mask": []}
    entry = annotations.Entry.read({**values, "original_prompt": "a cat", "editing_prompt": "a dog"})
    result = nmg.edit(
        tiny(), picture, entry.source, [entry.target], editor=pie.prompt_to_prompt(entry), steps=4, progress=False
    )
    assert np.array_equal(*map(np.asarray, (result.pictures[0], result.reconstruction)))


def test_the_other_editors_run_as_published(bench):
    assert bench.editor("change colour by MasaCtrl") == MasaCtrl()
    assert bench.editor("change colour by pix2pix-zero") == Pix2PixZero(amount=0.1)


def test_masactrl_has_no_source_prompt(bench, tiny):
    backbone, entry = Backbone(tiny()), bench.entries["000000000000"]
    sources = {name: bench.case(f"change colour by {name}", "000000000000", backbone) for name in pie.EDITORS}
    assert {name: case.source for name, case in sources.items()} == {
        "Prompt-to-Prompt": entry.source,
        "MasaCtrl": "",
        "pix2pix-zero": entry.source,
    }
    assert {case.target for case in sources.values()} == {entry.target}


# ---------------------------------------------------------------- scores


@pytest.fixture(scope="module")
def scored(bench, tiny):
    """A case, an edited picture, and its scores."""
    backbone = Backbone(tiny())
    case = bench.case("change colour by MasaCtrl", "000000000000", backbone)
    edited = (images.to_tensor(case.picture) + 0.1 * torch.randn(1, 3, 32, 32)).clamp(0, 1)
    return case, edited, bench.score(case, edited, backbone)


def newer(monkeypatch, seen=None):
    """Stand-ins for the networks of the measures that papers have added to the published protocol."""

    def direction(edited, source, targets, prompts):
        (seen if seen is not None else {})["direction"] = (targets, prompts)
        return torch.tensor([0.4])

    monkeypatch.setattr(metrics, "ClipDirection", lambda device: direction)
    monkeypatch.setattr(metrics, "DinoSimilarity", lambda device: lambda a, b: torch.tensor([0.9]))
    monkeypatch.setattr(metrics, "DreamSim", lambda device: lambda a, b: torch.tensor([0.0]))


def test_the_background_is_measured_over_the_whole_picture(scored):
    case, edited, (values, _) = scored
    source, background = images.to_tensor(case.picture), (~case.truth).float()
    assert 0 < background.mean() < 1
    squared = ((edited * background - source * background) ** 2).mean().item()
    assert values["mse_outside"] == pytest.approx(squared, rel=1e-5)
    assert values["psnr_outside"] == pytest.approx(-10 * np.log10(squared), rel=1e-5)
    own = metrics.mse(edited, source, ~case.truth).item()
    assert values["mse_outside"] == pytest.approx(own * background.mean().item(), rel=1e-4)
    assert values["ssim_outside"] == pytest.approx(metrics.ssim(edited * background, source * background).item())


def test_metrics_without_weights_are_missing_and_not_tried_again(scored, bench, tiny, monkeypatch):
    _, _, (values, missing) = scored
    assert set(values) | set(missing) == {*LEARNED, "black", "viescore", *OUTSIDE}
    assert set(missing) <= {*LEARNED, "viescore"} and "name a model that sees" in missing["viescore"]
    tried = []

    def absent(a, b):
        tried.append(1)
        raise metrics.Missing("no weights here")

    monkeypatch.setattr(metrics, "ClipScore", lambda device: lambda *given: torch.tensor([30.0]))
    monkeypatch.setattr(metrics, "Lpips", lambda net, device: lambda a, b: torch.tensor([0.2]))
    monkeypatch.setattr(metrics, "StructureDistance", lambda device, peak: absent)
    newer(monkeypatch)
    fresh, backbone = PieBench(bench.folder), Backbone(tiny())
    assert fresh == bench
    case = fresh.case("change colour by MasaCtrl", "000000000000", backbone)
    for _ in range(2):
        values, missing = fresh.score(case, torch.rand(1, 3, 32, 32), backbone)
        assert missing == {"structure": "no weights here", "viescore": judges.UNASKED} and "clip" in values
    assert len(tried) == 1


def test_learned_metrics_are_measured_where_they_can_be(bench, tiny, monkeypatch):
    seen, devices = {}, []

    def clip(device):
        devices.append(device)

        def score(pictures, prompts, region=None):
            seen["whole" if region is None else "edited"] = prompts
            return torch.tensor([30.0 if region is None else 20.0])

        return score

    monkeypatch.setattr(metrics, "ClipScore", clip)
    monkeypatch.setattr(metrics, "StructureDistance", lambda device, peak: lambda a, b: torch.tensor([0.07]))
    monkeypatch.setattr(metrics, "Lpips", lambda net, device: lambda a, b: torch.tensor([0.2]))
    newer(monkeypatch, seen)
    fresh, backbone = PieBench(bench.folder), Backbone(tiny())
    case = fresh.case("change colour by MasaCtrl", "000000000000", backbone)
    values, missing = fresh.score(case, images.to_tensor(case.picture), backbone)
    assert values["clip"] == 30 and values["clip_edited"] == 20 and values["structure"] == pytest.approx(0.07)
    assert seen == {
        "whole": [case.target],
        "edited": [case.target],
        "direction": ([case.target], [fresh.entries[case.item].source]),
    }
    assert (values["clip_direction"], values["dino"]) == pytest.approx((0.4, 0.9)) and values["dreamsim"] == 0
    # Not on the device whose memory is measured.
    assert set(devices) == {"cpu"}
    # The source itself: its background is exact.
    assert set(missing) == {"psnr_outside", "viescore"} and values["mse_outside"] == 0


def test_an_edit_of_everything_has_no_background(bench, tiny):
    backbone = Backbone(tiny())
    case = bench.case("change style by MasaCtrl", "000000000002", backbone)
    case.truth[:] = True
    values, missing = bench.score(case, torch.rand(1, 3, 32, 32), backbone)
    assert not set(OUTSIDE) & set(values) and {missing[name] for name in OUTSIDE} == {"the region holds no pixel"}


# ---------------------------------------------------------------- a run


def test_a_run_edits_every_picture_by_its_editor(bench, tiny, tmp_path):
    tasks = ["change colour by Prompt-to-Prompt", "change object by MasaCtrl"]
    options = {"steps": 5, "progress": False}
    found = run(tiny(), bench, ["DDIM", "NMG"], tasks, None, tmp_path, **options)
    assert [(r.item, r.method) for r in found] == [
        (item, method)
        for item in ("000000000000", "000000000003", "000000000001")
        for method in ("identity", "DDIM", "NMG")
    ]
    assert all(r.refused is None for r in found), [r.refused for r in found]
    nmg_record = next(r for r in found if r.method == "NMG" and r.item == "000000000000")
    assert nmg_record.scale is None and nmg_record.settings["guidance"]["text_scale"] == 7.5
    assert nmg_record.settings["editor"]["weights"] == {"blue": 2.0} and "mse_outside" in nmg_record.metrics
    assert read(tmp_path) and run(tiny(), bench, ["DDIM", "NMG"], tasks, None, tmp_path, **options) == found
    assert json.loads((tmp_path / "run.json").read_text())["border"] is True


def test_a_run_of_another_mapping_file_is_refused(bench, tiny, tmp_path):
    options = {"steps": 2, "progress": False}
    run(tiny(), bench, [], ["change style by MasaCtrl"], None, tmp_path / "out", **options)
    other = PieBench(write(tmp_path, {"0": (Scene(seed=1), {"colour": "blue"}, 6, "")}))
    with pytest.raises(ValueError, match="mapping"):
        run(tiny(), other, [], None, None, tmp_path / "out", **options)


def test_the_command_names_a_kind_for_all_editors(bench):
    parser = argparse.ArgumentParser()
    command.add(parser.add_subparsers())
    given = ["bench", "--pie-bench", str(bench.folder)]
    chosen = command._chosen(parser.parse_args([*given, "--tasks", "change colour"]), bench)
    assert len(chosen["tasks"]) == 3 and chosen["scales"] == "default" and chosen["scenes"] is None
    one = command._chosen(parser.parse_args([*given, "--editors", "PromptToPrompt"]), bench)
    assert one["tasks"] == list(bench.tasks[:3])
