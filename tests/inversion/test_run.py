import copy
import dataclasses
import math

import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from safetensors import safe_open
from safetensors.torch import save_file
from torch.nn import functional as F
from torch.testing import assert_close

from nmg import (
    CFG,
    DDIM,
    Backbone,
    Direct,
    EditFriendly,
    Editor,
    FixedPoint,
    NegativePrompt,
    PromptToPrompt,
    Regularised,
    Trajectory,
    UniInv,
    denoise,
    edit,
    images,
    invert,
    prepare,
    steps,
    transfer,
)
from nmg.inversion import CONVENTIONS, rise
from nmg.inversion.base import Rise
from nmg.inversion.regularised import auto_correlation, divergence, draw_shifts
from nmg.levels import diffusion, spread

SOURCE = "a red cat sitting in the forest"


@pytest.fixture(scope="module")
def latents(backbone, picture):
    return backbone.encode(images.to_tensor(backbone.prepare(picture)))


def constant(pipe, monkeypatch):
    """Lets a pipeline's network predict the same noise everywhere, and returns the noise. On another size it says what
    it is given."""
    noise = torch.randn(1, pipe.unet.config.in_channels, 16, 16, generator=torch.Generator().manual_seed(0))
    monkeypatch.setattr(
        pipe.unet, "forward", lambda x, *given, **options: (noise.expand_as(x) if x.shape[-1] == 16 else x,)
    )
    return noise


# ---------------------------------------------------------------- levels


@pytest.mark.parametrize("count", [1, 4, 50])
@pytest.mark.parametrize("offset", [None, 0])
def test_aligned_maps_lie_where_the_steps_that_they_guide_end(build, monkeypatch, latents, count, offset):
    pipe = build()
    constant(pipe, monkeypatch)
    trajectory = rise(Backbone(pipe), latents, SOURCE, count, offset=offset)
    for step in trajectory.steps:
        assert trajectory.levels[count - 1 - step.index] == step.there
        assert trajectory.levels[count - step.index] == step.here
        assert torch.equal(trajectory.target(step)[0], trajectory.maps[count - 1 - step.index])


def test_the_authors_maps_lie_one_level_above(build, monkeypatch, latents):
    pipe = build()
    constant(pipe, monkeypatch)
    trajectory = rise(Backbone(pipe), latents, SOURCE, 10, "diffusers-0.18", 0)
    for step in trajectory.steps:
        assert trajectory.levels[9 - step.index] == step.here
    assert trajectory.levels[-1] == diffusion(float(pipe.scheduler.alphas_cumprod[-1]))


@pytest.mark.parametrize(("convention", "offset"), [("aligned", None), ("diffusers-0.18", 0)])
def test_maps_are_at_the_levels_that_they_name(build, monkeypatch, latents, convention, offset):
    pipe = build()
    noise = constant(pipe, monkeypatch)
    trajectory = rise(Backbone(pipe), latents, SOURCE, 10, convention, offset)
    assert len(trajectory.maps) == len(trajectory.levels) == 11
    for z, level in zip(trajectory.maps, trajectory.levels, strict=True):
        assert_close(z[None], transfer(latents, noise, trajectory.levels[0], level), rtol=1e-4, atol=1e-4)


def test_sampling_with_the_noise_that_inverted_walks_back_over_every_map(build, monkeypatch, latents):
    pipe = build()
    constant(pipe, monkeypatch)
    trajectory = rise(Backbone(pipe), latents, SOURCE, 10)
    for step, x in denoise(prepare(pipe, trajectory), CFG(), Editor()):
        assert_close(x, trajectory.target(step), rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("prediction_type", ["epsilon", "v_prediction", "sample"])
def test_aligned_inversion_asks_the_network_at_the_level_above(tiny, picture, prediction_type):
    backbone = Backbone(tiny(prediction_type=prediction_type))
    trajectory = invert(backbone, picture, SOURCE, steps=4, progress=False)
    text = backbone.text([SOURCE])
    for k, step in enumerate(reversed(trajectory.steps)):
        z = trajectory.maps[k : k + 1]
        expected = transfer(z, backbone.predict(z, step, text), step.there, step.here)
        assert_close(trajectory.maps[k + 1 : k + 2], expected, rtol=1e-4, atol=1e-4)


def test_the_first_map_is_the_picture_and_the_last_the_start(trajectory, latents):
    assert torch.equal(trajectory.maps[:1], latents)
    assert torch.equal(trajectory.maps[-1:], trajectory.start)


def test_inversion_and_sampling_at_guidance_1_meet_the_picture_more_closely_with_more_steps(
    build, monkeypatch, latents
):
    pipe, errors = build(), []
    alphas, variance = pipe.scheduler.alphas_cumprod, 3.0
    latents = latents * (variance**0.5 / latents.std())

    def ideal(x, timestep, **_):
        """The noise that the best denoiser predicts when pictures are Gaussian."""
        alpha = alphas[timestep]
        return ((1 - alpha).sqrt() * x / (alpha * variance + 1 - alpha),)

    monkeypatch.setattr(pipe.unet, "forward", ideal)
    for count in (5, 20, 80):
        run = prepare(pipe, rise(Backbone(pipe), latents, SOURCE, count))
        *_, (_, x) = denoise(run, CFG(1), Editor())
        errors.append((x - latents).square().mean().sqrt() / latents.std())
    assert errors[0] > 2 * errors[1] > 4 * errors[2]
    assert errors[2] < 0.05


# ---------------------------------------------------------------- invert


def test_inversion_is_deterministic(backbone, picture, trajectory):
    torch.manual_seed(5)
    again = invert(backbone, picture, trajectory.prompt, steps=4, progress=False)
    assert torch.equal(again.maps, trajectory.maps)
    assert (again.steps, again.levels, again.model) == (trajectory.steps, trajectory.levels, trajectory.model)


def test_a_pipeline_and_its_backbone_give_the_same_trajectory(backbone, picture):
    first, second = (invert(given, picture, SOURCE, steps=2, progress=False) for given in (backbone.pipe, backbone))
    assert torch.equal(first.maps, second.maps)


def test_every_kind_of_model_inverts(any_model, picture):
    pipe = any_model
    trajectory = invert(pipe, picture, SOURCE, steps=3, progress=False)
    size = pipe.unet.config.sample_size
    assert trajectory.maps.shape == (4, pipe.unet.config.in_channels, size, size)
    assert trajectory.maps.isfinite().all()


@pytest.mark.parametrize("size", [(40, 24), (18, 34)])
def test_other_sizes_and_shapes_invert(backbone, picture, size):
    trajectory = invert(backbone, picture, SOURCE, steps=2, size=size, progress=False)
    assert trajectory.latent_size == (size[1] // 2, size[0] // 2)


def test_an_empty_prompt_inverts(backbone, picture):
    assert invert(backbone, picture, steps=2, progress=False).prompt == ""


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"steps": 0}, "whole number from 1 to 1000"),
        ({"convention": "odd"}, "aligned, diffusers-0.18 work"),
        ({"size": (33, 32)}, "multiples of 2"),
        ({"prompt": "cat " * 30}, "shorten"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_settings_that_can_not_be_used_are_refused(backbone, picture, options, message):
    with pytest.raises(ValueError, match=message):
        invert(backbone, picture, **{"prompt": SOURCE, **options, "progress": False})


def test_a_network_that_predicts_nan_is_stopped_at_its_step(build, picture, monkeypatch):
    pipe = build()
    constant(pipe, monkeypatch).fill_(torch.nan)
    with pytest.raises(FloatingPointError, match=r"inversion step 0 \(t = 1\)"):
        invert(pipe, picture, SOURCE, steps=4, progress=False)


def test_conventions_have_names():
    assert set(CONVENTIONS) == {"aligned", "diffusers-0.18"}


# ---------------------------------------------------------------- regularised


UP = Rise(1, diffusion(0.5), diffusion(0.5), diffusion(0.4))


def seeded(seed=0):
    return torch.Generator().manual_seed(seed)


@pytest.fixture
def coloured():
    """Noise that is far from white: smooth, too wide and off centre."""
    noise = torch.randn(1, 4, 36, 36, generator=seeded())
    return 0.3 + 7 * F.avg_pool2d(noise, 5, 1)


def whitened(noise, seed=0, **options):
    return Regularised(**options).noise(lambda x: noise, torch.zeros_like(noise), UP, seeded(seed))


@pytest.mark.parametrize("seed", [0, 7])
def test_with_weights_that_move_nothing_a_regularised_inversion_is_ddim(backbone, picture, trajectory, seed):
    method = Regularised(auto_correlation=1e-30, divergence=0, seed=seed)
    plain = invert(backbone, picture, trajectory.prompt, steps=4, inversion=method, progress=False)
    assert torch.equal(plain.maps, trajectory.maps)
    named = invert(backbone, picture, trajectory.prompt, steps=4, inversion=DDIM(), progress=False)
    assert torch.equal(named.maps, trajectory.maps)


def test_the_same_seed_gives_the_same_maps_and_another_seed_others(backbone, picture, trajectory):
    def maps(seed):
        method = Regularised(rounds=1, seed=seed)
        return invert(backbone, picture, SOURCE, steps=2, inversion=method, progress=False).maps

    first, again, other = maps(0), maps(0), maps(1)
    assert torch.equal(first, again)
    assert torch.equal(first[0], other[0]) and (first - other)[1:].abs().amax((1, 2, 3)).min() > 1e-6


@pytest.mark.parametrize("fixed", [[1, 1, 1], [3, 2, 2], [13, 6, 3]])
def test_regularised_noise_is_whiter(coloured, fixed):
    shifts = [fixed] * 4
    white, only_shifts = whitened(coloured), whitened(coloured, divergence=0)
    assert auto_correlation(only_shifts, shifts) < 0.9 * auto_correlation(coloured, shifts)
    assert auto_correlation(white, shifts) < auto_correlation(coloured, shifts)
    assert divergence(white) < 0.9 * divergence(coloured)


def test_the_divergence_alone_moves_mean_and_variance_to_a_standard_normals(coloured):
    white = whitened(coloured, auto_correlation=0, divergence=100, rounds=60)
    assert_close((white.mean(), white.var()), (torch.tensor(0.0), torch.tensor(1.0)), rtol=0.02, atol=0.02)


def test_more_rounds_and_larger_weights_move_the_noise_further(coloured):
    def moved(**options):
        return (whitened(coloured, **options) - coloured).square().mean()

    assert moved(rounds=1) < moved(rounds=5)
    assert moved(auto_correlation=5, divergence=5) < moved()


def test_a_regularised_inversion_starts_from_whiter_noise(backbone, picture, trajectory):
    method = Regularised()
    regularised = invert(backbone, picture, SOURCE, steps=4, inversion=method, progress=False)
    assert torch.equal(regularised.maps[0], trajectory.maps[0])
    assert regularised.maps.isfinite().all()
    assert divergence(regularised.start) < divergence(trajectory.start)


def test_the_auto_correlation_of_simple_patterns():
    def energy(noise):
        return auto_correlation(noise, [[1, 1]] * noise.shape[1])

    ones = torch.ones(1, 3, 16, 16)
    # Two axes, two levels, three channels, each of squared mean 1.
    assert_close(energy(ones), torch.tensor(12.0))
    assert_close(energy(2 * ones), torch.tensor(16 * 12.0))
    assert energy(0 * ones) == 0
    # Stripes are alike along their length and opposite across; halved, they vanish.
    stripes = (-ones).cumprod(-1)
    assert_close(energy(stripes), torch.tensor(6.0))


def test_the_auto_correlation_is_the_sum_of_equation_1():
    noise, expected = torch.randn(1, 2, 16, 20, generator=seeded()), 0.0
    shifts = [[5, 2], [1, 3]]
    for channel in range(2):
        n = noise[:, channel : channel + 1]
        for shift in shifts[channel]:
            for dim in (2, 3):
                expected += (n * torch.roll(n, shift, dim)).mean() ** 2
            n = F.avg_pool2d(n, 2)
    assert_close(auto_correlation(noise, shifts), expected)


@pytest.mark.parametrize(("mean", "std"), [(0.0, 1.0), (0.5, 1.0), (0.0, 2.0), (-1.0, 0.3)])
def test_the_divergence_is_twice_that_of_two_normals(mean, std):
    noise = torch.randn(1, 4, 16, 16, generator=seeded())
    noise = mean + std * (noise - noise.mean()) / noise.std()
    normal = torch.distributions.Normal
    expected = 2 * torch.distributions.kl_divergence(normal(mean, std), normal(0.0, 1.0))
    assert_close(divergence(noise), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize(
    ("shape", "sizes"), [((64, 64), [64, 32, 16, 8]), ((16, 40), [16, 8]), ((12, 9), [9, 4]), ((6, 6), [6])]
)
def test_shifts_go_from_1_to_below_half_of_every_level(shape, sizes):
    generator = seeded()
    drawn = torch.tensor([draw_shifts((1, 4, *shape), generator) for _ in range(200)])
    assert drawn.shape == (200, 4, len(sizes))
    for level, size in enumerate(sizes):
        assert set(drawn[..., level].flatten().tolist()) == set(range(1, max(2, size // 2)))


@pytest.mark.parametrize("size", [(40, 24), (18, 34)])
def test_other_sizes_and_shapes_invert_regularised(backbone, picture, size):
    trajectory = invert(backbone, picture, SOURCE, steps=1, size=size, inversion=Regularised(), progress=False)
    assert trajectory.latent_size == (size[1] // 2, size[0] // 2) and trajectory.maps.isfinite().all()


def test_a_regularised_inversion_works_in_inference_mode(backbone, picture):
    given = {"steps": 1, "inversion": Regularised(rounds=1), "progress": False}
    expected = invert(backbone, picture, SOURCE, **given).maps
    with torch.inference_mode():
        assert torch.equal(invert(backbone, picture, SOURCE, **given).maps, expected)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"auto_correlation": math.nan}, "auto_correlation=nan must be a finite number"),
        ({"divergence": math.inf}, "divergence=inf must be a finite number"),
        ({"auto_correlation": 0, "divergence": 0}, "with both weights 0 nothing is moved"),
        ({"rounds": 0}, "rounds=0 must be a whole number from 1 on"),
        ({"shifts": -1}, "shifts=-1 must be a whole number from 1 on"),
        ({"rounds": True}, "rounds=True must be a whole number"),
        ({"shifts": 2.5}, r"shifts=2\.5 must be a whole number"),
    ],
    ids=str,
)
def test_a_regularisation_that_can_not_be_used_is_refused(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Regularised(**options)


# ---------------------------------------------------------------- fixed point


@pytest.fixture
def calm(build, monkeypatch):
    """A backbone whose network depends so weakly on the latent that the iteration converges;
    `asked` counts its calls."""
    pipe = build()
    forward, asked = pipe.unet.forward, []

    def calmed(x, timestep, **options):
        asked.append(int(timestep))
        return (0.03 * forward(x, timestep, **options)[0],)

    monkeypatch.setattr(pipe.unet, "forward", calmed)
    backbone = Backbone(pipe)
    backbone.asked = asked
    return backbone


def strayed(backbone, latents, inversion, count=4):
    """How far a reconstruction at guidance 1 ends from the picture, at most."""
    run = prepare(backbone, rise(backbone, latents, SOURCE, count, inversion=inversion))
    *_, (_, x) = denoise(run, CFG(1), Editor())
    return (x - latents).abs().max().item()


def test_a_fixed_point_inversion_is_undone_by_sampling(calm, latents):
    plain, fixed = (strayed(calm, latents, method, 2) for method in (DDIM(), FixedPoint(30, 1e-7)))
    assert fixed < 1e-4 < 1e-2 * plain


def test_the_steps_down_lead_over_every_map_of_a_fixed_point_inversion(calm, latents):
    trajectory = rise(calm, latents, SOURCE, 3, inversion=FixedPoint(30, 1e-7))
    for step, x in denoise(prepare(calm, trajectory), CFG(1), Editor()):
        assert_close(x, trajectory.target(step), rtol=1e-4, atol=1e-4)


def test_more_iterations_bring_the_reconstruction_nearer(calm, latents):
    plain, *errors = (strayed(calm, latents, way, 2) for way in (DDIM(), FixedPoint(1, 0.0), FixedPoint(3, 0.0)))
    assert plain > 2 * errors[0] > 4 * errors[1]


def test_a_step_ends_early_when_the_latent_stays_where_it_is(calm, latents):
    numbers = {}
    for tolerance in (0.0, 1e-4, 1e-1, 1e9):
        calm.asked.clear()
        rise(calm, latents, SOURCE, 2, inversion=FixedPoint(6, tolerance))
        numbers[tolerance] = len(calm.asked)
    # One iteration shows that the latent stays; DDIM's own call comes before it. The last asks who the network is.
    assert numbers[1e9] == 2 * 2 + 1
    assert numbers[1e9] <= numbers[1e-1] < numbers[1e-4] < numbers[0.0] <= 2 * 7 + 1


def scripted(*answers):
    """A network that gives prepared noise, one after the other, and what it was asked."""
    asked, answers = [], [torch.full((1, 1, 2, 2), float(value)) for value in answers]

    def ask(x, scale=1.0):
        asked.append(x)
        return answers[len(asked) - 1]

    return ask, asked


def found(answers, **settings):
    """The noise that fixed-point iteration ends with, as a number, and how often it asked."""
    ask, asked = scripted(*answers)
    noise = FixedPoint(**settings).noise(
        ask, torch.zeros(1, 1, 2, 2), Rise(1, diffusion(0.5), diffusion(0.9), diffusion(0.5)), seeded()
    )
    return noise.unique().item(), len(asked)


def test_the_network_is_asked_at_each_estimate_of_the_latent_above():
    ask, asked = scripted(8, 4, 2, 1)
    x, up = torch.ones(1, 1, 2, 2), Rise(1, diffusion(0.5), diffusion(0.9), diffusion(0.5))
    noise = FixedPoint(3, 0.0).noise(ask, x, up, seeded())
    assert torch.equal(asked[0], x)
    for z, value in zip(asked[1:], (8, 4, 2), strict=True):
        assert_close(z, transfer(x, torch.full_like(x, value), up.here, up.there))
    assert (noise == 1).all()


@pytest.mark.parametrize(
    ("answers", "settings", "expected"),
    [
        ((8, 4, 2, 1, 0.5), {"iterations": 4}, (0.5, 5)),
        ((8, 4, 2, 1, 0.5), {"iterations": 2}, (2, 3)),
        ((8, 4, 4, 9, 9), {"iterations": 4}, (4, 3)),
        # Running away: the estimate before the largest change is kept.
        ((8, 4, 2, 30, 99), {"iterations": 4}, (4, 4)),
        ((8, 4, -4, 99, 99), {"iterations": 4}, (8, 3)),
        ((8, 4, 2, math.nan, 1), {"iterations": 4}, (4, 4)),
        # ReNoise: the mean of the last estimates.
        ((8, 4, 2, 1, 0.5), {"iterations": 4, "average": 2}, (0.75, 5)),
        ((9, 4, 2, 1, 0.5), {"iterations": 4, "average": 5}, (3.3, 5)),
        ((8, 4, 2, 30, 99), {"iterations": 4, "average": 2}, (6, 4)),
    ],
)
def test_the_noise_that_the_iteration_ends_with(answers, settings, expected):
    assert found(answers, tolerance=1e-6, **settings) == pytest.approx(expected)


def test_a_fixed_point_iteration_that_runs_away_is_no_worse_than_ddim_in_its_step(backbone, latents):
    """The network of random weights is far from contractive: each map is the best estimate that was seen."""
    text = backbone.text([SOURCE])

    def gap(step, below, above):
        """How far the step down from a map ends from the map below."""
        return (transfer(above, backbone.predict(above, step, text), step.here, step.there) - below).norm()

    trajectory = rise(backbone, latents, SOURCE, 4, inversion=FixedPoint(4))
    for k, step in enumerate(reversed(trajectory.steps)):
        below, above = trajectory.maps[k : k + 1], trajectory.maps[k + 1 : k + 2]
        plain = transfer(below, backbone.predict(below, step, text), step.there, step.here)
        assert gap(step, below, above) <= 1.01 * gap(step, below, plain)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"iterations": 0}, "FixedPoint: iterations=0 must be a whole number from 1 on"),
        ({"iterations": 2.5}, r"iterations=2\.5 must be a whole number"),
        ({"average": 0}, "average=0 must be a whole number from 1 on"),
        ({"average": True}, "average=True must be a whole number"),
        ({"iterations": 4, "average": 6}, "average=6 needs as many estimates, and iterations=4 makes 5 with DDIM's"),
        ({"tolerance": -1e-4}, r"tolerance=-0\.0001 must be a number from 0 on, such as 1e-4"),
        ({"tolerance": math.nan}, "tolerance=nan must be a number from 0 on"),
        ({"tolerance": math.inf}, "tolerance=inf must be a number from 0 on"),
    ],
    ids=str,
)
def test_an_iteration_that_can_not_be_used_is_refused(options, message, unchecked):
    with pytest.raises(ValueError, match=message):
        FixedPoint(**options)


# ---------------------------------------------------------------- Uni-Inv


def test_uni_inv_asks_at_the_point_that_the_last_prediction_leads_to(latents):
    levels = [diffusion(a) for a in (1.0, 0.9, 0.6)]
    asked, running = [], UniInv().prepare()
    x = latents
    for low, high, value in ((levels[0], levels[1], 2.0), (levels[1], levels[2], 5.0)):
        up = Rise(1, high, low, high)
        start, x = x, running.rise(lambda z, value=value: asked.append(z) or z * value, latents, x, up, seeded())[0]
        assert_close(x, up.along(start, asked[-1] * value))
    first, second, third = asked
    assert torch.equal(first, latents)
    assert_close(second, Rise(1, levels[1], levels[0], levels[1]).along(latents, 2 * latents))
    between = Rise(1, levels[1], levels[0], levels[1]).along(latents, 2 * second)
    assert_close(third, Rise(1, levels[1], levels[1], levels[2]).along(between, 2 * second))


@pytest.mark.parametrize("shift", [1.0, 3.0])
def test_uni_inv_keeps_a_flow_better_than_eulers_steps(build, latents, shift):
    pipe = build()
    pipe.unet.conv_out.weight.data *= 0.15
    pipe.scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    drifts = []
    for inversion in (DDIM(), UniInv()):
        trajectory = rise(Backbone(pipe), latents, SOURCE, 6, inversion=inversion)
        drifts.append(edit(pipe, trajectory, guidance=CFG(1.0), progress=False).drift)
    assert drifts[1] < 0.7 * drifts[0]


# ---------------------------------------------------------------- edit-friendly


@pytest.fixture(scope="module")
def friendly(backbone, latents):
    return rise(backbone, latents, SOURCE, 4, inversion=EditFriendly())


@pytest.mark.parametrize("scale", [1.0, 3.5, 9.0])
@pytest.mark.parametrize("targets", [(), ("a blue dog", "a car")], ids=len)
def test_the_source_row_passes_through_every_map(backbone, latents, scale, targets):
    trajectory = rise(backbone, latents, SOURCE, 3, inversion=EditFriendly(scale, seed=2))
    for step, x in denoise(prepare(backbone, trajectory, targets), CFG(scale), Editor()):
        assert_close(x[:1], trajectory.target(step), rtol=1e-3, atol=1e-3)


def test_at_another_text_scale_it_does_not(backbone, friendly, latents):
    *_, (_, x) = denoise(prepare(backbone, friendly), CFG(7), Editor())
    assert (x - latents).abs().max() > 0.1


def test_under_prompt_to_prompt_the_source_row_passes_through_the_maps_and_the_target_does_not(backbone, friendly):
    run = prepare(backbone, friendly, ["a blue cat sitting in the forest"])
    for step, x in denoise(run, CFG(3.5), PromptToPrompt()):
        assert_close(x[:1], friendly.target(step), rtol=1e-2, atol=1e-2)
    assert (x[1:] - x[:1]).abs().max() > 1e-2


def test_the_maps_are_the_picture_under_noise_that_is_fresh_at_every_level(backbone, latents, friendly):
    assert torch.equal(friendly.maps[:1], latents)
    drawn = [
        (z - level.a * latents[0]) / level.s for z, level in zip(friendly.maps[1:], friendly.levels[1:], strict=True)
    ]
    noise = torch.stack(drawn).flatten(1)
    assert_close(noise.mean(1), torch.zeros(4), rtol=0, atol=0.15)
    assert_close(noise.std(1), torch.ones(4), rtol=0, atol=0.1)
    assert (torch.corrcoef(noise) - torch.eye(4)).abs().max() < 0.15


def test_residuals_are_what_the_stochastic_steps_lack(backbone, friendly):
    """Equations 5 and 6, with the mean of diffusers' step at eta 1."""
    scheduler = copy.deepcopy(backbone.scheduler)
    scheduler.set_timesteps(4)
    text = backbone.text(["", SOURCE])
    for step in friendly.steps:
        z = friendly.origin(step)
        null, under = backbone.predict(torch.cat([z, z]), step, text).chunk(2)
        eps, nothing = null + 3.5 * (under - null), torch.zeros_like(z)
        mean = scheduler.step(eps, step.timestep, z, eta=1.0, variance_noise=nothing).prev_sample
        assert_close(friendly.residuals[step.index, None], friendly.target(step) - mean, rtol=1e-3, atol=1e-3)


def test_a_run_adds_the_residual_of_its_step_to_every_row(backbone, friendly):
    run = prepare(backbone, friendly, ["a dog"])
    x, eps = torch.randn(2, 2, 4, 16, 16, generator=seeded())
    for step in run.steps:
        sigma = spread(step.here, step.there)
        expected = transfer(x, eps, step.here, step.there, sigma) + friendly.residuals[step.index]
        assert torch.equal(run.down(x, eps, step), expected)


def test_without_residuals_a_run_goes_down_by_ddim(backbone, trajectory):
    run = prepare(backbone, trajectory, ["a dog"])
    x, eps = torch.randn(2, 2, 4, 16, 16, generator=seeded())
    for step in run.steps:
        assert torch.equal(run.down(x, eps, step), transfer(x, eps, step.here, step.there))


def test_the_noise_is_seeded_and_leaves_the_random_state_alone(backbone, latents, friendly):
    torch.manual_seed(7)
    state = torch.random.get_rng_state()
    again, other = (rise(backbone, latents, SOURCE, 4, inversion=EditFriendly(seed=seed)) for seed in (0, 1))
    assert torch.equal(torch.random.get_rng_state(), state)
    assert torch.equal(again.maps, friendly.maps) and torch.equal(again.residuals, friendly.residuals)
    assert (other.maps - friendly.maps)[1:].abs().amax((1, 2, 3)).min() > 0.1


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
def test_schedules_of_every_end_are_walked_back(build, latents, to_one, offset):
    pipe = build()
    pipe.scheduler = type(pipe.scheduler).from_config(pipe.scheduler.config, set_alpha_to_one=to_one)
    trajectory = rise(Backbone(pipe), latents, SOURCE, 2, offset=offset, inversion=EditFriendly())
    assert trajectory.steps == steps(pipe.scheduler, 2, offset) and trajectory.residuals.isfinite().all()
    *_, (_, x) = denoise(prepare(pipe, trajectory), CFG(3.5), Editor())
    assert_close(x, latents, rtol=1e-3, atol=1e-3)


def test_a_trajectory_with_residuals_is_saved_and_loaded_exactly(backbone, friendly, tmp_path):
    friendly.save(tmp_path / "cat.safetensors")
    loaded = Trajectory.load(tmp_path / "cat.safetensors")
    for tensor in ("maps", "residuals"):
        assert torch.equal(getattr(loaded, tensor), getattr(friendly, tensor))
    for field in ("levels", "steps", "prompt", "model", "convention", "inversion"):
        assert getattr(loaded, field) == getattr(friendly, field)
    first, second = (
        [x for _, x in denoise(prepare(backbone, made), CFG(3.5), Editor())][-1] for made in (friendly, loaded)
    )
    assert torch.equal(first, second)


def test_a_trajectory_without_residuals_is_loaded_without(trajectory, tmp_path):
    trajectory.save(tmp_path / "cat.safetensors")
    assert Trajectory.load(tmp_path / "cat.safetensors").residuals is None is trajectory.residuals


def test_residuals_move_with_their_maps(friendly, trajectory):
    moved = friendly.to("meta")
    assert moved.maps.device == moved.residuals.device == torch.device("meta")
    assert friendly.residuals.device == torch.device("cpu")
    assert trajectory.to("meta").maps.is_meta and trajectory.to("meta").residuals is None


@pytest.mark.parametrize("scale", [math.nan, math.inf])
def test_a_text_scale_that_is_not_finite_is_refused(scale):
    with pytest.raises(ValueError, match=r"EditFriendly: text_scale=.* must be a finite number, such as 3\.5"):
        EditFriendly(scale)


# ---------------------------------------------------------------- every inversion


EVERY = (DDIM(), Regularised(rounds=1), FixedPoint(2), FixedPoint(2, average=2), EditFriendly(), UniInv())


def test_only_edit_friendly_maps_are_not_joined_by_ddim():
    assert [method for method in EVERY if not method.deterministic] == [EditFriendly()]


@pytest.mark.parametrize("method", [FixedPoint(), EditFriendly()], ids=lambda method: type(method).__name__)
def test_inversions_that_mirror_the_steps_refuse_the_authors_levels_before_anything_is_computed(
    tiny, picture, monkeypatch, method
):
    pipe = tiny()

    def compute(*given, **options):
        pytest.fail("something was computed")

    monkeypatch.setattr(pipe.unet, "forward", compute)
    message = rf"{type(method).__name__} needs inversion steps .* use convention=\"aligned\", or DDIM\(\)"
    given = {"inversion": method, "convention": "diffusers-0.18", "progress": False}
    with pytest.raises(ValueError, match=message):
        invert(pipe, picture, SOURCE, **given)
    monkeypatch.setattr(pipe.vae, "encode", compute)
    monkeypatch.setattr(pipe, "encode_prompt", compute)
    with pytest.raises(ValueError, match=message):
        edit(pipe, picture, SOURCE, ["a dog"], guidance=CFG(), **given)


@pytest.mark.parametrize("method", EVERY, ids=str)
def test_every_inversion_works_in_inference_mode(backbone, picture, method):
    given = {"steps": 2, "inversion": method, "progress": False}
    expected = invert(backbone, picture, SOURCE, **given)
    with torch.inference_mode():
        trajectory = invert(backbone, picture, SOURCE, **given)
        rows = [x for _, x in denoise(prepare(backbone, trajectory, ["a dog"]), Direct(), Editor())]
    assert torch.equal(trajectory.maps, expected.maps) and rows[-1].isfinite().all()


@pytest.fixture(scope="module")
def half(build):
    return build().to(torch.bfloat16)


@pytest.mark.parametrize("method", EVERY, ids=str)
def test_every_inversion_works_in_half_precision(half, picture, method):
    result = edit(
        half, picture, SOURCE, ["a dog"], guidance=NegativePrompt(), inversion=method, steps=2, progress=False
    )
    trajectory = result.trajectory
    assert trajectory.maps.dtype == torch.float32 and trajectory.maps.isfinite().all()
    assert trajectory.residuals is None or trajectory.residuals.dtype == torch.float32
    assert result.latents.isfinite().all()


@pytest.mark.parametrize("method", [FixedPoint(2), EditFriendly()], ids=str)
@pytest.mark.parametrize("prediction_type", ["v_prediction", "sample"])
def test_inversions_that_mirror_the_steps_work_with_every_prediction_type(tiny, picture, prediction_type, method):
    pipe = tiny(prediction_type=prediction_type)
    trajectory = invert(pipe, picture, SOURCE, steps=2, inversion=method, size=(40, 24), progress=False)
    assert trajectory.maps.shape == (3, 4, 12, 20) and trajectory.maps.isfinite().all()


# ---------------------------------------------------------------- files


def test_what_is_saved_is_loaded_exactly(trajectory, tmp_path):
    described = dataclasses.replace(
        trajectory, prompt="a “café” cat\n🐱", model="owner/model", convention="diffusers-0.18"
    )
    described.save(tmp_path / "cat.safetensors")
    loaded = Trajectory.load(tmp_path / "cat.safetensors")
    assert torch.equal(loaded.maps, described.maps)
    for field in ("levels", "steps", "prompt", "model", "convention"):
        assert getattr(loaded, field) == getattr(described, field)
    assert [path.name for path in tmp_path.iterdir()] == ["cat.safetensors"]


@pytest.mark.parametrize(
    "method",
    [
        DDIM(),
        Regularised(),
        Regularised(3.0, 0.5, 2, 1, 7),
        FixedPoint(3, 1e-3, 2),
        EditFriendly(2.0, 5),
    ],
    ids=str,
)
def test_a_trajectory_remembers_its_method(trajectory, tmp_path, method):
    dataclasses.replace(trajectory, inversion=method).save(tmp_path / "cat.safetensors")
    assert Trajectory.load(tmp_path / "cat.safetensors").inversion == method


def test_inverting_says_by_what_method(backbone, picture, trajectory):
    method = Regularised(rounds=1)
    assert invert(backbone, picture, SOURCE, steps=1, inversion=method, progress=False).inversion == method
    assert trajectory.inversion == DDIM()


def test_a_file_of_an_earlier_form_is_refused(trajectory, tmp_path):
    path = tmp_path / "cat.safetensors"
    trajectory.save(path)
    with safe_open(path, "pt") as file:
        described = file.metadata()["described"]
    earlier = {"format": "nmg-trajectory-1", "trajectory": described}
    save_file({"maps": trajectory.maps}, path, metadata=earlier)
    with pytest.raises(ValueError, match="holds no trajectory of this version; make one with `nmg invert`"):
        Trajectory.load(path)


@pytest.mark.parametrize(
    ("own", "other"), [(DDIM(), Regularised()), (Regularised(), DDIM()), (Regularised(), Regularised(seed=1))], ids=str
)
def test_an_edit_refuses_an_inversion_that_is_not_the_trajectorys(tiny, trajectory, own, other):
    made = dataclasses.replace(trajectory, inversion=own)
    with pytest.raises(ValueError, match=r"inversion=.* is not the trajectory's .*; leave it out, or invert again"):
        edit(tiny(), made, inversion=other, progress=False)
    assert edit(tiny(), made, inversion=own, progress=False).trajectory.inversion == own


def test_an_edit_inverts_by_the_method_that_is_asked_for(tiny, picture):
    given = {"steps": 1, "progress": False}
    method = Regularised(rounds=1, seed=3)
    result = edit(tiny(), picture, SOURCE, inversion=method, **given)
    expected = invert(tiny(), result.source, SOURCE, inversion=method, **given)
    assert result.trajectory.inversion == method and torch.equal(result.trajectory.maps, expected.maps)


def test_a_trajectory_of_an_inversion_that_could_not_be_read_again_is_not_saved(trajectory, tmp_path):
    class Another(DDIM):
        pass

    with pytest.raises(
        ValueError, match="Another is no inversion of this package, so the file could not be read again"
    ):
        dataclasses.replace(trajectory, inversion=Another()).save(tmp_path / "cat.safetensors")
    assert not list(tmp_path.iterdir())


def test_saving_again_replaces_the_file(trajectory, tmp_path):
    path = str(tmp_path / "cat.safetensors")
    trajectory.save(path)
    dataclasses.replace(trajectory, prompt="another").save(path)
    assert Trajectory.load(path).prompt == "another"


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"no trajectory at .*none\.safetensors"):
        Trajectory.load(tmp_path / "none.safetensors")


def test_a_file_of_something_else_is_refused(trajectory, tmp_path):
    words, other, half = (tmp_path / name for name in ("words", "other", "half"))
    words.write_text("these are words, and quite a lot of them")
    save_file({"maps": torch.zeros(2)}, other)
    trajectory.save(half)
    half.write_bytes(half.read_bytes()[:-100])
    for path, message in ((words, "can't be read"), (other, "holds no trajectory"), (half, "can't be read")):
        with pytest.raises(ValueError, match=message):
            Trajectory.load(path)


def test_a_trajectory_is_not_changed_in_place(trajectory):
    with pytest.raises(dataclasses.FrozenInstanceError):
        trajectory.prompt = "another"
