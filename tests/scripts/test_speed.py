"""The measurements of time and memory: their baseline computes what this package computes, each measurement runs,
and tables hold its numbers."""

import json
import sys

import pytest
import torch

from nmg import CFG, Backbone, Editor, LocalBlend, MasaCtrl, NoiseMap, Pix2PixZero, PromptToPrompt, edit
from nmg.request import Request
from scripts import baseline, measure, models, speed, speed_table

TARGET = "a blue cat sitting in the forest, front view"
# The gradient of L1 is a sign, which rounding turns.
GUIDANCE = NoiseMap(energy="l2", noise_map_scale=2.0, text_scale=3.0)
METHODS = {
    "none": Editor(),
    "words": PromptToPrompt(cross_replace=0.8, self_replace=0.5),
    "words, all steps": PromptToPrompt(cross_replace=1.0, self_replace=1.0),
    "words, blend": PromptToPrompt(local_blend=LocalBlend(("red", "blue"), start=0.25, threshold=0.9)),
    "mutual": MasaCtrl(start_step=0, start_layer=1),
    "mutual, late": MasaCtrl(start_step=2),
    "maps": Pix2PixZero(amount=0.15),
}


@pytest.fixture(scope="module")
def own(build):
    """A backbone of its own, whose parameters the baseline may change the gradients of."""
    return Backbone(build())


@pytest.mark.parametrize("name", METHODS)
def test_baseline_agrees(own, trajectory, name):
    ours = edit(own, trajectory, targets=[TARGET], guidance=GUIDANCE, editor=METHODS[name], progress=False).latents
    *_, theirs = baseline.denoise(own, trajectory, TARGET, GUIDANCE, METHODS[name])
    unguided = edit(own, trajectory, targets=[TARGET], guidance=CFG(3.0), editor=METHODS[name], progress=False).latents
    assert min((ours[0] - ours[1]).abs().max(), (ours[0] - unguided[0]).abs().max()) > 0.02
    torch.testing.assert_close(theirs, ours, rtol=1e-3, atol=1e-3)


def test_baseline_blend_restricts_the_edit(own, trajectory):
    """Else the case above would show nothing."""
    x = [step for step in baseline.denoise(own, trajectory, TARGET, GUIDANCE, METHODS["words, blend"])][-1]
    same = (x[0] == x[1]).all(0)
    assert same.any() and not same.all()


def test_baseline_leaves_gradients_as_published(own, trajectory):
    own.unet.zero_grad()
    *_, _ = baseline.denoise(own, trajectory, TARGET, GUIDANCE, PromptToPrompt())
    assert all(p.requires_grad and p.grad is None for p in own.unet.parameters())
    *_, _ = baseline.denoise(own, trajectory, TARGET, GUIDANCE, Pix2PixZero())
    held = {name for name, p in own.unet.named_parameters() if p.grad is not None}
    assert any(".attn2.to_q." in name for name in held) and not any(".attn1." in name for name in held)


def test_baseline_refuses_what_it_has_not(own, trajectory):
    with pytest.raises(NotImplementedError, match="words"):
        baseline.denoise(own, trajectory, TARGET, GUIDANCE, MasaCtrl(words=("cat", "cat")))


def test_every_editor_has_every_prompt(own):
    """The settings that are measured can be prepared for one target and for two."""
    assert tuple(measure.EDITORS) == speed.EDITORS
    for count in (1, 2):
        for make in measure.EDITORS.values():
            source, *targets = measure.PROMPTS[: 1 + count]
            Request("", source, targets, editor=make(count), steps=2).resolved(own).check(own)


def test_clock_takes_the_median_after_the_first():
    clock = measure.Clock("cpu")
    clock.seconds = [9.0, 1.0, 3.0, 2.0]
    assert clock.per_step(4) == 2.0
    # Two loops of two steps: one step of each makes a step of the edit.
    assert clock.per_step(2) == 1.0 + 2.0
    clock.seconds = [9.0]
    assert clock.per_step(1) == 9.0


def test_memory_sees_what_was_held():
    memory = measure.Memory("cpu")
    block = torch.ones(64 * 2**20, dtype=torch.uint8)
    assert memory.peak >= memory.loaded + 0.9 * len(block)


ROW = {
    "editor": "masactrl", "measurement": "first", "steps": 3, "seconds_per_step": 2.0, "seconds": 7.0, "peak_gib": 5.0,
    "loaded_gib": 4.0, "device": "CPU", "threads": 2, "dtype": "float32", "decoded": False, "pixels": 512,
    "parameters_million": 860, "torch": "2", "run": "a",
}  # fmt: skip
RUN = [
    ROW | {"measurement": "baseline", "seconds_per_step": 6.0, "peak_gib": 10.0},
    ROW,
    ROW | {"measurement": "again", "seconds_per_step": 1.0},
    ROW | {"measurement": "two-targets", "seconds_per_step": 2.5},
]


def test_ratios_are_to_the_baseline():
    text = speed_table.printed(speed_table.by_measurement(RUN))
    line = next(line for line in text.splitlines() if line.startswith("first"))
    assert line.split() == ["first", "2.000", "5.00", "1.00", "3.00×", "50%", "17%"]
    assert "again is 2.00× faster than first" in text
    assert "a further target takes 0.500 s/step, 25% of the first's" in text


def test_rounds_are_merged():
    rows = speed_table.by_measurement([ROW, ROW | {"seconds_per_step": 4.0, "peak_gib": 6.0}])
    assert (rows["first"]["seconds_per_step"], rows["first"]["peak_gib"]) == (3.0, 6.0)


def test_markdown_takes_the_medians_of_all_rounds_and_parts_the_machines():
    rounds = [
        row | {"run": run, "seconds_per_step": seconds} for row in RUN for run, seconds in (("0", 0.1), ("1", 99.0))
    ]
    gpu = [row | {"device": "a GPU", "threads": None, "decoded": True} for row in RUN]
    text = speed_table.markdown([*rounds, *RUN, *gpu])
    assert (
        "99" not in text
        and "; medians of 3 rounds." in text
        and "; one round." in text
        and text.count("| MasaCtrl |") == 2
    )
    assert (
        "| MasaCtrl | 6 s, 10.0 GiB | 2 s (3.0×), 5.0 GiB (50%) | 1 s (6.0×), 5.0 GiB (50%) | 0.5 s (25% of the first) "
        "|" in text
    )
    assert "CPU with 2 threads, float32" in text and "Seconds per edit" in text and "Seconds per step" in text
    assert "a GPU, float32" in text and "median of the 2 steps after the first" in text


@pytest.fixture
def quick(monkeypatch):
    """A measurement in this process, which takes less than a fresh one, on a smaller network."""

    def measured(editor, measurement, options, give_back=False):
        row = measure.measure(measure.arguments_of([editor, measurement, *options]))
        return row | ({"peak_gib": 100 + row["steps"], "loaded_gib": 50} if give_back else {})

    monkeypatch.setattr(speed, "measured", measured)
    monkeypatch.setattr(models, "SMALL", models.Size(16, (32, 32, 32, 32), (32, 32, 32, 32), text=24, text_layers=1))


def test_one_command_measures_an_editor(tmp_path, monkeypatch, capsys, quick):
    rows = tmp_path / "rows.jsonl"
    command = f"speed.py none --small --steps 3 --threads 1 --device cpu --baseline --json {rows}"
    monkeypatch.setattr(sys, "argv", command.split())
    speed.main()
    measured = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["measurement"] for row in measured] == ["baseline", "first", "again", "two-targets"]
    # The memory is that of two steps in a process of their own.
    assert all(row["peak_gib"] == 102 and row["loaded_gib"] == 50 for row in measured)
    assert all(row["steps"] == 3 and row["seconds_per_step"] > 0 and 50 > row["process_gib"] > 0 for row in measured)
    assert "again is" in capsys.readouterr().out


def test_memory_is_measured_without_the_holes_of_the_heap(tmp_path, monkeypatch):
    script = tmp_path / "says.py"
    script.write_text("import json, os\nprint(json.dumps(os.environ.get('MALLOC_MMAP_THRESHOLD_')))")
    monkeypatch.setattr(speed, "MEASURE", (str(script),))
    monkeypatch.delenv("MALLOC_MMAP_THRESHOLD_", raising=False)
    assert speed.measured("none", "first", []) is None
    assert int(speed.measured("none", "first", [], give_back=True)) == 2**20


def test_failed_measurement_is_said(tmp_path, monkeypatch):
    script = tmp_path / "fails.py"
    script.write_text("raise MemoryError('no room')")
    monkeypatch.setattr(speed, "MEASURE", (str(script),))
    with pytest.raises(RuntimeError, match="none, first: exit 1\\n(.*\n)*MemoryError: no room"):
        speed.measured("none", "first", [])
