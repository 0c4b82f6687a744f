import dataclasses
import math

import pytest
import torch
from torch.nn import functional as F
from torch.testing import assert_close

from nmg import CFG, Backbone, Editor, NoiseMap, denoise, prepare, transfer
from nmg.guidance.noise_map import ENERGIES, REFERENCE_ELEMENTS
from nmg.inversion import rise
from nmg.run import Run

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"


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
        null, text = run.eps(x, step, run.null), run.eps(x, step, run.text)
        x = transfer(x, null + 3 * (text - null), step.alpha, step.alpha_prev)
        assert_close(latents, x, rtol=1e-3, atol=1e-3)


def test_the_source_row_does_not_depend_on_the_targets(sample):
    for guidance in (CFG(), NoiseMap()):
        alone, together = (sample(targets, guidance) for targets in ((), (TARGET, "a dog")))
        assert_close(together[:1], alone, rtol=1e-3, atol=1e-3)


# ---------------------------------------------------------------- noise map guidance


def test_at_scale_0_noise_map_guidance_is_a_null_text_step_before_the_text_guided_one(run):
    x = run.start
    for step, latents in denoise(run, NoiseMap(noise_map_scale=0, text_scale=3), Editor()):
        null = run.eps(x[:1], step, run.null[:1])
        x = torch.cat([transfer(x[:1], null, step.alpha, step.alpha_prev), x[1:]])
        null, text = run.eps(x, step, run.null), run.eps(x, step, run.text)
        x = transfer(x, null + 3 * (text - null), step.alpha, step.alpha_prev)
        assert_close(latents, x, rtol=1e-3, atol=1e-3)


def test_a_steered_row_follows_the_null_noise_plus_the_scaled_gradient(run):
    guidance, step, x = NoiseMap(noise_map_scale=3, gradient_scale=70), run.steps[1], noise(3, 4, 16, 16)
    gradient, eps = guidance.gradient(run, step, x[:1], run.null[:1])
    expected = transfer(x[:1], eps + 3 * 70 * math.sqrt(1 - step.alpha) * gradient, step.alpha, step.alpha_prev)
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
    assert ways[0].strength == ways[1].strength == 500
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


@dataclasses.dataclass(frozen=True)
class Double(Run):
    """A run whose network computes in double precision."""

    def eps(self, x, step, text, attend=None):
        return self.backbone.unet(x, step.timestep, text.double()).sample


@pytest.mark.parametrize(("energy", "distance"), [("l1", 1.0), ("l2", 1.0), ("smooth_l1", 1.0), ("smooth_l1", 2e-5)])
def test_the_gradient_is_that_of_finite_differences(build, trajectory, energy, distance):
    backbone = Backbone(build())
    run = prepare(backbone, trajectory)
    backbone.unet.double()
    step, z = run.steps[1], noise(1, 4, 16, 16, dtype=torch.float64)
    run = Double(**vars(run))
    arrival = transfer(z, run.eps(z, step, run.null), step.alpha, step.alpha_prev)
    maps = (arrival + distance * noise(1, 4, 16, 16, seed=1, dtype=torch.float64)).expand(5, -1, -1, -1)
    run = dataclasses.replace(run, trajectory=dataclasses.replace(trajectory, maps=maps))
    definition = {
        "l1": F.l1_loss,
        "l2": F.mse_loss,
        "smooth_l1": lambda a, b, **o: F.smooth_l1_loss(a, b, beta=1e-4, **o),
    }

    def energy_of(z):
        reached = transfer(z, run.eps(z, step, run.null), step.alpha, step.alpha_prev)
        return definition[energy](reached, maps[:1], reduction="sum") / (4 * 64 * 64)

    gradient, _ = NoiseMap(energy=energy).gradient(run, step, z, run.null)
    for seed in (2, 3):
        direction, h = noise(1, 4, 16, 16, seed=seed, dtype=torch.float64), 1e-8
        slope = (energy_of(z + h * direction) - energy_of(z - h * direction)) / (2 * h)
        assert_close((gradient * direction).sum(), slope, rtol=1e-4, atol=1e-7)


@dataclasses.dataclass(frozen=True)
class Pointwise(Run):
    """A run whose network looks at each element alone; `seeds` collects the gradients that reach its output."""

    seeds: list = dataclasses.field(default_factory=list)

    def eps(self, x, step, text, attend=None):
        eps = x.sin()
        if eps.requires_grad:
            eps.register_hook(self.seeds.append)
        return eps


@pytest.fixture
def pointwise(run):
    return Pointwise(**vars(run))


@pytest.mark.parametrize("energy", ENERGIES)
@pytest.mark.parametrize("copies", [(1, 2, 2), (1, 1, 4), (2, 1, 1)], ids=["larger", "wider", "more channels"])
def test_the_gradient_of_an_element_is_the_same_at_every_size(pointwise, energy, copies):
    step, z = pointwise.steps[1], noise(1, 4, 16, 16)
    tiled = dataclasses.replace(pointwise.trajectory, maps=pointwise.trajectory.maps.repeat(1, *copies))
    small, _ = NoiseMap(energy=energy).gradient(pointwise, step, z, pointwise.null[:1])
    large, _ = NoiseMap(energy=energy).gradient(
        dataclasses.replace(pointwise, trajectory=tiled), step, z.repeat(1, *copies), pointwise.null[:1]
    )
    assert_close(large, small.repeat(1, *copies))


def test_at_512_pixels_the_gradient_is_that_of_the_papers_mean(pointwise):
    step, z, maps = pointwise.steps[1], noise(1, 4, 64, 64), noise(5, 4, 64, 64, seed=1)
    run = dataclasses.replace(pointwise, trajectory=dataclasses.replace(pointwise.trajectory, maps=maps))
    gradient, _ = NoiseMap().gradient(run, step, z, run.null[:1])
    with torch.enable_grad():
        z.requires_grad_()
        F.l1_loss(transfer(z, z.sin(), step.alpha, step.alpha_prev), run.trajectory.target(step)).backward()
    assert z.numel() == REFERENCE_ELEMENTS
    assert_close(gradient, z.grad)


def test_the_gradient_enters_the_network_at_unit_size_so_that_half_precision_holds_it(pointwise):
    step, z = pointwise.steps[1], noise(1, 4, 16, 16)
    NoiseMap().gradient(pointwise, step, z, pointwise.null[:1])
    (seed,) = pointwise.seeds
    coefficient = abs(math.sqrt(1 - step.alpha_prev) - math.sqrt(step.alpha_prev * (1 - step.alpha) / step.alpha))
    assert_close(seed.abs(), torch.full_like(seed, coefficient))
    assert coefficient > 1e3 * torch.finfo(torch.float16).tiny


def test_the_gradient_survives_a_half_precision_network(build, trajectory):
    gradients = []
    for dtype in (torch.float32, torch.bfloat16):
        backbone = Backbone(build())
        run = prepare(backbone, trajectory)
        backbone.unet.to(dtype)
        gradients.append(NoiseMap(energy="l2").gradient(run, run.steps[1], run.start, run.null)[0])
    full, half = (gradient.flatten() for gradient in gradients)
    assert half.dtype == torch.float32 and half.isfinite().all()
    assert F.cosine_similarity(full, half, dim=0) > 0.9


def test_no_hook_is_active_while_the_gradient_is_taken(run, monkeypatch):
    hooked = []
    eps = Backbone.eps
    monkeypatch.setattr(
        Backbone,
        "eps",
        lambda self, x, step, text, attend=None: hooked.append((len(x), attend)) or eps(self, x, step, text, attend),
    )
    list(denoise(run, NoiseMap(), Watcher()))
    assert [attend for size, attend in hooked if size == 1] == [None] * len(run.steps)
    assert [attend for size, attend in hooked if size == 6] == [decline] * len(run.steps)


def decline(site, q, k, v):
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

    def gaussian_world(x, t, encoder_hidden_states, **_):
        """The best denoiser's noise when pictures are Gaussian with variance 4, moved by the text."""
        push = 0.2 * encoder_hidden_states.mean(1)[:, :4, None, None]
        return ((1 - alphas[t]).sqrt() * (x / (4 * alphas[t] + 1 - alphas[t]) + push),)

    monkeypatch.setattr(pipe.unet, "forward", gaussian_world)
    run = prepare(pipe, rise(Backbone(pipe), clean, SOURCE, 20))
    strays = {}
    for guidance in (CFG(10), NoiseMap()):
        *_, (_, x) = denoise(run, guidance, Editor())
        strays[guidance] = (x - clean).abs().mean().item()
    assert strays[NoiseMap()] < 0.3 * strays[CFG(10)]


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


def test_the_defaults_are_the_papers():
    assert NoiseMap() == NoiseMap(noise_map_scale=10, gradient_scale=5000, text_scale=10, energy="l1")
