import dataclasses

import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import CFG, Backbone, Direct, Editor, NoiseMap, PlugAndPlay, Request, denoise, edit, invert, prepare
from nmg.editors.plug_and_play import FIRST_BLOCK
from tests.families import sd3

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG = SOURCE.replace("red", "blue"), SOURCE.replace("cat", "dog")
GENTLE = NoiseMap(gradient_scale=5.0, text_scale=7.5)
ALL = PlugAndPlay(1, 1, 0)
QUIET = {"progress": False}


@pytest.fixture
def batches(backbone, monkeypatch):
    """The number of rows of every call of the network."""
    seen, own = [], backbone.network.forward

    def forward(x, *args, **options):
        seen.append(len(x))
        return own(x, *args, **options)

    monkeypatch.setattr(backbone.network, "forward", forward)
    return seen


# ---------------------------------------------------------------- identities


def test_over_no_steps_it_changes_nothing(sample):
    assert torch.equal(sample((BLUE,), editor=PlugAndPlay(0, 0)), sample((BLUE,), editor=Editor()))


def test_without_a_target_nothing_changes(sample):
    assert torch.equal(sample((), editor=ALL), sample((), editor=Editor()))


@pytest.mark.parametrize("guidance", [CFG(), Direct(), GENTLE], ids=lambda guidance: type(guidance).__name__)
def test_the_source_row_takes_nothing_from_the_targets(sample, guidance):
    assert_close(sample((BLUE, DOG), guidance, ALL)[0], sample((), guidance)[0], rtol=1e-5, atol=1e-5)


def test_several_targets_together_are_each_alone(sample):
    together = sample((BLUE, DOG), Direct(), ALL)
    for row, target in enumerate((BLUE, DOG), 1):
        assert_close(together[row], sample((target,), Direct(), ALL)[1], rtol=1e-5, atol=1e-5)


def test_a_target_with_the_sources_prompt_at_text_scale_1_is_plain_sampling(sample):
    plain, fed = (sample((SOURCE,), CFG(1.0), editor) for editor in (Editor(), ALL))
    assert_close(fed, plain, rtol=1e-5, atol=1e-5)


def test_the_sources_null_copy_tells_the_targets_nothing(sample):
    """With plain DDIM the network sees both copies of the source, under `Direct` the text copy alone."""
    start = {"editor": ALL, "skip": 0.75}
    assert_close(sample((BLUE,), CFG(), **start)[1], sample((BLUE,), Direct(), **start)[1], rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- what is the source's


def test_what_the_block_adds_to_its_shortcut_is_the_sources_in_every_target(backbone, trajectory):
    run, seen = prepare(backbone, trajectory, [BLUE, DOG]), []
    block = backbone.network.up_blocks[0].resnets[0]
    hook = block.register_forward_hook(lambda layer, given, out: seen.append(out - layer.conv_shortcut(given[0])))
    try:
        next(denoise(run, Direct(), ALL))
    finally:
        hook.remove()
    # Two targets without text, the source, and two targets with theirs.
    (added,) = seen
    assert len(added) == 5
    assert_close(added, added[2:3].expand_as(added))
    assert not block.conv2._forward_hooks


def test_a_block_puts_out_the_sources_features_in_every_target(backbone, trajectory):
    run = prepare(backbone, trajectory, [BLUE, DOG])
    out = torch.randn(5, 32, 4, 4)
    (path,) = PlugAndPlay().prepare(run).features(run, run.steps[0])
    assert path == f"{backbone.decoder[round(FIRST_BLOCK * 4)]}.conv2" == "up_blocks.0.resnets.1.conv2"
    taken = PlugAndPlay().prepare(run).features(run, run.steps[0])[path](out)
    assert torch.equal(taken, out[2:3].expand(5, -1, -1, -1))
    # With the source's null copy, that keeps its own.
    both = torch.randn(6, 32, 4, 4)
    taken = PlugAndPlay().prepare(run).features(run, run.steps[0])[path](both)
    assert torch.equal(taken[0], both[0]) and torch.equal(taken[1:], both[3:4].expand(5, -1, -1, -1))


def test_features_are_let_go_after_their_share_of_the_steps_and_attention_after_its_own(backbone, trajectory):
    run = prepare(backbone, trajectory, [BLUE])
    editor = PlugAndPlay(feature_replace=0.75, attention_replace=0.5).prepare(run)
    assert [editor.features(run, step) is not None for step in run.steps] == [True, True, True, False]
    assert [editor.attend(run, step) is not None for step in run.steps] == [True, True, False, False]
    assert [editor.copies(run, step) for step in run.steps] == ["text", "text", "text", "none"]


@pytest.mark.parametrize("editor", [PlugAndPlay(1, 0, 0), PlugAndPlay(0, 1, 0)], ids=["features", "attention"])
def test_both_change_the_targets(sample, editor):
    assert not torch.allclose(sample((BLUE,), Direct(), editor)[1], sample((BLUE,), Direct(), Editor())[1], atol=1e-3)


def test_a_step_costs_three_rows_and_no_gradient(backbone, trajectory, batches):
    run = prepare(backbone, trajectory, [BLUE])
    batches.clear()
    list(denoise(run, Direct(), PlugAndPlay(1, 1)))
    assert batches == [3] * 4


# ---------------------------------------------------------------- what is asked for


def test_the_source_is_read_off_its_noise_maps_where_no_guidance_is_given(backbone, trajectory):
    made = edit(backbone, trajectory, targets=[BLUE], editor=PlugAndPlay(), **QUIET)
    assert made.request.guidance == Direct(7.5) and made.drift == 0


def test_stable_diffusion_takes_the_published_layers(sd_shaped):
    blocks = Backbone(sd_shaped).decoder
    assert len(blocks) == 12 and blocks[round(FIRST_BLOCK * 12)] == "up_blocks.1.resnets.1"


def test_a_network_without_a_decoder_is_refused(picture):
    pipe = sd3()
    with pytest.raises(ValueError, match="SD3Transformer2DModel has none; use"):
        edit(pipe, picture, "a cat", ["a dog"], editor=PlugAndPlay(), steps=2, **QUIET)


@pytest.mark.parametrize(
    "shares, skip, said",
    [
        ((0.75, 0.5), None, ""),
        ((0.75, 0), None, ""),
        ((0.1, 0.5), None, "PlugAndPlay: feature_replace=0.1 holds none of the 4 steps that are sampled"),
        ((0.75, 0.5), 0.5, "PlugAndPlay: attention_replace=0.5 holds none of the 2 steps that are sampled"),
        ((0.75, 0.5), 0.75, "PlugAndPlay: feature_replace=0.75, attention_replace=0.5 holds none of the 1 steps"),
        ((0, 0), None, "PlugAndPlay: feature_replace=0, attention_replace=0 holds none of the 4 steps"),
    ],
    ids=str,
)
def test_shares_that_hold_no_step_are_said(backbone, trajectory, shares, skip, said):
    request = Request(trajectory, trajectory.prompt, [BLUE], editor=PlugAndPlay(*shares), steps=4, skip=skip)
    assert "; ".join(request.remarks(backbone))[: len(said) or None] == said
    alone = dataclasses.replace(request, targets=())
    assert alone.remarks(backbone) == []


@pytest.mark.parametrize(
    "options, said",
    [
        ({"feature_replace": 1.5}, "feature_replace=1.5 must be a share"),
        ({"attention_replace": True}, "attention_replace=True must be a share"),
        ({"start_block": -1}, "start_block=-1 must be a whole number"),
    ],
    ids=["features", "attention", "block"],
)
def test_settings_out_of_range_are_refused(options, said):
    with pytest.raises(ValueError, match=said):
        PlugAndPlay(**options)


def test_a_block_that_is_not_there_is_refused(backbone, trajectory):
    with pytest.raises(ValueError, match="the decoder has 4 residual blocks"):
        edit(backbone, trajectory, targets=[BLUE], editor=PlugAndPlay(start_block=4), **QUIET)


# ---------------------------------------------------------------- leaving steps out


def test_steps_that_are_left_out_are_not_sampled(backbone, trajectory):
    run = prepare(backbone, trajectory, [BLUE], skip=0.5)
    found = list(denoise(run, Direct(), Editor()))
    assert [step.index for step, _ in found] == [2, 3]
    assert torch.equal(run.start, trajectory.maps[2:3].expand(2, -1, -1, -1))


def test_the_fewer_steps_are_sampled_the_less_changes(sample, trajectory):
    ends = [sample((BLUE,), Direct(3.0), skip=skip)[1] for skip in (0.0, 0.25, 0.5, 0.75)]
    moved = [(end - trajectory.maps[0]).norm().item() for end in ends]
    assert moved == sorted(moved, reverse=True)


def test_a_row_that_leaves_steps_out_is_not_kept_for_others(backbone, picture):
    trajectory = invert(backbone, picture, SOURCE, steps=4, **QUIET)
    made = edit(backbone, trajectory, targets=[BLUE], guidance=CFG(2.0), editor=Editor(), skip=0.5, **QUIET)
    assert made.trajectory.cache is None and not made.replayed


@pytest.mark.parametrize("skip, said", [(1.0, "a share of the steps below 1"), (0.9, "leaves none of the 4 steps")])
def test_a_share_that_leaves_no_step_is_refused(backbone, trajectory, skip, said):
    with pytest.raises(ValueError, match=said):
        nmg.edit(backbone, trajectory, targets=[BLUE], skip=skip, **QUIET)
