"""The baseline computes what this package computes."""

import pytest
import torch

from nmg import CFG, Backbone, Editor, LocalBlend, MasaCtrl, NoiseMap, Pix2PixZero, PromptToPrompt, edit
from scripts import baseline
from tests.conftest import TARGET

# The gradient of L1 is a sign, which rounding turns. The published step has no bound.
GUIDANCE = NoiseMap(energy="l2", noise_map_scale=2.0, text_scale=3.0, bound=None)
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
