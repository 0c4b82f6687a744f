import dataclasses

import pytest
import torch
from torch.testing import assert_close

from nmg import (
    CFG,
    DDIM,
    Backbone,
    Direct,
    Drawn,
    EditFriendly,
    Editor,
    FixedPoint,
    FlowEdit,
    MasaCtrl,
    NoiseMap,
    NullText,
    PromptToPrompt,
    Request,
    denoise,
    edit,
    invert,
    prepare,
)
from nmg.levels import predict_clean, predict_noise

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG = SOURCE.replace("red", "blue"), SOURCE.replace("cat", "dog")
QUIET = {"progress": False}
STEPS = 6


@pytest.fixture
def drawn(model, picture):
    """The picture's noise maps, without an inversion."""
    return invert(model, picture, SOURCE, steps=STEPS, inversion=Drawn(), **QUIET)


def edited(model, trajectory, targets, editor, scale, **options):
    """The latents that the targets end at."""
    run = prepare(model, trajectory, targets, **options)
    return list(denoise(run, Direct(scale), editor.prepare(run)))[-1][1][1:]


@torch.no_grad()
def published(model, trajectory, target, source_scale, target_scale, skip):
    """The paper's algorithm 1, on the flow x_τ = z / (a + s), τ = s / (a + s), of any network; its noise is drawn as
    the trajectory's was."""
    text, null = model.texts([SOURCE, target], "")
    clean = edit_ = trajectory.maps[:1]

    def velocity(x, step, row, scale):
        z = x * (step.here.a + step.here.s)
        at = [model.predict(z, step, held) for held in (null, text[row : row + 1])]
        mixed = at[0] + scale * (at[1] - at[0])
        return predict_noise(z, mixed, step.here) - predict_clean(z, mixed, step.here)

    def tau(level):
        return level.s / (level.a + level.s)

    for step in trajectory.steps[skip:]:
        source = trajectory.origin(step) / (step.here.a + step.here.s)
        length = tau(step.there) - tau(step.here)
        own = edit_ + source - clean
        edit_ = edit_ + length * (velocity(own, step, 1, target_scale) - velocity(source, step, 0, source_scale))
    return edit_


# ---------------------------------------------------------------- as published


def test_it_is_the_papers_algorithm_on_the_flow_of_any_network(model, drawn):
    found = edited(model, drawn, [BLUE], FlowEdit(source_scale=2.0), 5.0, skip=1 / 3)
    end = drawn.steps[-1].there
    assert end.a == 1 or end.s > 0
    expected = published(model, drawn, BLUE, 2.0, 5.0, 2)
    if end.s == 0:
        assert_close(found, expected, rtol=1e-4, atol=1e-4)
    else:
        # The last level of Stable Diffusion's schedule is not quite the picture's; map 0 lies there.
        assert_close(found - drawn.maps[:1], (expected - drawn.maps[:1]) * (end.a + end.s), rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("scale", [1.0, 4.0])
def test_with_equal_prompts_and_scales_it_returns_the_picture(model, drawn, scale):
    found = edited(model, drawn, [SOURCE], FlowEdit(source_scale=scale), scale)
    assert_close(found, drawn.maps[:1], rtol=1e-4, atol=1e-4)


def test_other_scales_change_it(model, drawn):
    found = edited(model, drawn, [SOURCE], FlowEdit(source_scale=1.0), 4.0)
    assert (found - drawn.maps[:1]).abs().max() > 1e-3


def test_its_last_steps_are_plain_sampling(backbone, picture):
    drawn = invert(backbone, picture, SOURCE, steps=STEPS, inversion=Drawn(), **QUIET)
    run, editor = prepare(backbone, drawn, [BLUE]), FlowEdit(plain=1 / 3)
    halfway = list(denoise(run, Direct(5.0), editor.prepare(run)))
    before, after = halfway[3][1], halfway[4][1]
    step = drawn.steps[4]
    text = [run.null, run.text]
    eps = torch.cat([backbone.predict(before, step, half) for half in text])
    assert_close(after[1:], run.down(before, Direct(5.0).combine(run, step, eps), step)[1:])


# ---------------------------------------------------------------- rows


def test_several_targets_together_are_each_alone(backbone, picture):
    drawn = invert(backbone, picture, SOURCE, steps=STEPS, inversion=Drawn(), **QUIET)
    together = edited(backbone, drawn, [BLUE, DOG], FlowEdit(), 5.0)
    for row, target in enumerate((BLUE, DOG)):
        alone = edited(backbone, drawn, [target], FlowEdit(), 5.0)
        assert_close(together[row], alone[0], rtol=1e-5, atol=1e-5)


def test_the_source_row_stays_on_its_maps(backbone, picture):
    made = edit(backbone, picture, SOURCE, [BLUE], editor=FlowEdit(), steps=4, **QUIET)
    assert made.drift == 0 and made.request.inversion == Drawn() and made.request.skip == 17 / 50
    assert made.request.guidance == Direct(13.5)


# ---------------------------------------------------------------- the source without a call


@pytest.fixture
def smooth(build):
    """A small network that says little, so that its noise hardly changes from step to step."""
    pipe = build(size=8, levels=1)
    pipe.unet.double()
    pipe.unet.conv_out.weight.data *= 0.1
    return Backbone(pipe)


@pytest.fixture
def batches(smooth, monkeypatch):
    """The number of rows of every prediction."""
    seen, own = [], smooth.predict

    def predict(x, *args, **options):
        seen.append(len(x))
        return own(x, *args, **options)

    monkeypatch.setattr(smooth, "predict", predict)
    return seen


@pytest.fixture
def joined(smooth, picture):
    """Noise maps that DDIM steps join exactly."""
    return invert(smooth, picture, SOURCE, steps=4, inversion=FixedPoint(100, 1e-9), **QUIET)


def test_the_maps_hold_the_noise_of_the_source(smooth, joined):
    (text,) = smooth.text([SOURCE]).split(1)
    for step in joined.steps:
        assert_close(joined.noise(step), smooth.predict(joined.origin(step), step, text), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("source_scale, rows", [(3.5, 4), (1.0, 3)], ids=["guided", "unguided"])
def test_a_step_asks_for_the_source_at_its_scale(smooth, joined, batches, source_scale, rows):
    edited(smooth, joined, [BLUE], FlowEdit(source_scale), 5.0)
    assert batches == [rows] * 4


def test_the_sources_noise_read_off_its_maps_saves_its_row_in_every_step(smooth, joined, batches):
    called, read = (FlowEdit(1.0, source_call=call) for call in (True, False))
    asked = edited(smooth, joined, [BLUE], called, 5.0)
    known = edited(smooth, joined, [BLUE], read, 5.0)
    assert batches == [3] * 4 + [2] * 4
    assert_close(known, asked, rtol=2e-3, atol=2e-3)


def test_a_target_on_its_own_under_direct_sees_no_source_row(smooth, joined, batches):
    list(denoise(prepare(smooth, joined, [BLUE]), Direct(), Editor()))
    list(denoise(prepare(smooth, joined, [BLUE]), CFG(), Editor()))
    assert batches == [2] * 4 + [4] * 4


# ---------------------------------------------------------------- what is refused, or said


@pytest.mark.parametrize(
    "editor, scale, said",
    [
        (FlowEdit(), 13.5, ""),
        (FlowEdit(), 3.5, ""),
        (FlowEdit(), 3.0, "FlowEdit: source_scale=3.5 is above the targets' text_scale=3, so that they lose what both"),
        (FlowEdit(source_scale=1.0), 3.0, ""),
        (FlowEdit(plain=0.5), 13.5, ""),
        (FlowEdit(plain=0.7), 13.5, "FlowEdit: plain=0.7 samples the targets on their own in every step"),
        (FlowEdit(source_call=False), 1.0, ""),
        (FlowEdit(1.0, 0.5, False), 1.0, "on their own, so that source_scale=1, plain=0.5 does nothing"),
    ],
    ids=str,
)
def test_scales_that_turn_round_and_settings_without_effect_are_said(backbone, editor, scale, said):
    request = Request("picture", SOURCE, [BLUE], guidance=Direct(scale), editor=editor, steps=STEPS)
    found = request.remarks(backbone)
    assert len(found) == bool(said) and said in "".join(found)
    assert dataclasses.replace(request, targets=()).remarks(backbone) == []


@pytest.mark.parametrize("guidance", [CFG(), NoiseMap(), NullText(), Direct(10) + NoiseMap()], ids=str)
def test_a_guidance_that_lets_the_source_leave_its_maps_is_refused(backbone, picture, guidance):
    with pytest.raises(ValueError, match="use Direct|leave it|no step joins"):
        edit(backbone, picture, SOURCE, [BLUE], editor=FlowEdit(), guidance=guidance, steps=2, **QUIET)


def test_stored_noise_is_refused(backbone, picture):
    with pytest.raises(ValueError, match="EditFriendly have it stored"):
        edit(backbone, picture, SOURCE, [BLUE], editor=FlowEdit(), inversion=EditFriendly(), steps=2, **QUIET)


def test_no_noise_can_be_read_off_maps_that_no_step_joins(backbone, picture):
    editor = FlowEdit(source_call=False)
    assert editor.inversion() == DDIM()
    with pytest.raises(ValueError, match="no step joins those of Drawn"):
        edit(backbone, picture, SOURCE, [BLUE], editor=editor, inversion=Drawn(), steps=2, **QUIET)


@pytest.mark.parametrize("editor", [MasaCtrl(), PromptToPrompt()], ids=lambda editor: type(editor).__name__)
def test_editors_that_read_attention_refuse_drawn_maps(backbone, picture, editor):
    with pytest.raises(ValueError, match="another noise at every level; use FlowEdit"):
        edit(backbone, picture, SOURCE, [BLUE], editor=editor, inversion=Drawn(), guidance=Direct(), steps=2, **QUIET)


@pytest.mark.parametrize("options", [{"source_scale": float("nan")}, {"plain": 2}, {"plain": -1}], ids=str)
def test_settings_out_of_range_are_refused(options):
    with pytest.raises(ValueError, match="FlowEdit: "):
        dataclasses.replace(FlowEdit(), **options)
