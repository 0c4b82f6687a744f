import dataclasses
import math

import numpy as np
import pytest
import torch
from PIL import Image
from torch.nn import functional as F
from torch.testing import assert_close

from nmg import (
    CFG,
    Backbone,
    Direct,
    EditFriendly,
    Editor,
    MasaCtrl,
    NegativePrompt,
    NoiseMap,
    NullText,
    Pix2PixZero,
    PromptToPrompt,
    ProxNegativePrompt,
    Step,
    denoise,
    edit,
    find_null_texts,
    prepare,
    transfer,
)
from nmg.guidance.base import check_finite
from nmg.guidance.noise_map import ENERGIES, REFERENCE_ELEMENTS
from nmg.inversion import rise
from nmg.levels import diffusion
from nmg.run import Run

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"
GENTLE = {"gradient_scale": 5.0, "text_scale": 3.0}
"""Scales of noise map guidance at which the network of random weights stays near its maps."""
MASK = np.zeros((16, 16), bool)
MASK[4:12, :7] = True


@pytest.fixture
def run(backbone, trajectory):
    return prepare(backbone, trajectory, [TARGET, "a dog"])


def noise(*shape, seed=0, **options):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed), **options)


# ---------------------------------------------------------------- classifier-free guidance


def test_at_scale_1_cfg_is_the_text_prediction_and_at_scale_0_the_null(run):
    null, text = noise(2, 3, 4, 16, 16)
    eps = torch.cat([null, text])
    assert_close(CFG(1).combine(run, run.steps[0], eps), text)
    assert_close(CFG(0).combine(run, run.steps[0], eps), null)
    assert_close(CFG(7.5).combine(run, run.steps[0], eps), null + 7.5 * (text - null))


def test_cfg_touches_nothing_else(run):
    x, eps = noise(3, 4, 16, 16), noise(6, 4, 16, 16)
    guidance, step = CFG().prepare(run), run.steps[0]
    assert guidance.steer(run, step, x) is x and guidance.correct(run, step, x, eps) is x
    assert guidance.null(run, step) is run.null


def test_a_run_with_cfg_is_plain_ddim(run):
    x = run.start
    for step, latents in denoise(run, CFG(3), Editor()):
        null, text = run.predict(x, step, run.null), run.predict(x, step, run.text)
        x = transfer(x, null + 3 * (text - null), step.here, step.there)
        assert_close(latents, x, rtol=1e-5, atol=1e-5)


def test_the_source_row_does_not_depend_on_the_targets(sample):
    for guidance in (CFG(), NoiseMap()):
        alone, together = (sample(targets, guidance) for targets in ((), (TARGET, "a dog")))
        assert_close(together[:1], alone, rtol=1e-5, atol=1e-5)


# ---------------------------------------------------------------- noise map guidance


def test_at_scale_0_noise_map_guidance_is_a_null_text_step_before_the_text_guided_one(run):
    x = run.start
    for step, latents in denoise(run, NoiseMap(noise_map_scale=0, text_scale=3), Editor()):
        null = run.predict(x[:1], step, run.null[:1])
        x = torch.cat([transfer(x[:1], null, step.here, step.there), x[1:]])
        null, text = run.predict(x, step, run.null), run.predict(x, step, run.text)
        x = transfer(x, null + 3 * (text - null), step.here, step.there)
        assert_close(latents, x, rtol=1e-5, atol=1e-5)


def gradient_of(guidance, run, step, x):
    """∂L/∂z_t of the source row as the guidance finds it, before the places are weighted."""
    found = []
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(NoiseMap, "weighted", lambda self, gradient: found.append(gradient) or gradient)
        guidance.steer(run, step, x)
    (gradient,) = found
    return gradient


def test_a_steered_row_follows_the_null_noise_plus_the_scaled_gradient(run):
    guidance, step, x = NoiseMap(noise_map_scale=3, gradient_scale=70, bound=None), run.steps[1], noise(3, 4, 16, 16)
    gradient, eps = gradient_of(guidance, run, step, x), run.predict(x[:1], step, run.null[:1])
    strength = 3 * 70 * len(run.steps) / 50
    expected = transfer(x[:1], eps + strength * step.here.s * gradient, step.here, step.there)
    assert_close(guidance.steer(run, step, x)[:1], expected)


def test_steering_leaves_the_targets_alone(run):
    x = noise(3, 4, 16, 16)
    steered = NoiseMap().steer(run, run.steps[0], x)
    assert torch.equal(steered[1:], x[1:])
    assert (steered[:1] - x[:1]).abs().max() > 1e-3


def test_only_the_product_of_the_two_scales_matters(sample):
    ways = [NoiseMap(noise_map_scale=first, gradient_scale=second) for first, second in ((10, 50), (50, 10), (10, 5))]
    same, also, other = (sample(guidance=guidance) for guidance in ways)
    assert_close(same, also)
    step = Step(0, 1, diffusion(0.5), diffusion(0.9))
    assert ways[0].strength(step) == ways[1].strength(step) == 500
    assert (same - other).abs().max() > 1e-3


@pytest.mark.parametrize("energy", ["l1", "l2", "smooth_l1"])
def test_steering_brings_the_source_row_nearer_to_its_noise_map(run, energy):
    x, step = run.start, run.steps[0]
    far, near = (
        NoiseMap(noise_map_scale=scale, gradient_scale=50, energy=energy).steer(run, step, x)[:1]
        - run.trajectory.target(step)
        for scale in (0, 1)
    )
    assert near.abs().sum() < far.abs().sum()


class Double(Backbone):
    """A network that computes in double precision."""

    def predict(self, x, step, text, attend=None):
        return self.unet(x, step.timestep, text.tokens.double()).sample


@pytest.mark.parametrize(("energy", "distance"), [("l1", 1.0), ("l2", 1.0), ("smooth_l1", 1.0), ("smooth_l1", 2e-5)])
def test_the_gradient_is_that_of_finite_differences(build, trajectory, energy, distance):
    backbone = Double(build())
    run = prepare(backbone, trajectory)
    backbone.unet.double()
    step, z = run.steps[1], noise(1, 4, 16, 16, dtype=torch.float64)
    arrival = transfer(z, run.predict(z, step, run.null), step.here, step.there)
    maps = (arrival + distance * noise(1, 4, 16, 16, seed=1, dtype=torch.float64)).expand(5, -1, -1, -1)
    run = dataclasses.replace(run, trajectory=dataclasses.replace(trajectory, maps=maps))
    definition = {
        "l1": F.l1_loss,
        "l2": F.mse_loss,
        "smooth_l1": lambda a, b, **o: F.smooth_l1_loss(a, b, beta=1e-4, **o),
    }

    def energy_of(z):
        reached = transfer(z, run.predict(z, step, run.null), step.here, step.there)
        return definition[energy](reached, maps[:1], reduction="sum") / (4 * 64 * 64)

    gradient = gradient_of(NoiseMap(energy=energy), run, step, z)
    for seed in (2, 3):
        direction, h = noise(1, 4, 16, 16, seed=seed, dtype=torch.float64), 1e-8
        slope = (energy_of(z + h * direction) - energy_of(z - h * direction)) / (2 * h)
        assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-7)


class Pointwise(Backbone):
    """A network that looks at each element alone; `seeds` collects the gradients that reach its output."""

    def __init__(self, pipe):
        super().__init__(pipe)
        self.seeds = []

    def predict(self, x, step, text, attend=None):
        eps = x.sin()
        if eps.requires_grad:
            eps.register_hook(self.seeds.append)
        return eps


@pytest.fixture
def pointwise(run):
    return dataclasses.replace(run, backbone=Pointwise(run.backbone.pipe))


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("copies", [(1, 2, 2), (1, 1, 4), (2, 1, 1)], ids=["larger", "wider", "more channels"])
def test_the_gradient_of_an_element_is_the_same_at_every_size(pointwise, energy, copies):
    step, z = pointwise.steps[1], noise(1, 4, 16, 16)
    tiled = dataclasses.replace(pointwise.trajectory, maps=pointwise.trajectory.maps.repeat(1, *copies))
    small = gradient_of(NoiseMap(energy=energy), pointwise, step, z)
    wide = dataclasses.replace(pointwise, trajectory=tiled)
    large = gradient_of(NoiseMap(energy=energy), wide, step, z.repeat(1, *copies))
    assert_close(large, small.repeat(1, *copies))


def test_at_512_pixels_the_gradient_is_that_of_the_papers_mean(pointwise):
    step, z, maps = pointwise.steps[1], noise(1, 4, 64, 64), noise(5, 4, 64, 64, seed=1)
    run = dataclasses.replace(pointwise, trajectory=dataclasses.replace(pointwise.trajectory, maps=maps))
    gradient = gradient_of(NoiseMap(), run, step, z)
    with torch.enable_grad():
        z.requires_grad_()
        F.l1_loss(transfer(z, z.sin(), step.here, step.there), run.trajectory.target(step)).backward()
    assert z.numel() == REFERENCE_ELEMENTS
    assert_close(gradient, z.grad)


def test_the_gradient_enters_the_network_at_unit_size_so_that_half_precision_holds_it(pointwise):
    step, z = pointwise.steps[1], noise(1, 4, 16, 16)
    NoiseMap().steer(pointwise, step, z)
    (seed,) = pointwise.backbone.seeds
    coefficient = abs(step.there.s - step.there.a * step.here.s / step.here.a)
    assert_close(seed.abs(), torch.full_like(seed, coefficient))
    assert coefficient > 1e3 * torch.finfo(torch.float16).tiny


def test_the_gradient_survives_a_half_precision_network(build, trajectory):
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        backbone = Backbone(build())
        run = prepare(backbone, trajectory)
        backbone.unet.to(dtype)
        gradients.append(gradient_of(NoiseMap(energy="l2"), run, run.steps[1], run.start))
    full, half = (gradient.flatten() for gradient in gradients)
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert F.cosine_similarity(full, half, dim=0) > 0.9


def test_no_hook_is_active_while_the_gradient_is_taken(run, monkeypatch):
    hooked = []
    eps = Backbone.predict
    monkeypatch.setattr(
        Backbone,
        "predict",
        lambda self, x, step, text, attend=None: hooked.append((len(x), attend)) or eps(self, x, step, text, attend),
    )
    list(denoise(run, NoiseMap(), Watcher()))
    assert [attend for size, attend in hooked if size == 1] == [None] * len(run.steps)
    assert [attend for size, attend in hooked if size == 6] == [decline] * len(run.steps)


def decline(site, q, k, v, mask):
    return None


class Watcher(Editor):
    def attend(self, run, step):
        return decline


def test_guidance_can_run_twice_with_the_same_result(sample):
    guidance = NoiseMap()
    assert torch.equal(sample(guidance=guidance), sample(guidance=guidance))


def test_noise_map_guidance_brings_the_reconstruction_back_from_where_text_guidance_pushed_it(build, monkeypatch):
    pipe = build()
    alphas, clean = pipe.scheduler.alphas_cumprod, 2 * noise(1, 4, 16, 16)

    def gaussian_world(x, timestep, encoder_hidden_states, **_):
        """The best denoiser's noise when pictures are Gaussian with variance 4, moved by the text."""
        push = 0.2 * encoder_hidden_states.mean(1)[:, :4, None, None]
        alpha = alphas[timestep]
        return ((1 - alpha).sqrt() * (x / (4 * alpha + 1 - alpha) + push),)

    monkeypatch.setattr(pipe.unet, "forward", gaussian_world)
    run = prepare(pipe, rise(Backbone(pipe), clean, SOURCE, 20))
    strays = {}
    for guidance in (CFG(10), NoiseMap(gradient_scale=20_000)):
        *_, (_, x) = denoise(run, guidance, Editor())
        strays[type(guidance)] = (x - clean).abs().mean().item()
    assert strays[NoiseMap] < 0.3 * strays[CFG]


# ---------------------------------------------------------------- a scale for every step


def test_equal_scales_in_a_list_or_from_a_function_are_one_scale(sample):
    expected = sample((), NoiseMap(noise_map_scale=3, **GENTLE))
    for scale in ([3.0] * 4, (3, 3, 3, 3), lambda step: 3.0):
        assert torch.equal(sample((), NoiseMap(noise_map_scale=scale, **GENTLE)), expected)


def test_a_list_gives_each_step_its_own_scale_noisiest_first_and_a_function_too(run):
    scales, x = [4.0, 3.0, 2.0, 1.0], noise(3, 4, 16, 16)
    for step in run.steps:
        alone = NoiseMap(noise_map_scale=scales[step.index]).steer(run, step, x)
        for given in (scales, lambda step: 4.0 - step.index):
            guidance = NoiseMap(noise_map_scale=given)
            assert guidance.strength(step) == 5000 * scales[step.index]
            assert torch.equal(guidance.steer(run, step, x), alone)


@pytest.mark.parametrize("scale", [3.0, (3.0,) * 5, lambda step: 3.0], ids=["number", "numbers", "function"])
def test_the_strength_counts_by_50_steps(scale):
    guidance, step = NoiseMap(noise_map_scale=scale, gradient_scale=70), Step(2, 1, diffusion(0.5), diffusion(0.9))
    assert guidance.strength(step) == guidance.strength(step, 50) == 210
    assert guidance.strength(step, 5) == pytest.approx(21)


# ---------------------------------------------------------------- the null noise, used again


@pytest.mark.parametrize("editor", [Editor(), PromptToPrompt(), MasaCtrl(start_step=1, start_layer=1)], ids=repr)
def test_the_null_noise_of_the_row_before_it_was_steered_is_used_again(run, editor):
    x = run.start
    for step, latents in denoise(run, NoiseMap(reuse_null=True, **GENTLE), editor):
        steered = NoiseMap(**GENTLE).steer(run, step, x)
        null = run.predict(x[:1], step, run.null[:1])
        text = run.predict(steered[:1], step, run.text[:1])
        expected = transfer(steered[:1], null + 3 * (text - null), step.here, step.there)
        assert_close(latents[:1], expected, rtol=1e-5, atol=1e-5)
        x = latents


def test_where_both_copies_read_the_same_text_no_noise_is_used_again(sample, trajectory):
    same = [sample((), NoiseMap(reuse_null=again, **GENTLE), negative=trajectory.prompt) for again in (False, True)]
    assert torch.equal(*same)


def test_another_null_prompt_has_a_noise_of_its_own(run):
    stack = (NullText(3.0, iterations=1) + NoiseMap(reuse_null=True, **GENTLE)).prepare(run)
    stack.steer(run, run.steps[0], run.start)
    assert stack.null_noise(run, run.steps[0]) is None


def test_a_fast_step_takes_one_call_without_gradient_and_the_source_at_the_end_alone(run, monkeypatch):
    seen, eps = [], Backbone.predict

    def watched(self, x, *rest):
        seen.append(len(x))
        return eps(self, x, *rest)

    monkeypatch.setattr(Backbone, "predict", watched)
    list(denoise(run, NoiseMap.fast(text_scale=3.0), Editor()))
    # Two targets twice; in the last step, after which the source is not put on a map, the source twice.
    assert seen == [4, 4, 4, 6]
    seen.clear()
    list(denoise(run, NoiseMap.fast(text_scale=3.0, during=(0.0, 0.5)), Editor()))
    assert seen == [4, 6, 6, 6]


def test_a_fast_step_lands_where_a_strong_bounded_one_does(run, sample):
    """Of the L1 energy without the Jacobian, whose gradient is a sign."""
    for step in run.steps:
        x = noise(3, 4, 16, 16)
        landed = NoiseMap.fast().steer(run, step, x)
        strong = NoiseMap(noise_map_scale=1e6, jacobian=False).steer(run, step, x)
        assert_close(landed, strong, rtol=1e-4, atol=1e-4)
        assert torch.equal(landed[:1], run.trajectory.target(step).float()) and torch.equal(landed[1:], x[1:])
    # The source's end is that of the strong one, too.
    ends = [
        sample((), way)
        for way in (NoiseMap.fast(text_scale=3.0), NoiseMap(noise_map_scale=1e6, jacobian=False, text_scale=3.0))
    ]
    assert_close(*ends, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("bound", [None, "none", "element"])
def test_a_fast_step_with_another_bound_is_refused(bound):
    with pytest.raises(ValueError, match=r'NoiseMap.fast\(\) has bound="map", got '):
        NoiseMap.fast(bound=bound)


def test_a_row_that_is_put_on_its_map_takes_no_mask():
    with pytest.raises(ValueError, match='bound="map" has no strength that a mask could take away'):
        NoiseMap.fast(mask=MASK)


def test_a_function_may_look_at_the_noise_level(run):
    guidance = NoiseMap(noise_map_scale=lambda step: 10 * step.here.s, gradient_scale=2)
    assert [guidance.strength(step) for step in run.steps] == [20 * step.here.s for step in run.steps]


def test_a_list_is_kept_as_a_tuple_that_the_caller_can_not_change():
    scales = [1.0, 2.0]
    guidance = NoiseMap(noise_map_scale=scales)
    scales[0] = 5.0
    assert guidance == NoiseMap(noise_map_scale=(1.0, 2.0)) and guidance.noise_map_scale == (1.0, 2.0)


@pytest.mark.parametrize("scales", [[], [1.0] * 3, [1.0] * 5], ids=len)
def test_scales_for_another_number_of_steps_are_refused(backbone, trajectory, scales):
    with pytest.raises(
        ValueError, match=f"holds {len(scales)} numbers and the run has 4 steps; give one for each step"
    ):
        edit(backbone, trajectory, guidance=NoiseMap(noise_map_scale=scales), progress=False)


@pytest.mark.parametrize("scale", [[1.0, math.nan], [math.inf], [True, 1.0], "10"], ids=str)
def test_scales_that_are_no_numbers_are_refused(scale, unchecked):
    with pytest.raises(ValueError, match="NoiseMap: noise_map_scale=.* must be a finite number"):
        NoiseMap(noise_map_scale=scale)


@pytest.mark.parametrize("value", [math.nan, None, "10", True])
def test_a_function_that_gives_no_number_is_stopped_at_its_step(run, value, unchecked):
    guidance = NoiseMap(noise_map_scale=lambda step: value if step.index == 2 else 1.0, **GENTLE)
    with pytest.raises(ValueError, match="noise_map_scale at step 2=.* must be a finite number"):
        list(denoise(run, guidance, Editor()))


def test_a_check_names_the_method_and_the_setting():
    check_finite(CFG(), "text_scale", 3)
    with pytest.raises(ValueError, match=r"^CFG: text_scale='3' must be a finite number$"):
        check_finite(CFG(), "text_scale", "3")


# ---------------------------------------------------------------- the part of the steps


def test_all_steps_is_the_default(sample):
    assert NoiseMap(during=(0, 1)) == NoiseMap()
    assert torch.equal(sample((), NoiseMap(during=(0, 1), **GENTLE)), sample((), NoiseMap(**GENTLE)))


@pytest.mark.parametrize(
    ("during", "steered"),
    [((0, 0.5), {0, 1}), ((0.5, 1), {2, 3}), ((0.25, 0.75), {1, 2}), ((0, 0.25), {0}), ((0.7, 1.0), {3})],
    ids=str,
)
def test_steps_outside_of_the_part_are_left_alone(run, during, steered):
    guidance, x = NoiseMap(during=during), noise(3, 4, 16, 16)
    for step in run.steps:
        moved = guidance.steer(run, step, x)
        assert torch.equal(moved, NoiseMap().steer(run, step, x)) if step.index in steered else moved is x


def test_a_step_outside_of_the_part_is_plain_classifier_free_guidance(run):
    x = run.start
    for step, latents in denoise(run, NoiseMap(during=(0.5, 1), **GENTLE), Editor()):
        if step.index < 2:
            text = torch.cat([run.null, run.text])
            eps = CFG(3).combine(run, step, run.predict(torch.cat([x, x]), step, text))
            assert torch.equal(latents, transfer(x, eps, step.here, step.there))
        x = latents


def test_a_step_outside_of_the_part_costs_no_gradient(backbone, trajectory, monkeypatch):
    asked, gradient = [], Run.gradient

    def watched(self, x, step, *given, **options):
        asked.append(step.index)
        return gradient(self, x, step, *given, **options)

    monkeypatch.setattr(Run, "gradient", watched)
    list(denoise(prepare(backbone, trajectory), NoiseMap(during=(0.25, 0.5), **GENTLE), Editor()))
    assert asked == [1]


@pytest.mark.parametrize("during", [(0, 0), (1, 1), (0.5, 0.2), (-0.1, 0.5), (0.5, 1.1), (0, math.nan)], ids=str)
def test_shares_that_are_no_part_of_the_steps_are_refused(during):
    with pytest.raises(ValueError, match=r"during=.* must be two rising shares of the steps, such as \(0, 0.5\)"):
        NoiseMap(during=during)


# ---------------------------------------------------------------- masks


def test_a_mask_keeps_the_strength_inside_and_takes_it_away_outside(run):
    step, x = run.steps[1], noise(3, 4, 16, 16)
    free, full = (NoiseMap(noise_map_scale=scale).steer(run, step, x) for scale in (0, 3000))
    masked = NoiseMap(mask=MASK).prepare(run).steer(run, step, x)
    assert_close(masked[0, :, MASK], full[0, :, MASK])
    assert_close(masked[0, :, ~MASK], free[0, :, ~MASK])
    assert torch.equal(masked[1:], x[1:]) and (full - free)[0].abs().amin() > 0


@pytest.mark.parametrize("share", [0.25, 1])
def test_outside_holds_a_share_of_the_strength(run, share):
    step, x = run.steps[1], noise(3, 4, 16, 16)
    weaker, full = (NoiseMap(noise_map_scale=scale).steer(run, step, x) for scale in (3000 * share, 3000))
    masked = NoiseMap(mask=MASK, outside=share).prepare(run).steer(run, step, x)
    assert_close(masked[0, :, MASK], full[0, :, MASK])
    assert_close(masked[0, :, ~MASK], weaker[0, :, ~MASK])


def test_with_the_full_strength_outside_a_mask_is_none(sample):
    assert torch.equal(sample((), NoiseMap(mask=MASK, outside=1, **GENTLE)), sample((), NoiseMap(**GENTLE)))


def test_a_mask_may_be_an_array_a_tensor_a_picture_or_a_file_of_any_size(run, tmp_path):
    large = np.kron(MASK, np.ones((4, 4), bool))
    Image.fromarray(large).save(tmp_path / "mask.png")
    ways = (MASK, MASK[None].astype(float), torch.from_numpy(MASK).float(), Image.fromarray(MASK), large)
    files = (tmp_path / "mask.png", str(tmp_path / "mask.png"))
    for mask in (*ways, *files):
        weight = NoiseMap(mask=mask, outside=0.5).opened().prepare(run).weight
        assert torch.equal(weight, torch.where(torch.from_numpy(MASK), 1.0, 0.5))


def test_a_mask_keeps_the_other_settings(run):
    config = NoiseMap(mask=MASK, noise_map_scale=[1, 2, 3, 4], energy="l2", level="start", during=(0, 0.5), **GENTLE)
    prepared = config.prepare(run)
    for field in dataclasses.fields(config):
        assert getattr(prepared, field.name) == getattr(config, field.name)
    assert prepared.steer(run, run.steps[2], run.start) is not None and config.prepare(run) is not prepared


@pytest.mark.parametrize(("mask", "what"), [(MASK | True, "foreground"), (MASK & False, "background")])
def test_a_mask_that_separates_nothing_is_refused(backbone, trajectory, mask, what):
    with pytest.raises(ValueError, match=f"NoiseMap: a mask is all {what} at the latent's size 16×16"):
        edit(backbone, trajectory, guidance=NoiseMap(mask=mask), progress=False)


def test_masks_that_can_not_be_used_are_refused(run, tmp_path):
    with pytest.raises(ValueError, match=r"a mask has the shape \[2, 16, 16\]; give \[height, width\]"):
        NoiseMap(mask=np.stack([MASK, MASK]))
    with pytest.raises(FileNotFoundError, match=r"no picture at .*none\.png"):
        NoiseMap(mask=tmp_path / "none.png").prepare(run)
    (tmp_path / "words.png").write_text("words")
    with pytest.raises(ValueError, match="can't be read as a picture"):
        NoiseMap(mask=tmp_path / "words.png").prepare(run)


@pytest.mark.parametrize("share", [-0.1, 1.1])
def test_a_strength_outside_that_is_no_share_is_refused(share):
    with pytest.raises(ValueError, match="outside=.* must be a share of the strength, 0…1"):
        NoiseMap(mask=MASK, outside=share)


def test_an_unknown_level_is_refused():
    with pytest.raises(ValueError, match="level='middle' is unknown; end, start work"):
        NoiseMap(level="middle")


# ---------------------------------------------------------------- direct inversion


def test_the_source_row_of_direct_inversion_is_the_trajectory_at_every_step(run):
    for step, x in denoise(run, Direct(), Editor()):
        assert torch.equal(x[:1], run.trajectory.target(step))
    assert torch.equal(x[:1], run.trajectory.maps[:1])


@pytest.mark.parametrize("editor", [PromptToPrompt(), MasaCtrl(0, 0)], ids=lambda editor: type(editor).__name__)
def test_under_an_editor_the_source_row_of_direct_inversion_is_the_trajectory_too(run, editor):
    for step, x in denoise(run, Direct(), editor):
        assert torch.equal(x[:1], run.trajectory.target(step))


def test_direct_inversion_leaves_the_targets_alone(run, sample):
    x, eps = noise(3, 4, 16, 16), noise(6, 4, 16, 16)
    assert torch.equal(Direct().correct(run, run.steps[0], x, eps)[1:], x[1:])
    # Without an editor no target looks at the source.
    assert_close(sample(guidance=Direct())[1:], sample(guidance=CFG())[1:], rtol=1e-4, atol=1e-4)


def test_direct_inversion_adds_the_papers_stored_difference(run):
    """Section 4: walk once with the source alone, keep its differences, add them on the next walk."""
    x, differences = run.start[:1], []
    for step in run.steps:
        eps = run.predict(torch.cat([x, x]), step, torch.cat([run.null[:1], run.text[:1]]))
        x = transfer(x, CFG(7.5).combine(run, step, eps), step.here, step.there)
        differences.append(run.trajectory.target(step) - x)
        x = x + differences[-1]
    x = run.start
    for step, latents in denoise(run, Direct(7.5), Editor()):
        eps = run.predict(torch.cat([x, x]), step, torch.cat([run.null, run.text]))
        x = transfer(x, CFG(7.5).combine(run, step, eps), step.here, step.there)
        x[:1] += differences[step.index]
        assert_close(latents, x, rtol=1e-2, atol=1e-2)


# ---------------------------------------------------------------- what can't go together


@pytest.fixture
def silent(tiny, monkeypatch):
    """A pipeline in which nothing may be computed."""
    pipe = tiny()

    def compute(*given, **options):
        pytest.fail("something was computed")

    for part, name in ((pipe.unet, "forward"), (pipe.vae, "encode"), (pipe, "encode_prompt")):
        monkeypatch.setattr(part, name, compute)
    return pipe


REFUSED = [
    (NoiseMap(), {"inversion": EditFriendly()}, "NoiseMap steers by .*, and the noise maps of EditFriendly"),
    (NullText(), {"inversion": EditFriendly()}, "NullText steers by what a DDIM step leads to"),
    (ProxNegativePrompt(pull="reconstruction"), {"inversion": EditFriendly()}, "ProxNegativePrompt steers by"),
    (Direct(), {"convention": "diffusers-0.18"}, "Direct brings the source row to the noise map .* one level above"),
    (NullText(), {"convention": "diffusers-0.18"}, "NullText brings the source row .* or use NoiseMap or CFG"),
    (ProxNegativePrompt(), {"convention": "diffusers-0.18"}, "ProxNegativePrompt brings the source row"),
    (NegativePrompt(), {"negative": "blurry"}, "NegativePrompt takes .* negative='blurry' would do nothing"),
    (ProxNegativePrompt(), {"negative": "blurry"}, "ProxNegativePrompt takes the source prompt for the null prompt"),
    (Direct(10) + NoiseMap(), {"convention": "diffusers-0.18"}, "Direct brings the source row"),
    (CFG(10) + NoiseMap(), {"inversion": EditFriendly()}, "NoiseMap steers by what a DDIM step leads to"),
    (Direct() + NegativePrompt(), {"negative": "blurry"}, "NegativePrompt takes the source prompt"),
]  # fmt: skip
REFUSED_IDS = [f"{i}-{'-'.join(options)}" for i, (_, options, _) in enumerate(REFUSED)]


@pytest.mark.parametrize(("guidance", "options", "reason"), REFUSED, ids=REFUSED_IDS)
def test_what_can_not_go_together_is_refused_before_anything_is_computed(silent, picture, guidance, options, reason):
    with pytest.raises(ValueError, match=reason):
        edit(silent, picture, SOURCE, [TARGET], guidance=guidance, **options, progress=False)


@pytest.mark.parametrize(("guidance", "options", "reason"), REFUSED, ids=REFUSED_IDS)
def test_with_a_trajectory_too(silent, trajectory, guidance, options, reason):
    negative = options.get("negative")
    made = dataclasses.replace(trajectory, **{name: value for name, value in options.items() if name != "negative"})
    with pytest.raises(ValueError, match=reason):
        edit(silent, made, targets=[TARGET], guidance=guidance, negative=negative, progress=False)


def test_a_search_of_null_texts_is_refused_too(backbone, trajectory):
    made = dataclasses.replace(trajectory, inversion=EditFriendly())
    with pytest.raises(ValueError, match="NullText steers by what a DDIM step leads to"):
        find_null_texts(backbone, made, progress=False)


@pytest.mark.parametrize(
    ("guidance", "options"),
    [
        (CFG(), {"inversion": EditFriendly(), "negative": "blurry"}),
        (NegativePrompt(), {"inversion": EditFriendly()}),
        (ProxNegativePrompt(), {"inversion": EditFriendly()}),
        (Direct(), {"inversion": EditFriendly()}),
        (CFG(), {"convention": "diffusers-0.18"}),
        (NoiseMap(), {"convention": "diffusers-0.18"}),
        (NegativePrompt(), {"convention": "diffusers-0.18"}),
        (ProxNegativePrompt(pull="none"), {"convention": "diffusers-0.18"}),
        (ProxNegativePrompt(pull="none"), {"inversion": EditFriendly()}),
    ],
    ids=str,
)
def test_what_the_reasons_recommend_works(tiny, picture, guidance, options):
    result = edit(tiny(), picture, SOURCE, [TARGET], guidance=guidance, steps=1, **options, progress=False)
    assert result.latents.isfinite().all()


# ---------------------------------------------------------------- every guidance


EVERY = {
    "CFG": CFG(),
    "NoiseMap": NoiseMap(**GENTLE),
    "masked NoiseMap": NoiseMap(mask=MASK, outside=0.2, noise_map_scale=[3.0, 2.0], **GENTLE),
    "NullText": NullText(iterations=2),
    "NegativePrompt": NegativePrompt(),
    "ProxNegativePrompt": ProxNegativePrompt(below=1000),
    "reconstruction": ProxNegativePrompt(threshold="soft", pull="reconstruction", below=1000),
    "Direct": Direct(),
    "NoiseMap + NullText + Direct": NoiseMap(**GENTLE) + NullText(3.0, iterations=2) + Direct(3.0),
}
EDITORS = (Editor(), PromptToPrompt(), MasaCtrl(0, 0), Pix2PixZero())


@pytest.fixture(scope="module")
def short(backbone, trajectory):
    """The trajectory in two steps."""
    return rise(backbone, trajectory.maps[:1], trajectory.prompt, 2)


@pytest.mark.parametrize("editor", EDITORS, ids=lambda editor: type(editor).__name__)
@pytest.mark.parametrize("guidance", EVERY.values(), ids=EVERY)
def test_every_guidance_works_with_every_editor(backbone, short, guidance, editor):
    rows = [x for _, x in denoise(prepare(backbone, short, [TARGET]), guidance, editor)]
    assert len(rows) == 2 and all(x.shape == (2, 4, 16, 16) and x.isfinite().all() for x in rows)
    assert (rows[-1][0] - rows[-1][1]).abs().max() > 1e-3


@pytest.mark.parametrize("guidance", EVERY.values(), ids=EVERY)
def test_every_guidance_runs_again_in_inference_mode_with_the_same_result(backbone, short, guidance):
    def rows():
        return [x for _, x in denoise(prepare(backbone, short), guidance, Editor())][-1]

    expected = rows()
    with torch.inference_mode():
        again = rows()
    assert torch.equal(again, expected) and not expected.requires_grad
    assert all(weight.grad is None and weight.requires_grad for weight in backbone.unet.parameters())


@pytest.fixture(scope="module")
def half(build):
    return build().to(torch.bfloat16)


@pytest.mark.parametrize("guidance", EVERY.values(), ids=EVERY)
def test_every_guidance_works_in_half_precision(half, short, guidance):
    run = prepare(half, short, [TARGET])
    assert run.text.tokens.dtype == torch.bfloat16
    rows = [x for _, x in denoise(run, guidance, Editor())]
    assert all(x.dtype == torch.float32 and x.isfinite().all() for x in rows)


# ---------------------------------------------------------------- settings that can't be used


@pytest.mark.parametrize("scale", [math.nan, math.inf, -math.inf, True])
@pytest.mark.parametrize("name", ["text_scale", "noise_map_scale", "gradient_scale"])
def test_a_scale_that_is_no_finite_number_is_refused(name, scale):
    with pytest.raises(ValueError, match=f"NoiseMap: {name}=.* must be a finite number"):
        NoiseMap(**{name: scale})


def test_cfg_refuses_a_scale_that_is_no_finite_number():
    with pytest.raises(ValueError, match="CFG: text_scale=nan must be a finite number"):
        CFG(math.nan)


def test_an_unknown_energy_is_refused():
    with pytest.raises(ValueError, match="l1, l2, smooth_l1 work"):
        NoiseMap(energy="l3")


def test_the_three_scales_go_by_name():
    with pytest.raises(TypeError, match="positional"):
        NoiseMap(10, 5000, 7.5)


def test_without_a_bound_the_defaults_are_the_papers():
    papers = {"gradient_scale": 5000, "text_scale": 10, "energy": "l1", "level": "end", "jacobian": True}
    assert NoiseMap() == NoiseMap(bound="element", **papers)
    assert NoiseMap.fast() == NoiseMap(bound="map", jacobian=False)
    for bound, scale in {None: 10, "rescale": 10, "element": 3000, "norm": 3000}.items():
        assert NoiseMap(bound=bound).scale == dataclasses.replace(NoiseMap(), bound=bound).scale == scale
        assert NoiseMap(bound=bound, noise_map_scale=3).scale == 3


# ---------------------------------------------------------------- the bound


def distance_after(run, step, x, **settings):
    """How far the source row ends from its noise map after a steered step, beside a step along e_∅ alone."""
    target = run.trajectory.target(step)
    ways = NoiseMap(**settings), NoiseMap(noise_map_scale=0)
    return [(guidance.steer(run, step, x)[:1] - target).norm() for guidance in ways]


@pytest.mark.parametrize("jacobian", [True, False])
@pytest.mark.parametrize("energy", ["l1", "l2"])
@pytest.mark.parametrize("bound", ["element", "norm"])
def test_a_bounded_step_never_throws_the_source_away(run, bound, energy, jacobian):
    step, x = run.steps[0], noise(3, 4, 16, 16)
    settings = {"energy": energy, "jacobian": jacobian, "gradient_scale": 1e9}
    bounded, plain = distance_after(run, step, x, bound=bound, **settings)
    assert bounded <= 2 * plain
    assert distance_after(run, step, x, bound=None, **settings)[0] > 100 * plain


def test_a_bound_by_element_without_the_network_lands_on_the_noise_map(run):
    step, x = run.steps[0], noise(3, 4, 16, 16)
    steered = NoiseMap(jacobian=False, bound="element", gradient_scale=1e9).steer(run, step, x)
    assert_close(steered[:1], run.trajectory.target(step), rtol=1e-4, atol=1e-4)
    assert torch.equal(steered[1:], x[1:])


@pytest.mark.parametrize("bound", ["element", "norm"])
def test_a_correction_that_is_short_is_the_published_one(run, bound):
    step, x = run.steps[0], noise(3, 4, 16, 16)
    steered = [NoiseMap(gradient_scale=1e-4, bound=b, jacobian=False).steer(run, step, x) for b in (bound, None)]
    assert_close(*steered)


@pytest.mark.parametrize("bound", ["element", "norm"])
def test_a_bounded_correction_keeps_the_direction_of_the_gradient(run, bound):
    step, x = run.steps[0], noise(3, 4, 16, 16)
    plain, free, held = (
        NoiseMap(noise_map_scale=scale, bound=b).steer(run, step, x)[:1]
        for scale, b in ((0, None), (10, None), (10, bound))
    )
    moves = free - plain, held - plain
    assert (moves[0] * moves[1] >= -1e-12).all() and moves[1].norm() <= moves[0].norm()


def test_an_unknown_bound_is_refused():
    with pytest.raises(ValueError, match="bound='box' is unknown; element, norm, map, rescale, None work"):
        NoiseMap(bound="box")
    assert NoiseMap(bound="none").bound is None
