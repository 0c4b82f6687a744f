"""Edits on a device that is not there: the same as on the CPU, and nothing is left behind there."""

import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import (
    CFG,
    Direct,
    EditFriendly,
    FixedPoint,
    MasaCtrl,
    NoiseMap,
    NullText,
    Pix2PixZero,
    PromptToPrompt,
    Regularised,
    UniInv,
)
from nmg.editors import LocalBlend
from tests import families
from tests.rehearsal import DEVICE, There, moved, rehearsal

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"
MODELS = {"xl": families.sdxl, "sd3": families.sd3}
P2P = PromptToPrompt(local_blend=LocalBlend(("cat", "cat")), weights={"blue": 2.0})
GENTLE = NoiseMap(text_scale=3.0, gradient_scale=2.0)
CASES = [
    ("xl", GENTLE, P2P, nmg.DDIM(), 19),
    (
        "xl",
        NullText(3.0, iterations=1),
        MasaCtrl(start_step=0, start_layer=0, words=("cat", "cat")),
        FixedPoint(2),
        198,
    ),
    ("xl", Direct(3.0), Pix2PixZero(), Regularised(rounds=1), 16),
    ("xl", CFG(3.0), PromptToPrompt(), EditFriendly(), 14),
    ("sd3", GENTLE, PromptToPrompt(), UniInv(), 19),
    ("sd3", NullText(3.0, iterations=1), MasaCtrl(start_step=0), nmg.DDIM(), 26),
]
"""Model, guidance, editor and inversion, and how often an edit of two steps waits for the device at most."""


def edited(pipe, picture, guidance, editor, inversion):
    options = {"guidance": guidance, "editor": editor, "inversion": inversion, "steps": 2, "progress": False}
    return nmg.edit(pipe, picture, SOURCE, [TARGET], **options)


def named(case):
    return " ".join(part if isinstance(part, str) else type(part).__name__ for part in case[:-1])


@pytest.mark.parametrize("case", CASES, ids=named)
def test_an_edit_on_a_device_is_the_edit_on_the_cpu(picture, case):
    model, *method, waits = case
    expected = edited(MODELS[model](), picture, *method)
    pipe = MODELS[model]()
    moved(*(part for part in pipe.components.values() if isinstance(part, torch.nn.Module)))
    assert pipe._execution_device == DEVICE
    with rehearsal() as log:
        found = edited(pipe, picture, *method)
    assert isinstance(found.latents, There)
    assert_close(found.latents.held, expected.latents, rtol=1e-3, atol=1e-3)
    assert not log.mixed and not log.phantoms
    assert sum(log.waits.values()) <= waits, log.waits


def test_a_tensor_of_the_cpu_that_meets_one_of_the_device_is_seen():
    with rehearsal() as log:
        There(torch.ones(2)) + torch.ones(2)
    assert sum(log.mixed.values()) == 1


def test_a_wait_for_the_device_is_counted():
    with rehearsal() as log:
        assert bool(There(torch.ones(2)).all())
        There(torch.ones(2))[There(torch.tensor([True, False]))]
    assert sum(log.waits.values()) == 2
