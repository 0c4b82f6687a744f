import dataclasses

import numpy as np
import pytest
import torch
from PIL import Image

from nmg import (
    CFG,
    Backbone,
    Direct,
    EditDirection,
    EditFriendly,
    Editor,
    Guidance,
    Identity,
    LocalBlend,
    MasaCtrl,
    NegativePrompt,
    NoiseMap,
    NoiseMapGuidancePipeline,
    NullText,
    Pix2PixZero,
    PromptToPrompt,
    ProxNegativePrompt,
    Request,
    Trajectory,
    denoise,
    edit,
    find_null_texts,
    invert,
    prepare,
    rows,
    sampling,
)
from nmg.attention import attention
from nmg.editors.recorder import AttentionRecorder
from nmg.guidance.cache import key_of
from nmg.menagerie.networks import TEXT_WIDTH
from nmg.run import Run
from nmg.sampling import sample

SOURCE = "a red cat sitting in the forest, front view"
BLUE, DOG = SOURCE.replace("red", "blue"), SOURCE.replace("cat", "dog")
GENTLE = NoiseMap(gradient_scale=5.0, text_scale=7.5)
"""At these scales the network of random weights stays near its maps."""


QUIET = {"progress": False}


@pytest.fixture(scope="module")
def small(build):
    """A tiny model of one level, whose latents are 8×8."""
    return Backbone(build(size=8, levels=1))


@pytest.fixture
def other(build):
    """The same model once more, to be changed."""
    return Backbone(build(size=8, levels=1))


@pytest.fixture(scope="module")
def inverted(small, picture):
    """The picture in four steps."""
    return invert(small, picture, SOURCE, steps=4, **QUIET)


@pytest.fixture(scope="module")
def recorded_row(small, picture):
    """Two steps with the source row of `GENTLE`, under an empty negative prompt."""
    return record(prepare(small, invert(small, picture, SOURCE, steps=2, **QUIET), [BLUE]), GENTLE)[0].trajectory


@torch.no_grad()
def record(run, guidance, editor=None, negative=""):
    """What a run found, its trajectory holding the source row; and the latents after each of its steps."""
    latents = []
    asked = Request(run.trajectory, run.prompts[0], run.prompts[1:], negative, guidance, editor or Editor())
    found = sample(run.backbone, asked, run.trajectory, lambda step, x: latents.append(x.clone()))
    return found, torch.stack(latents)


def gently(backbone, trajectory, targets=(BLUE,), editor=None, **options):
    """An edit under `GENTLE`."""
    return edit(backbone, trajectory, targets=targets, guidance=GENTLE, editor=editor or Editor(), **QUIET, **options)


def apart(x, y):
    """Relative distance."""
    return ((x - y).norm() / y.norm()).item()


# ---------------------------------------------------------------- the same picture

MOVE = torch.randn(1, 24, TEXT_WIDTH, generator=torch.Generator().manual_seed(0))
DIRECTION = EditDirection(MOVE, ("a cat",), ("a dog",), separation=1.0)
EDITORS = {
    "identity": Editor(),
    "replace": PromptToPrompt(mode="replace", cross_replace=0.5, self_replace=0.5, self_positions=64),
    "refine, weights and blend": PromptToPrompt(
        mode="refine",
        cross_replace={"default_": 1, "dog": 0.5},
        self_replace=(0.5, 1),
        weights={"dog": 3},
        local_blend=LocalBlend(("cat", "dog"), start=0),
        self_positions=64,
    ),
    "MasaCtrl": MasaCtrl(start_step=1, start_layer=1, words=("cat", "dog")),
    "pix2pix-zero": Pix2PixZero(),
    "pix2pix-zero along a direction": Pix2PixZero(DIRECTION),
    "recorded": AttentionRecorder(PromptToPrompt(cross_replace=0.5, self_replace=0)),
}
HELD = {"below": 1000}
"""Rows are held from the first step on."""
GUIDANCES = {
    "CFG": CFG(),
    "NoiseMap": GENTLE,
    "NoiseMap in a part": NoiseMap(gradient_scale=5, text_scale=7.5, during=(0.5, 1), mask=np.eye(8) > 0, outside=0.2),
    "Direct": Direct(),
    "NegativePrompt": NegativePrompt(),
    "Prox, inversion": ProxNegativePrompt(pull="inversion", **HELD),
    "Prox, reconstruction": ProxNegativePrompt(pull="reconstruction", threshold="soft", **HELD),
    "Prox, none, pooled": ProxNegativePrompt(pull="none", pooled=True),
    "NullText, found": NullText(embeddings="found"),
    "NoiseMap + Direct": GENTLE + Direct(),
    "Direct + NoiseMap": Direct() + GENTLE,
    "NullText + NoiseMap": NullText(iterations=1) + GENTLE,
    "Direct + Prox": Direct() + ProxNegativePrompt(pull="reconstruction", **HELD),
}


@pytest.fixture(scope="module")
def double(build, picture):
    """Runs of two steps, by negative prompt, of a model in double precision: no threshold tells rounding errors that
    are so small."""
    pipe = build(size=8, levels=1)
    pipe.unet.double()
    backbone = Backbone(pipe)
    trajectory = invert(backbone, picture, SOURCE, steps=2, **QUIET)
    return {negative: prepare(backbone, trajectory, [DOG], negative) for negative in ("", SOURCE)}


@pytest.fixture(scope="module")
def recorded(double):
    """By guidance and negative prompt: the guidance, and a trajectory with the source row, without a target."""
    backbone, trajectory = double[""].backbone, double[""].trajectory
    texts = find_null_texts(backbone, trajectory, NullText(iterations=2), **QUIET)
    found = {
        name: dataclasses.replace(guidance, embeddings=texts) if guidance == NullText(embeddings="found") else guidance
        for name, guidance in GUIDANCES.items()
    }
    runs = {negative: prepare(backbone, trajectory, (), negative) for negative in double}
    return {
        (name, negative): (guidance, record(run, guidance, negative=negative)[0].trajectory)
        for name, guidance in found.items()
        for negative, run in runs.items()
    }


@pytest.fixture
def in_full(monkeypatch):
    """Runs guidance and editor, every call of the network with all copies of the source."""

    def in_full(run, guidance, editor):
        with monkeypatch.context() as patch:
            patch.setattr(Run, "predict", lambda self, x, step, text, attend=None, *_: eps(self, x, step, text, attend))
            return torch.stack([x for _, x in denoise(run, guidance, editor)])

    eps = Run.predict
    return in_full


@pytest.mark.parametrize("name", GUIDANCES)
@pytest.mark.parametrize("editor", EDITORS.values(), ids=EDITORS)
def test_an_edit_that_replays_the_source_row_is_the_edit(double, recorded, in_full, unchecked, editor, name):
    """Whatever edits: the row was recorded without the editor, and copies of the source are left out."""
    negative = editor.negative(SOURCE)
    run, (guidance, trajectory) = double[negative], recorded[name, negative]
    along = dataclasses.replace(run, trajectory=trajectory)
    again, replayed = record(along, guidance, editor, negative)
    assert again.replayed and torch.equal(replayed[:, 0], trajectory.cache.ended)
    full = in_full(run, guidance, editor)
    assert apart(replayed[:, 0], full[:, 0]) < 1e-6 and apart(replayed[:, 1], full[:, 1]) < 1e-6


@pytest.mark.parametrize("name", ["Direct", "NegativePrompt", "Direct + Prox"])
@pytest.mark.parametrize("editor", EDITORS.values(), ids=EDITORS)
def test_a_copy_that_the_guidance_does_not_need_is_left_out_without_effect(double, in_full, unchecked, editor, name):
    run = double[editor.negative(SOURCE)]
    lean = torch.stack([x for _, x in denoise(run, GUIDANCES[name], editor)])
    full = in_full(run, GUIDANCES[name], editor)
    assert apart(lean[:, 0], full[:, 0]) < 1e-6 and apart(lean[:, 1], full[:, 1]) < 1e-6


# ---------------------------------------------------------------- the other edits


@pytest.mark.parametrize("kind", [{"prediction_type": "v_prediction"}, {"prediction_type": "sample"}], ids=str)
def test_what_the_network_predicts_makes_no_difference(tiny, picture, kind):
    backbone = Backbone(tiny(**kind))
    first = edit(backbone, picture, SOURCE, [BLUE], guidance=GENTLE, steps=2, **QUIET)
    again = edit(backbone, first.trajectory, targets=[BLUE], guidance=GENTLE, **QUIET)
    assert again.replayed and torch.equal(again.latents[0], first.latents[0])
    assert apart(again.latents[1], first.latents[1]) < 1e-4


def test_an_inversion_that_keeps_residuals_is_replayed_too(small, picture):
    first = edit(small, picture, SOURCE, [BLUE], guidance=CFG(3.5), steps=3, inversion=EditFriendly(), **QUIET)
    again = edit(small, first.trajectory, targets=[BLUE], guidance=CFG(3.5), **QUIET)
    assert again.replayed and torch.equal(again.latents[0], first.latents[0])
    assert apart(again.latents[1], first.latents[1]) < 1e-4


def test_attention_maps_are_recorded_in_a_replay_too(small, recorded_row):
    editor = PromptToPrompt(local_blend=LocalBlend(("cat", "cat"), start=0))
    first = gently(small, dataclasses.replace(recorded_row, cache=None), editor=editor, attention=True)
    again = gently(small, recorded_row, editor=editor, attention=True)
    assert again.replayed and apart(again.attention.steps, first.attention.steps) < 1e-5
    assert torch.equal(again.region, first.region) and again.region.shape == (2, 1, 8, 8)


@dataclasses.dataclass(frozen=True)
class Looking(Editor):
    """Targets whose self-attention looks at the source, each half on its own."""

    def attend(self, run, step):
        def attend(site, q, k, v, mask):
            if site.is_cross:
                return None
            keys = torch.cat([half[:1].expand_as(half) for half in k.chunk(2)])
            return attention(q, keys, v)

        return attend


@pytest.mark.parametrize("guidance", [GENTLE, NegativePrompt(), Direct()], ids=lambda guidance: type(guidance).__name__)
def test_an_editor_of_ones_own_sees_both_copies_of_the_source(small, recorded_row, guidance):
    """Where it says nothing of them."""
    first = edit(small, recorded_row, targets=[BLUE, DOG], guidance=guidance, editor=Looking(), **QUIET)
    again = edit(small, first.trajectory, targets=[BLUE, DOG], guidance=guidance, editor=Looking(), **QUIET)
    assert again.replayed and apart(again.latents, first.latents) < 1e-5


@pytest.mark.parametrize("editor", [PromptToPrompt(), Pix2PixZero()], ids=lambda editor: type(editor).__name__)
def test_a_row_is_recorded_and_replayed_in_inference_mode(small, recorded_row, editor):
    with torch.inference_mode():
        first = gently(small, dataclasses.replace(recorded_row, cache=None), editor=editor, negative="")
    again = gently(small, first.trajectory, editor=editor, negative="")
    with torch.inference_mode():
        once_more = gently(small, again.trajectory, editor=editor, negative="")
    assert not first.replayed and again.replayed and once_more.replayed
    assert torch.equal(again.latents, once_more.latents) and apart(again.latents, first.latents) < 1e-4


# ---------------------------------------------------------------- what it costs


@pytest.fixture
def calls(small, monkeypatch):
    """Step, number of rows and whether there is a gradient, of each call of the network."""
    seen, eps = [], small.predict

    def watched(x, step, text, attend=None):
        seen.append((step.index, len(x), x.requires_grad or text.tokens.requires_grad))
        return eps(x, step, text, attend)

    monkeypatch.setattr(small, "predict", watched)
    # A run of its own, of plain DDIM.
    monkeypatch.setattr(sampling, "plain_drift", lambda run, guidance: None)
    return seen


def rows_of(calls, gradient=False):
    """The rows of each step's calls, without gradient or with."""
    return [[rows for index, rows, has in calls if (index, has) == (step, gradient)] for step in range(4)]


@pytest.mark.parametrize(
    ("editor", "targets", "expected"),
    [
        (PromptToPrompt(cross_replace=1), [BLUE], [[1, 3], [3], [3], [3]]),
        (PromptToPrompt(cross_replace=1), [BLUE, DOG], [[1, 5], [5], [5], [5]]),
        (PromptToPrompt(cross_replace=0.5, self_replace=0.5), [BLUE], [[1, 3], [3], [2], [2]]),
        (PromptToPrompt(self_replace=0, local_blend=LocalBlend(("cat", "cat"))), [BLUE], [[1, 3], [3], [3], [3]]),
        (MasaCtrl(start_step=2), [BLUE], [[1, 2], [2], [4], [4]]),
        (Editor(), [BLUE], [[1, 2], [2], [2], [2]]),
        (AttentionRecorder(Editor()), [BLUE], [[1, 3], [3], [3], [3]]),
        (Editor(), [], [[1], [], [], []]),
        (PromptToPrompt(), [], [[1], [], [], []]),
    ],
    ids=["P2P", "two targets", "P2P in a window", "blend", "MasaCtrl", "identity", "recorded", "none", "P2P of none"],
)
def test_a_replayed_step_takes_the_rows_that_targets_need(small, inverted, calls, editor, targets, expected):
    """Before the first one the source under its prompt, by which a changed network is noticed."""
    run = prepare(small, inverted, targets)
    first, _ = record(run, GENTLE, editor)
    assert rows_of(calls, gradient=True) == [[1]] * 4
    both = 2 * (1 + len(targets))
    assert rows_of(calls) == [[both]] * 4
    calls.clear()
    assert record(dataclasses.replace(run, trajectory=first.trajectory), GENTLE, editor)[0].replayed
    assert rows_of(calls) == expected and rows_of(calls, gradient=True) == [[]] * 4


def test_pix2pix_zero_replays_with_its_own_gradients_alone(small, inverted, calls):
    """The source is asked once in a step, for its looks and its noise, and once for null and text,
    which read the same."""
    run = prepare(small, inverted, [BLUE], SOURCE)
    first, _ = record(run, GENTLE, Pix2PixZero(), SOURCE)
    assert rows_of(calls) == [[1, 2]] * 4 and rows_of(calls, gradient=True) == [[1, 2]] * 4
    calls.clear()
    again = dataclasses.replace(run, trajectory=first.trajectory)
    assert record(again, GENTLE, Pix2PixZero(), SOURCE)[0].replayed
    assert rows_of(calls) == [[1, 1, 2], *[[1, 2]] * 3] and rows_of(calls, gradient=True) == [[2]] * 4


@pytest.mark.parametrize(
    ("guidance", "editor", "expected"),
    [
        (CFG(), Editor(), [[4]] * 4),
        (NegativePrompt(), Editor(), [[3]] * 4),
        (ProxNegativePrompt(), PromptToPrompt(), [[3]] * 4),
        (Direct(), Editor(), [[3], [2], [2], [2]]),
        (Direct(), PromptToPrompt(cross_replace=1), [[3]] * 4),
        (Direct(), MasaCtrl(start_step=1), [[3], [4], [4], [4]]),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, Guidance | Editor) else "",
)
def test_the_first_edit_leaves_out_the_copies_that_nobody_needs(small, inverted, calls, guidance, editor, expected):
    record(prepare(small, inverted, [BLUE]), guidance, editor)
    assert rows_of(calls) == expected and rows_of(calls, gradient=True) == [[]] * 4


# ---------------------------------------------------------------- what it depends on


@pytest.mark.parametrize(
    "given",
    [
        {"targets": (DOG,)},
        {"targets": (DOG, BLUE)},
        {"targets": ()},
        {"editor": PromptToPrompt()},
        {"editor": PromptToPrompt(local_blend=LocalBlend(("cat", "cat")), weights={"blue": 2})},
        {"editor": MasaCtrl(start_step=1)},
        {"editor": AttentionRecorder(Editor())},
        {"editor": Pix2PixZero(), "negative": ""},
        {"guidance": dataclasses.replace(GENTLE)},
    ],
    ids=str,
)
def test_it_does_not_depend_on_target_editor_or_blend(small, recorded_row, given):
    result = edit(small, recorded_row, **{"targets": [BLUE], "guidance": GENTLE, "editor": Editor(), **QUIET, **given})
    assert result.replayed and result.trajectory.cache.key == recorded_row.cache.key
    assert torch.equal(result.latents[:1], recorded_row.cache.ended[-1:])


@pytest.mark.parametrize(
    "given",
    [
        {"guidance": dataclasses.replace(GENTLE, gradient_scale=6)},
        {"guidance": dataclasses.replace(GENTLE, energy="l2")},
        {"guidance": dataclasses.replace(GENTLE, jacobian=False)},
        {"guidance": dataclasses.replace(GENTLE, during=(0, 0.5))},
        {"guidance": dataclasses.replace(GENTLE, mask=np.eye(8) > 0)},
        {"guidance": CFG(7.5)},
        {"guidance": GENTLE + Direct()},
        {"negative": "a green fox"},
        {"editor": Pix2PixZero()},
    ],
)
def test_it_depends_on_guidance_and_negative_prompt(small, recorded_row, given):
    result = edit(small, recorded_row, **{"guidance": GENTLE, "editor": Editor(), **QUIET, **given})
    assert not result.replayed and result.trajectory.cache.key != recorded_row.cache.key


@pytest.mark.parametrize(
    "change",
    [
        lambda trajectory: {"maps": 1.01 * trajectory.maps},
        lambda trajectory: {"convention": "diffusers-0.18"},
        lambda trajectory: {"steps": tuple(dataclasses.replace(step, timestep=5) for step in trajectory.steps)},
    ],
    ids=["maps", "convention", "steps"],
)
def test_it_depends_on_the_trajectory(small, recorded_row, change):
    changed = dataclasses.replace(recorded_row, **change(recorded_row))
    result, fresh = (gently(small, given, ()) for given in (changed, dataclasses.replace(changed, cache=None)))
    assert not result.replayed and torch.equal(result.latents, fresh.latents)


def test_it_depends_on_what_a_mask_file_holds(small, recorded_row, tmp_path):
    def painted(left):
        pixels = np.zeros((8, 8), np.uint8)
        pixels[:, :left] = 255
        Image.fromarray(pixels).save(tmp_path / "mask.png")

    def edited(trajectory):
        guidance = dataclasses.replace(GENTLE, mask=tmp_path / "mask.png")
        return edit(small, trajectory, targets=[BLUE], guidance=guidance, editor=Editor(), **QUIET)

    painted(4)
    first = edited(recorded_row)
    assert edited(first.trajectory).replayed
    painted(2)
    assert not edited(first.trajectory).replayed


def test_it_depends_on_what_null_texts_hold(small, recorded_row):
    texts = find_null_texts(small, recorded_row, NullText(iterations=1), **QUIET)
    equal, others = (dataclasses.replace(texts, embeddings=texts.embeddings * factor) for factor in (1, 1.01))
    first = edit(small, recorded_row, targets=[BLUE], guidance=NullText(embeddings=texts), **QUIET).trajectory
    for held, replays in ((equal, True), (others, False)):
        again = edit(small, first, targets=[BLUE], guidance=NullText(embeddings=held), **QUIET)
        assert again.replayed == replays


@dataclasses.dataclass(frozen=True)
class Mixing(CFG):
    """Targets that also follow the source's noise."""

    def combine(self, run, step, eps):
        return super().combine(run, step, eps) + 0.1 * eps[:1]


@pytest.mark.parametrize(
    "guidance",
    [NoiseMap(noise_map_scale=lambda step: 10.0, gradient_scale=5), Mixing(), Mixing() + Direct(), Direct() + Mixing()],
    ids=["function", "class", "class + Direct", "Direct + class"],
)
def test_a_guidance_that_does_not_say_what_it_does_is_recorded_every_time(small, recorded_row, guidance):
    """A function or a class may be another one the next time, under the same name."""
    given = {"targets": [BLUE], "guidance": guidance, "editor": Editor(), **QUIET}
    first = edit(small, recorded_row, **given)
    again = edit(small, first.trajectory, **given)
    assert key_of(recorded_row, guidance, "") is None and not first.replayed and not again.replayed
    assert torch.equal(again.latents, first.latents)


def test_a_callback_that_moves_the_source_leaves_no_record(small, recorded_row):
    unrecorded = dataclasses.replace(recorded_row, cache=None)
    moved = gently(small, unrecorded, callback=lambda step, x: x.mul_(0.5) if step.index == 0 else None)
    again, expected = gently(small, moved.trajectory), gently(small, unrecorded)
    assert not again.replayed and torch.equal(again.latents, expected.latents)

    # What is done to the last latents does not come back to the source.
    last = gently(small, unrecorded, callback=lambda step, x: x.mul_(0.5) if step.index == 1 else None)
    assert torch.equal(last.trajectory.cache.ended, expected.trajectory.cache.ended)
    assert torch.equal(last.latents, 0.5 * expected.latents)


# ---------------------------------------------------------------- a changed network


def test_a_changed_network_is_recorded_anew(other, recorded_row):
    weight = other.unet.mid_block.attentions[0].transformer_blocks[0].attn2.to_v.weight
    before = weight.clone()
    weight += 0.3 * weight.std() * torch.randn(weight.shape, generator=torch.Generator().manual_seed(0))
    # A trajectory of the network as it was is refused, and one of it as it is now has nothing recorded.
    with pytest.raises(ValueError, match="made by another network"):
        gently(other, recorded_row)
    mine = dataclasses.replace(recorded_row, network=Identity.of(other, SOURCE))
    result, fresh = gently(other, mine), gently(other, dataclasses.replace(mine, cache=None))
    assert not result.replayed and torch.equal(result.latents, fresh.latents)
    assert gently(other, result.trajectory).replayed

    weight.copy_(before)
    assert gently(other, recorded_row).replayed


@pytest.mark.parametrize(
    ("dtype", "error", "replays"),
    [
        (torch.float32, 2e-3, True),
        (torch.float32, 4e-3, False),
        (torch.bfloat16, 1e-2, True),
        (torch.bfloat16, 4e-2, False),
    ],
    ids=str,
)
def test_a_network_counts_as_changed_beyond_rounding(other, recorded_row, dtype, error, replays):
    other.unet.to(dtype)
    row = gently(other, recorded_row).trajectory.cache
    changed = dataclasses.replace(recorded_row, cache=dataclasses.replace(row, noise=(1 + error) * row.noise))
    assert gently(other, changed).replayed == replays


def test_a_recorded_row_that_is_not_finite_is_refused(other, recorded_row):
    row = recorded_row.cache
    broken = dataclasses.replace(recorded_row, cache=dataclasses.replace(row, noise=torch.nan * row.noise))
    with pytest.raises(ValueError, match=r"cache\.noise.*no finite numbers"):
        gently(other, broken)


# ---------------------------------------------------------------- files and devices


@pytest.mark.parametrize("guidance", [GENTLE, NullText(iterations=1)], ids=lambda guidance: type(guidance).__name__)
def test_a_record_is_saved_and_loaded_with_its_trajectory(small, recorded_row, tmp_path, guidance):
    first = edit(small, recorded_row, targets=[BLUE], guidance=guidance, **QUIET).trajectory
    first.save(tmp_path / "cat.safetensors")
    loaded = Trajectory.load(tmp_path / "cat.safetensors")
    kept, again = first.cache.tensors(), loaded.cache.tensors()
    assert loaded.cache.key == first.cache.key and kept.keys() == again.keys()
    assert ("null.tokens" in kept) == isinstance(guidance, NullText)
    assert all(torch.equal(again[name], tensor) for name, tensor in kept.items())
    result, expected = (
        edit(small, trajectory, targets=[DOG], guidance=guidance, **QUIET) for trajectory in (loaded, first)
    )
    assert result.replayed and torch.equal(result.latents, expected.latents)


def test_a_trajectory_without_a_record_is_saved_and_loaded_without(inverted, tmp_path):
    inverted.save(tmp_path / "cat.safetensors")
    assert inverted.cache is None and Trajectory.load(tmp_path / "cat.safetensors").cache is None


def test_a_record_moves_with_its_trajectory(recorded_row):
    moved = recorded_row.to("meta")
    assert {tensor.device.type for tensor in (moved.maps, *moved.cache.tensors().values())} == {"meta"}
    assert moved.cache.key == recorded_row.cache.key and recorded_row.cache.seen.device.type == "cpu"


# ---------------------------------------------------------------- the pipeline


def test_the_pipeline_replays_unless_a_callback_may_change_the_source(small, recorded_row, monkeypatch):
    pipe = NoiseMapGuidancePipeline(**small.pipe.components, requires_safety_checker=False)
    pipe.set_progress_bar_config(disable=True)
    gradients, forward = [], small.unet.forward

    def watched(x, *given, **options):
        gradients.append(x.requires_grad)
        return forward(x, *given, **options)

    monkeypatch.setattr(small.unet, "forward", watched)
    given = {"guidance": GENTLE, "editor": Editor(), "output_type": "latent"}
    replayed = pipe(BLUE, recorded_row, **given).images
    # The first asks who the network is.
    assert gradients == [False] * 4
    assert torch.equal(replayed, gently(small, recorded_row).latents)

    gradients.clear()
    called = pipe(BLUE, recorded_row, **given, callback_on_step_end=lambda pipe, index, t, given: {}).images
    # At the end plain DDIM, to compare the drift with.
    assert gradients == [False, *[True, False] * 2, False, False] and apart(called, replayed) < 1e-4


# ---------------------------------------------------------------- exceptions


class Stop(Exception):
    pass


def test_a_replayed_edit_that_is_stopped_leaves_no_trace(small, recorded_row):
    def stop(step, x):
        raise Stop

    editor, before = PromptToPrompt(), dict(small.unet.attn_processors)
    expected = gently(small, recorded_row, editor=editor)
    with pytest.raises(Stop):
        gently(small, recorded_row, editor=editor, callback=stop)
    assert all(small.unet.attn_processors[name] is processor for name, processor in before.items())
    again = gently(small, recorded_row, editor=editor)
    assert again.replayed and torch.equal(again.latents, expected.latents)


@pytest.mark.parametrize("with_record", [True, False], ids=["replayed", "recorded"])
def test_an_abandoned_run_leaves_no_trace(small, recorded_row, with_record):
    trajectory = recorded_row if with_record else dataclasses.replace(recorded_row, cache=None)
    before = dict(small.unet.attn_processors)
    steps = denoise(prepare(small, trajectory, [BLUE]), GENTLE, PromptToPrompt())
    next(steps)
    assert all(small.unet.attn_processors[name] is processor for name, processor in before.items())
    steps.close()
    assert torch.equal(gently(small, recorded_row).latents[:1], recorded_row.cache.ended[-1:])


# ---------------------------------------------------------------- the way up


def test_an_inversions_callback_sees_the_maps_as_they_come(small, picture):
    seen = []
    trajectory = invert(
        small, picture, SOURCE, steps=3, callback=lambda step, x: seen.append((step, x.clone())), **QUIET
    )
    steps, latents = zip(*seen, strict=True)
    assert [step.index for step in steps] == [0, 1, 2] and torch.equal(torch.cat(latents), trajectory.maps[1:])
    assert [step.timestep for step in steps] == [step.timestep for step in reversed(trajectory.steps)]
    assert tuple(step.there for step in steps) == trajectory.levels[1:]


def test_an_inversion_that_is_stopped_leaves_no_trace(small, picture, monkeypatch):
    def stop(step, x):
        if step.index == 1:
            raise Stop

    released = []
    monkeypatch.setattr(small, "release", lambda: released.append(True))
    with pytest.raises(Stop):
        invert(small, picture, SOURCE, steps=3, callback=stop, **QUIET)
    assert released
    first, again = (invert(small, picture, SOURCE, steps=3, **QUIET) for _ in range(2))
    assert torch.equal(first.maps, again.maps)


# ---------------------------------------------------------------- what once went wrong


def test_prompts_that_name_files_are_told_apart(recorded_row, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    for name in ("fog", "rain"):
        (tmp_path / name).touch()
    assert key_of(recorded_row, GENTLE, "fog") != key_of(recorded_row, GENTLE, "rain")


def test_equal_guidances_have_one_key(recorded_row):
    assert (
        key_of(recorded_row, CFG(7), "")
        == key_of(recorded_row, CFG(7.0), "")
        == key_of(recorded_row, CFG(np.float64(7)), "")
    )


@dataclasses.dataclass(frozen=True)
class Halfway(Direct):
    def correct(self, run, step, x, eps):
        return rows.with_source((rows.source(x) + run.trajectory.target(step)) / 2, x)


def test_a_direct_inversion_of_ones_own_sees_the_sources_noise(double, in_full, unchecked):
    lean = torch.stack([x for _, x in denoise(double[""], Halfway(), Editor())])
    assert apart(lean, in_full(double[""], Halfway(), Editor())) < 1e-6


def test_a_guidance_without_a_key_leaves_the_record_that_there_is(small, recorded_row):
    function = NoiseMap(noise_map_scale=lambda step: 10.0, gradient_scale=5)
    result = edit(small, recorded_row, targets=[BLUE], guidance=function, **QUIET)
    assert gently(small, result.trajectory).replayed
