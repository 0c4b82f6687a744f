import subprocess
import sys

from nmg import Backbone
from nmg.request import Request
from scripts import measure, speed


def test_every_editor_has_every_prompt(tiny):
    """The settings that are measured can be prepared for one target and for two."""
    backbone = Backbone(tiny())
    assert tuple(measure.EDITORS) == speed.EDITORS
    for count in (1, 2):
        for make in measure.EDITORS.values():
            source, *targets = measure.PROMPTS[: 1 + count]
            Request("", source, targets, editor=make(count), steps=2).resolved(backbone).check(backbone)


def test_clock_takes_the_median_after_the_first():
    clock = measure.Clock("cpu")
    clock.seconds = [9.0, 1.0, 3.0, 2.0]
    assert clock.per_step(4) == 2.0
    # Two loops of two steps: one step of each makes a step of the edit.
    assert clock.per_step(2) == 1.0 + 2.0
    clock.seconds = [9.0]
    assert clock.per_step(1) == 9.0


HELD = """
import torch
from scripts import measure
memory = measure.Memory("cpu")
block = torch.ones(64 * 2**20, dtype=torch.uint8)
assert memory.peak >= memory.loaded + 0.9 * len(block) / 2**20, (memory.peak, memory.loaded)
"""


def test_memory_sees_what_was_held():
    # In a process of its own: memory that another test gave back is held without being taken anew.
    subprocess.run([sys.executable, "-c", HELD], check=True)
