import dataclasses
import json

import pytest

from nmg.lab.bench import METHODS, Menagerie, chosen_scales, read, run, tune, tuning
from nmg.lab.bench.pictures import Pictures
from nmg.lab.bench.suites import SEEDS
from nmg.lab.presets import Example
from tests.lab.bench.made import OTHER, STEPS, TASK, Counting, record


def test_the_scale_with_the_best_mean_is_chosen_per_editor(pipe, tmp_path):
    counting = Counting()
    method = dataclasses.replace(METHODS["NMG"], grid=(0.0, 50.0))
    chosen = tune(pipe, Menagerie(), [method, "DDIM"], [TASK, OTHER], 2, tmp_path, callback=counting, **STEPS)
    rows = read(tmp_path)
    assert {r.split for r in rows} == {"validation"} and {r.item for r in rows} == set(SEEDS["validation"][:2])
    assert {r.method for r in rows} == {"NMG"} and len(counting.keys) == 8
    report = json.loads((tmp_path / "scales.json").read_text())
    assert report["scales"] == chosen == chosen_scales(tmp_path) and report["split"] == "validation"
    assert set(chosen) == {"NMG"}
    for editor, task in (("PromptToPrompt", TASK), ("MasaCtrl", OTHER)):
        tried = {scale: [r for r in rows if (r.task, r.scale) == (task, scale)] for scale in method.grid}
        means = {f"{k:g}": sum(r.metrics["psnr"] for r in some) / 2 for k, some in tried.items()}
        assert chosen["NMG"][editor] == tuning.best(tried)
        assert {k: v["psnr"] for k, v in report["means"]["NMG"][editor].items()} == pytest.approx(means)
    found = run(pipe, Menagerie(), [method], [TASK], 1, tmp_path, scales=chosen, **STEPS)
    assert found[-1].scale == chosen["NMG"]["PromptToPrompt"] and found[-1].split == "test"


def test_what_was_chosen_before_for_others_stays():
    before = {"scales": {"NMG": {"MasaCtrl": 3.0}, "other": {"MasaCtrl": 1.0}}, "means": {"NMG": {"MasaCtrl": {}}}}
    after = tuning._extended(before, {"NMG": {"PromptToPrompt": tried({10.0: [20]}, {10.0: [30]})}}, 4)
    assert after["scales"] == {"NMG": {"MasaCtrl": 3.0, "PromptToPrompt": 10.0}, "other": {"MasaCtrl": 1.0}}
    assert after["means"]["NMG"]["PromptToPrompt"] == {"10": {"psnr": 20.0, "reconstruction_psnr": 30.0}}
    assert after["items_per_task"] == 4


def test_a_suite_without_a_validation_split_is_refused(pipe, picture, tmp_path):
    class Tested(Pictures):
        splits = ("test",)

    suite = Tested({"swap": {"one": Example(picture, "a", "b", Menagerie().editor(TASK))}})
    with pytest.raises(ValueError, match="no validation split"):
        tune(pipe, suite, ["NMG"], None, 1, tmp_path, **STEPS)


def tried(edits, kept):
    """Records of an editor by scale, with these PSNRs of edit and reconstruction; None is an exact reconstruction."""

    def measured(scale, item, psnr, reconstruction):
        exact = {} if reconstruction is None else {"reconstruction_psnr": float(reconstruction)}
        return record("NMG", item, split="validation", scale=scale, metrics={"psnr": float(psnr), **exact})

    return {
        scale: [measured(scale, i, *both) for i, both in enumerate(zip(edits[scale], kept[scale], strict=True))]
        for scale in edits
    }


@pytest.mark.parametrize(
    ("edits", "kept", "expected"),
    [
        # Clearly the best edit, whatever it keeps.
        ({3.0: [20, 21, 22], 30.0: [18, 19.1, 20]}, {3.0: [20] * 3, 30.0: [40] * 3}, 3.0),
        # Edits that can't be told apart: what keeps the source better.
        ({3.0: [20, 21, 22.2], 30.0: [20.1, 20.9, 22]}, {3.0: [20] * 3, 30.0: [40] * 3}, 30.0),
        # Equal edits and equal reconstructions: the smaller.
        ({30.0: [20, 21], 3.0: [20, 21]}, {30.0: [30, 30], 3.0: [30, 30]}, 3.0),
        # A reconstruction without an error has no finite PSNR, and is the best.
        ({3.0: [20, 21], 30.0: [20, 21]}, {3.0: [50, 50], 30.0: [None, None]}, 30.0),
        # One edit has no standard error.
        ({3.0: [20], 30.0: [19.99]}, {3.0: [20], 30.0: [40]}, 3.0),
    ],
)
def test_a_scale_is_chosen_by_the_one_standard_error_rule(edits, kept, expected):
    assert tuning.best(tried(edits, kept)) == expected


def test_an_editor_that_refuses_every_scale_is_an_error():
    lost = record("NMG", scale=3.0, refused="no maps")
    with pytest.raises(ValueError, match="no noise-map scale of NMG can be chosen with PromptToPrompt.*no maps"):
        tuning.by_editor([lost], dataclasses.replace(METHODS["NMG"], grid=(3.0,)))
