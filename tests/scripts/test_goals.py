"""What the model must show: each goal is met or says by how much it is missed."""

import json
import math

import pytest

from nmg.menagerie.scene import FACTORS
from scripts import card
from scripts.goals import COMPARING, Goal, goals

GOOD = {"psnr": 20.0, "success": 1.0, "psnr_outside": 25.0, "reconstruction_psnr": 30.0}
SOURCE = {"psnr": 15.0, "success": 0.0, "psnr_outside": None, "reconstruction_psnr": None}
POOR = {"psnr": 18.0, "success": 1.0, "psnr_outside": 20.0, "reconstruction_psnr": 15.0}
TASKS = {
    f"task {i}": {"identity": SOURCE, "ceiling": {**GOOD, "psnr": None}, "DDIM": POOR, "NMG": GOOD} for i in range(9)
}
REPORT = {
    "scenes": 2,
    "steps": 50,
    "scales": {"noise_map_scale": 30.0, "text_scale": 3.0},
    "trained": {"untouched": 0},
    "autoencoder": {
        "psnr": 29.0,
        "ssim": 0.9,
        "scenes": 8,
        "accuracy_on_originals": dict.fromkeys(FACTORS, 1.0),
        "accuracy_on_reconstructions": dict.fromkeys(FACTORS, 0.99),
    },
    "words": {name: {"overlap": 0.9, "mean_mask": 0.6} for name in ("kind", "colour", "place")},
    "generation": {"captions": 8, "guidance": 3.0, "accuracy": dict.fromkeys(FACTORS, 0.96)},
    "reconstruction": {"scenes": 2, "steps": 50, "psnr": {"DDIM, scale 1": 39.0}},
    "edits": {
        "everyday": TASKS,
        "strong": TASKS,
        "whole": {"task 0": {COMPARING: POOR}},
        "blended": {"task 0": {COMPARING: GOOD}},
        "held": {"task 0": 0.1},
    },
}


def changed(value, *path):
    """The report with another value at a place."""
    report = inside = json.loads(json.dumps(REPORT))
    for name in path[:-1]:
        inside = inside[name]
    inside[path[-1]] = value
    return report


def missed(report):
    return {goal.what: goal.short for goal in goals(report) if goal.short}


def test_a_model_that_shows_all_meets_every_goal():
    assert missed(REPORT) == {} and len(goals(REPORT)) == 17 + 9 + 1 + 2 + 1 + 2
    assert all(goal.row[-1] == "yes" for goal in goals(REPORT))


@pytest.mark.parametrize(
    ("value", "path", "what", "short"),
    [
        (3, ("trained", "untouched"), "tensors that training did not reach", 3),
        (26.5, ("autoencoder", "psnr"), "autoencoder's PSNR, dB", 1.5),
        (0.9, ("autoencoder", "accuracy_on_reconstructions", "pose"), "factor that the classifier reads worse", 0.08),
        (0.85, ("generation", "accuracy", "mouth"), "generated pictures read back: mouth", 0.05),
        (0.7, ("words", "kind", "overlap"), "overlap of the kind's word map", 0.05),
        (0.95, ("words", "place", "mean_mask"), "… above that of the mean mask", 0.05),
        ({**GOOD, "success": 0.5}, ("edits", "everyday", "task 1", "NMG"), "success: task 1", 0.45),
        (GOOD, ("edits", "whole", "task 0", COMPARING), "local blend, task 0: PSNR outside", 3),
        ({**POOR, "success": 1.25}, ("edits", "whole", "task 0", COMPARING), "local blend, task 0: success", 0.25),
        (0.0, ("edits", "held", "task 0"), "mean difference of edits by self_replace", 5),
        (None, ("edits", "everyday", "task 2", "NMG", "success"), "success: task 2", math.inf),
    ],
    ids=lambda value: value[-1] if isinstance(value, tuple) else None,
)
def test_what_is_missed_is_said_with_by_how_much(value, path, what, short):
    ((found, by),) = missed(changed(value, *path)).items()
    assert found.startswith(what) and by == pytest.approx(short)


def test_tasks_that_do_worse_than_the_source_are_counted():
    report = json.loads(json.dumps(REPORT))
    for i in range(3):
        report["edits"]["everyday"][f"task {i}"]["NMG"] = {**GOOD, "psnr": 14.0}
    assert missed(report) == {"tasks of 9 with a PSNR above returning the source": 1}


def test_gains_at_the_strong_scale_are_means_over_tasks():
    report = json.loads(json.dumps(REPORT))
    report["edits"]["strong"]["task 0"]["NMG"] = {**GOOD, "reconstruction_psnr": 15.0 - 45.0, "psnr": 18.0}
    assert missed(report) == {
        "text scale 7.5, reconstruction: NMG above plain DDIM by, dB": pytest.approx(10 - (8 * 15 - 45) / 9),
    }


def test_a_goal_writes_its_row():
    assert Goal("PSNR, dB", 28, 26.9, ".1f").row == ["PSNR, dB", "≥ 28.0", "26.9", "short by 1.1"]
    assert Goal("lost", 0.02, 0.01, most=True).row == ["lost", "≤ 0.02", "0.01", "yes"]
    assert Goal("success", 0.9, None).row == ["success", "≥ 0.90", "–", "not measured"]


def test_the_card_has_a_row_for_every_goal_and_task():
    curve = [{"samples": 10.0, "minutes": 1.0}]
    training = {
        "parameters": {"unet": 4_280_000},
        "stages": {"unet": {"samples": 1000, "minutes": 3.0}},
        "settings": {"seed": 0},
        "hardware": "2 CPU cores",
        "curves": {"unet": curve},
    }
    text = card.write(training, REPORT)
    assert all(f"| {' | '.join(goal.row)} |" in text for goal in goals(REPORT))
    assert "32 of 32 are met. 2 held-out scenes" in text and "128×128 pixels" in text
    assert text.count("| task 8 | 0.00 / 15.0 | 1.00 / ∞ | 1.00 / 18.0 | 1.00 / 20.0 |") == 2
