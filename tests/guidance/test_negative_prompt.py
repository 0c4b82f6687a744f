import dataclasses
import math

import numpy as np
import pytest
import torch
from torch.testing import assert_close

from nmg import (
    CFG,
    Editor,
    LocalBlend,
    MasaCtrl,
    NegativePrompt,
    Pix2PixZero,
    PromptToPrompt,
    ProxNegativePrompt,
    denoise,
    edit,
    prepare,
    transfer,
)

TARGETS = ("a blue cat sitting in the forest", "a dog")
LATENTS = (3, 4, 16, 16)


@pytest.fixture
def run(backbone, trajectory):
    return prepare(backbone, trajectory, list(TARGETS))


@pytest.fixture
def eps():
    """Noise of the halves of a run, in which null and text of the source agree."""
    null, text = torch.randn(2, *LATENTS, generator=torch.Generator().manual_seed(0))
    # The rows' differences are of unlike size, so that a quantile over all rows would show.
    text = null + torch.tensor([0.0, 1.0, 5.0])[:, None, None, None] * (text - null)
    return torch.cat([null, text])


@pytest.fixture
def x():
    return torch.randn(LATENTS, generator=torch.Generator().manual_seed(1))


# ---------------------------------------------------------------- negative-prompt inversion


@pytest.mark.parametrize("scale", [-3.0, 0.0, 1.0, 7.5, 50.0])
def test_the_source_row_is_ddim_at_guidance_1_for_every_text_scale(sample, scale):
    plain = sample(targets=(), guidance=CFG(1))
    assert_close(sample(guidance=NegativePrompt(scale))[:1], plain, rtol=1e-4, atol=1e-4)


def test_it_is_classifier_free_guidance_with_the_source_prompt_as_negative_prompt(sample, trajectory):
    expected = sample(guidance=CFG(5), negative=trajectory.prompt)
    assert_close(sample(guidance=NegativePrompt(5)), expected, rtol=1e-5, atol=1e-5)


def test_the_null_prompt_of_every_row_is_the_source_prompt(run):
    null = NegativePrompt().null(run, run.steps[0])
    assert torch.equal(null, run.text[:1].expand(3, -1, -1)) and not torch.equal(null, run.null)


# ---------------------------------------------------------------- proximal guidance


def reference(config, run, step, x, eps):
    """The noise and the corrected rows of equations 10-13, element by element."""
    null, text = (half.numpy() for half in eps.chunk(2))
    noise, moved = null.copy(), x.numpy().copy()
    for row in range(len(null)):
        d = text[row] - null[row]
        limit = np.quantile(np.abs(text - null if config.pooled else d), config.quantile)
        large = np.abs(d) > limit
        kept = np.where(large, d - (limit * np.sign(d) if config.threshold == "soft" else 0), 0)
        noise[row] += config.text_scale * kept
        if config.pull == "none" or step.timestep >= config.below:
            continue
        # The source row has no difference, whatever rounding leaves of one.
        edited = (np.abs(kept) > limit) & (row > 0)
        # The rate is that of 50 steps.
        rate = 1 - (1 - config.rate) ** (50 / len(run.steps))
        hold = rate * (1 - dilated(edited, config.dilation))
        if config.pull == "inversion":
            moved[row] -= hold * (moved[row] - run.trajectory.target(step)[0].numpy())
        else:
            a = step.there.alpha
            clean = (moved[row] - math.sqrt(1 - a) * noise[row]) / math.sqrt(a)
            clean -= hold * (clean - run.trajectory.maps[0].numpy())
            moved[row] = math.sqrt(a) * clean + math.sqrt(1 - a) * noise[row]
    return torch.from_numpy(noise), torch.from_numpy(moved)


def dilated(mask, radius):
    """Whether any position within `radius` rows and columns is marked, in each channel."""
    grown = np.zeros(mask.shape, np.float32)
    for channel, row, column in zip(*np.nonzero(mask), strict=True):
        grown[channel, max(0, row - radius) : row + radius + 1, max(0, column - radius) : column + radius + 1] = 1
    return grown


SETTINGS = [
    {},
    {"text_scale": 2.0, "quantile": 0.95},
    {"threshold": "soft", "quantile": 0.9},
    {"pull": "reconstruction", "quantile": 0.95},
    {"pull": "reconstruction", "threshold": "soft", "rate": 0.1, "quantile": 0.97, "dilation": 2},
    {"rate": 0.3, "dilation": 0},
    {"dilation": 3, "quantile": 0.99},
    {"pull": "none"},
    {"below": 100},
    {"quantile": 1.0},
    {"rate": 0.0, "quantile": 0.123},
    {"pooled": True, "quantile": 0.8},
]


@pytest.mark.parametrize("settings", SETTINGS, ids=str)
def test_noise_and_rows_are_those_of_the_papers_equations(run, x, eps, settings):
    config = ProxNegativePrompt(**{"below": 500, **settings})
    for step in run.steps:
        noise, moved = reference(config, run, step, x, eps)
        assert_close(config.combine(run, step, eps), noise, rtol=1e-4, atol=1e-4)
        assert_close(config.correct(run, step, x, eps), moved, rtol=1e-4, atol=1e-4)


def test_the_thresholds_on_a_row_of_known_differences(run):
    null = torch.zeros(LATENTS)
    text = torch.linspace(-2, 2, 1024).view(1, 4, 16, 16) * torch.tensor([1.0, 10.0, 100.0]).view(3, 1, 1, 1)
    for threshold, less in (("hard", 0.0), ("soft", 1.0)):
        kept = ProxNegativePrompt(1.0, 0.5, threshold).combine(run, run.steps[0], torch.cat([null, text]))
        for row, scale in enumerate((1.0, 10.0, 100.0)):
            d = text[row].flatten()
            expected = torch.where(d.abs() > scale, d - less * scale * d.sign(), 0.0)
            assert_close(kept[row].flatten(), expected, rtol=1e-3, atol=5e-3 * scale)


def test_a_soft_threshold_never_leaves_more_than_a_hard_one(run, eps):
    d = eps.chunk(2)[1] - eps.chunk(2)[0]
    soft, hard = (ProxNegativePrompt(quantile=0.8, threshold=name).kept(d) for name in ("soft", "hard"))
    assert torch.equal(soft != 0, hard != 0) and (soft.abs() <= hard.abs()).all() and (soft * hard >= 0).all()


@pytest.mark.parametrize("quantile", [0.5, 0.7, 0.9])
def test_the_quantile_is_the_share_of_each_row_that_is_left_out(eps, quantile):
    kept = ProxNegativePrompt(quantile=quantile).kept(eps.chunk(2)[1] - eps.chunk(2)[0])
    assert_close((kept[1:] == 0).float().mean((1, 2, 3)), torch.full((2,), quantile), rtol=0, atol=1e-3)


def test_without_quantile_and_pull_it_is_negative_prompt_inversion(run, sample, eps):
    config, plain = ProxNegativePrompt(7.5, quantile=0.0, pull="none"), NegativePrompt(7.5)
    noise, expected = (guidance.combine(run, run.steps[-1], eps) for guidance in (config, plain))
    assert torch.equal(noise, expected)
    assert_close(sample(guidance=config), sample(guidance=plain), rtol=1e-2, atol=1e-2)


def test_at_quantile_1_every_row_follows_the_source_prompt_and_is_held_everywhere(run):
    config = ProxNegativePrompt(quantile=1.0, below=1000)
    for step, x in denoise(run, config, Editor()):
        assert_close(x, run.trajectory.target(step).expand_as(x), rtol=1e-5, atol=1e-5)


def test_rows_are_held_only_below_the_timestep(run, x, eps):
    edge = run.steps[2].timestep
    for below, held in ((edge, {3}), (edge + 1, {2, 3}), (0, set()), (1000, {0, 1, 2, 3})):
        config = ProxNegativePrompt(below=below)
        assert {step.index for step in run.steps if config.correct(run, step, x, eps) is not x} == held


@pytest.mark.parametrize("pull", ["inversion", "reconstruction"])
def test_an_edited_place_is_left_alone_and_its_surroundings_are_pulled(run, x, pull):
    null = torch.zeros(LATENTS)
    text = null.clone()
    text[1, 2, 8, 8] = 1
    moved = ProxNegativePrompt(pull=pull, quantile=0.5).correct(run, run.steps[-1], x, torch.cat([null, text]))
    free = torch.zeros(LATENTS, dtype=torch.bool)
    free[1, 2, 7:10, 7:10] = True
    assert torch.equal(moved[free], x[free]) and (moved != x)[~free].float().mean() > 0.99


EDITORS = [
    Editor(),
    PromptToPrompt(),
    PromptToPrompt(weights={"blue": 2.0}),
    PromptToPrompt(local_blend=LocalBlend(("cat", "cat"))),
    MasaCtrl(0, 0),
    MasaCtrl(0, 0, words=("cat", "cat")),
    Pix2PixZero(),
]


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
def test_the_source_row_is_held_everywhere_under_every_editor(backbone, trajectory, editor):
    """Null and text of the source agree up to rounding only where an editor computes the attention of the text half."""
    run = prepare(backbone, trajectory, [TARGETS[0]])
    for step, x in denoise(run, ProxNegativePrompt(below=1000), editor):
        assert_close(x[:1], run.trajectory.target(step), rtol=1e-3, atol=1e-3)


def test_a_run_is_the_loop_of_its_equations(run):
    config, x = ProxNegativePrompt(3.0, quantile=0.8, rate=0.5, below=600), run.start
    text = torch.cat([run.text[:1].expand(3, -1, -1), run.text])
    for step, latents in denoise(run, config, Editor()):
        eps = run.predict(torch.cat([x, x]), step, text)
        noise, _ = reference(config, run, step, x, eps)
        _, x = reference(config, run, step, transfer(x, noise, step.here, step.there), eps)
        assert_close(latents, x, rtol=1e-3, atol=1e-3)
        x = latents


# ---------------------------------------------------------------- settings


def test_the_defaults_are_the_papers():
    config = ProxNegativePrompt()
    assert dataclasses.astuple(config) == (7.5, None, 0.7, "hard", "inversion", 1.0, 1, 400, False)
    assert NegativePrompt() == NegativePrompt(7.5)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"threshold": "firm"}, "threshold='firm' is unknown; hard, soft work"),
        ({"pull": "push"}, "pull='push' is unknown; inversion, reconstruction, none work"),
        ({"quantile": 1.5}, r"quantile=1\.5 must be a share, 0…1"),
        ({"quantile": math.nan}, "quantile=nan must be a finite number"),
        ({"rate": -0.1}, r"rate=-0\.1 must be a share, 0…1"),
        ({"dilation": -1}, "dilation=-1 must be a whole number from 0 on"),
        ({"dilation": 0.5}, r"dilation=0\.5 must be a whole number from 0 on"),
        ({"dilation": True}, "dilation=True must be a whole number"),
        ({"text_scale": math.inf}, "ProxNegativePrompt: text_scale=inf must be a finite number"),
    ],
    ids=str,
)
def test_settings_that_can_not_be_used_are_refused(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        ProxNegativePrompt(**options)


@pytest.mark.parametrize("rate", [0.0, 0.1, 0.5, 1.0])
@pytest.mark.parametrize("count", [5, 50, 100])
def test_fewer_steps_take_back_as_much_in_all(rate, count):
    config = ProxNegativePrompt(rate=rate)
    assert (1 - config.rate_of(count)) ** count == pytest.approx((1 - rate) ** 50, abs=1e-12)


def test_pix2pix_zeros_own_negative_prompt_does_not_disturb(tiny, trajectory):
    result = edit(
        tiny(), trajectory, targets=[TARGETS[0]], guidance=NegativePrompt(), editor=Pix2PixZero(), progress=False
    )
    assert result.latents.isfinite().all()
