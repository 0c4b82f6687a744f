import functools
import math

import pytest
import torch
from torch.testing import assert_close

from nmg.inversion import CONVENTIONS
from nmg.levels import (
    FLOW_VELOCITY,
    NOISE,
    between,
    diffusion,
    flow,
    predict_clean,
    predict_noise,
    restated,
    spread,
    steps,
    transfer,
)


def scheduler(**options):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, **options}
    )


@pytest.fixture
def latents():
    random = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 4, 8, 8, generator=random, dtype=torch.float64)


KINDS = {
    "noise": diffusion,
    "velocity": functools.partial(diffusion, velocity=True),
    "flow": lambda share: flow(1 - share),
}


@pytest.fixture(params=KINDS)
def level(request):
    """Makes a level of 0…1 of the clean picture, with each meaning of a prediction."""
    return KINDS[request.param]


def prediction(level, clean, noise):
    return level.predicts[0] * clean + level.predicts[1] * noise


def noised(level, clean, noise):
    return level.a * clean + level.s * noise


def test_a_prediction_gives_clean_latent_and_noise_back(latents, level):
    clean, noise = latents
    for share in (0.01, 0.5, 1.0):
        at = level(share)
        x, v = noised(at, clean, noise), prediction(at, clean, noise)
        assert_close(predict_clean(x, v, at), clean)
        assert_close(predict_noise(x, v, at), noise)


def test_transfer_moves_a_noised_picture_between_levels(latents, level):
    high, low = level(0.2), level(0.8)
    for here, there in ((high, low), (low, high), (high, high)):
        x, v = noised(here, *latents), prediction(here, *latents)
        assert_close(transfer(x, v, here, there), noised(there, *latents))


@pytest.mark.parametrize(("low", "high"), [(0.9, 0.1), (1.0, 0.2), (0.3, 0.25)])
def test_a_step_up_is_undone_by_the_step_down_along_the_same_prediction(latents, level, low, high):
    (x, v), low, high = latents, level(low), level(high)
    assert_close(transfer(transfer(x, v, low, high, asked=high), v, high, low), x)


def test_a_step_from_pure_noise_needs_no_division(latents, level):
    if level(0.5).predicts == NOISE:
        pytest.skip("noise says nothing in pure noise")
    pure, low = level(0.0), level(0.4)
    v = prediction(pure, *latents)
    assert_close(transfer(noised(pure, *latents), v, pure, low), noised(low, *latents))
    assert_close(transfer(transfer(latents[0], v, low, pure, asked=pure), v, pure, low), latents[0])


def test_what_a_network_gave_is_restated_as_what_a_level_predicts(latents, level):
    at = level(0.3)
    x, v = noised(at, *latents), prediction(at, *latents)
    for means in (NOISE, (-at.s, at.a), (1.0, 0.0), FLOW_VELOCITY):
        out = means[0] * latents[0] + means[1] * latents[1]
        assert_close(restated(out, x, at, means), v)


def test_a_prediction_moves_with_the_noise_at_a_fixed_latent(latents, level):
    at, (clean, noise) = level(0.3), latents
    x, other = noised(at, clean, noise), noise + 0.1
    moved = prediction(at, (x - at.s * other) / at.a, other) - prediction(at, clean, noise)
    assert_close(moved, torch.full_like(moved, 0.1 * at.per_noise))


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("offset", [0, 1])
@pytest.mark.parametrize("count", [1, 7, 10, 50, 250])
def test_leading_steps_are_those_of_diffusers(latents, count, offset, to_one):
    theirs = scheduler(steps_offset=offset, set_alpha_to_one=to_one)
    theirs.set_timesteps(count)
    ours = steps(theirs, count)
    assert [step.timestep for step in ours] == theirs.timesteps.tolist()
    x, eps = latents.float()
    for step in ours:
        expected = theirs.step(eps, step.timestep, x).prev_sample
        assert_close(transfer(x, eps, step.here, step.there), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("count", [1, 10, 50])
def test_trailing_steps_are_those_of_diffusers(latents, count, to_one):
    theirs = scheduler(timestep_spacing="trailing", set_alpha_to_one=to_one)
    theirs.set_timesteps(count)
    x, eps = latents.float()
    for step, timestep in zip(steps(theirs, count), theirs.timesteps.tolist(), strict=True):
        assert step.timestep == timestep
        expected = theirs.step(eps, timestep, x).prev_sample
        assert_close(transfer(x, eps, step.here, step.there), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("spacing", ["leading", "trailing", "linspace"])
@pytest.mark.parametrize("count", [2, 7, 30, 1000])
def test_timesteps_are_those_of_diffusers_for_every_spacing(spacing, count):
    theirs = scheduler(timestep_spacing=spacing)
    theirs.set_timesteps(count)
    assert [step.timestep for step in steps(theirs, count)] == theirs.timesteps.tolist()


@pytest.mark.parametrize("count", [1, 10, 50])
@pytest.mark.parametrize("to_one", [False, True])
def test_aligned_inversion_is_the_inverse_scheduler_of_diffusers(latents, count, to_one):
    from diffusers import DDIMInverseScheduler

    down = scheduler(set_alpha_to_one=to_one, steps_offset=1)
    up = DDIMInverseScheduler.from_config(down.config)
    up.set_timesteps(count)
    rises = CONVENTIONS["aligned"](steps(down, count), down)
    assert [rise.timestep for rise in rises] == up.timesteps.tolist()
    x, eps = latents.float()
    for rise in rises:
        expected = up.step(eps, rise.timestep, x).prev_sample
        assert_close(transfer(x, eps, rise.here, rise.there), expected, rtol=1e-4, atol=1e-4)


def test_every_step_starts_where_the_one_before_it_ended():
    ours = steps(scheduler(), 50)
    assert [s.there for s in ours[:-1]] == [s.here for s in ours[1:]]
    assert [s.index for s in ours] == list(range(50))


def test_only_the_authors_offset_wastes_the_last_step():
    theirs = scheduler(steps_offset=1, set_alpha_to_one=False)
    assert steps(theirs, 50)[-1].here.a < steps(theirs, 50)[-1].there.a
    assert steps(theirs, 50, offset=0)[-1].here == steps(theirs, 50, offset=0)[-1].there


@pytest.mark.parametrize("count", [0, -1, 1001, 2.5, 50.0, math.nan, True, "50", None])
def test_a_count_of_steps_that_is_no_whole_number_in_range_is_refused(count, unchecked):
    with pytest.raises(ValueError, match="whole number from 1 to 1000"):
        steps(scheduler(), count)


def test_steps_past_the_end_of_the_schedule_are_refused():
    with pytest.raises(ValueError, match="fewer steps"):
        steps(scheduler(steps_offset=1), 1000)


ZERO_SNR = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}


@pytest.mark.parametrize("count", [1, 10, 50])
def test_steps_from_pure_noise_are_those_of_diffusers(latents, count):
    theirs = scheduler(**ZERO_SNR, set_alpha_to_one=False)
    theirs.set_timesteps(count)
    x, v = latents.float()
    ours = steps(theirs, count)
    assert ours[0].here.a == 0
    for step in ours:
        expected = theirs.step(v, int(step.timestep), x).prev_sample
        assert_close(transfer(x, v, step.here, step.there), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("kind", ["EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep"])
def test_a_zero_that_a_scheduler_writes_as_a_small_number_is_pure_noise_too(latents, kind):
    import diffusers

    betas = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}
    first = steps(getattr(diffusers, f"{kind}Scheduler")(**betas, **ZERO_SNR), 10)[0]
    x, v = latents
    assert 0 < first.here.a < 1e-3 and first.here.predicts == (-first.here.s, first.here.a)
    assert transfer(x, v, first.here, first.there).abs().max() < 10


def test_a_network_that_predicts_noise_is_refused_on_a_schedule_that_starts_in_pure_noise():
    with pytest.raises(ValueError, match="starts from pure noise"):
        steps(scheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 10)


@pytest.mark.parametrize("shift", [1.0, 3.0])
@pytest.mark.parametrize("count", [1, 10, 50])
def test_the_steps_of_a_flow_are_those_of_diffusers(latents, count, shift):
    from diffusers import FlowMatchEulerDiscreteScheduler

    theirs = FlowMatchEulerDiscreteScheduler(shift=shift)
    ours = steps(theirs, count)
    assert len(theirs.timesteps) == 1000, "the user's own object was moved"
    theirs.set_timesteps(count)
    x, v = latents.float()
    for step, t in zip(ours, theirs.timesteps, strict=True):
        assert step.timestep == t.item()
        assert_close(transfer(x, v, step.here, step.there), theirs.step(v, t, x).prev_sample, rtol=1e-5, atol=1e-5)
    with pytest.raises(ValueError, match="no meaning for a flow"):
        steps(theirs, count, offset=1)


@pytest.mark.parametrize("kind", ["EDMEulerScheduler", "FlowMatchHeunDiscreteScheduler"])
def test_a_scheduler_of_another_kind_is_refused_by_name(kind):
    import diffusers

    with pytest.raises(TypeError, match=f"{kind} has no levels.*DDIMScheduler"):
        steps(getattr(diffusers, kind)(), 10)


def test_an_unknown_spacing_is_refused():
    with pytest.raises(ValueError, match="leading, trailing and linspace"):
        steps(scheduler(timestep_spacing="odd"), 10)


# ---------------------------------------------------------------- the stochastic step


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("count", [1, 10, 50])
def test_the_stochastic_step_is_that_of_diffusers(latents, count, to_one):
    theirs = scheduler(steps_offset=1, set_alpha_to_one=to_one)
    theirs.set_timesteps(count)
    x, eps = latents.float()
    for step in steps(theirs, count):
        sigma = spread(step.here, step.there)
        below = step.timestep - 1000 // count
        assert math.isclose(sigma**2, theirs._get_variance(step.timestep, below), rel_tol=1e-4, abs_tol=1e-7)
        for noise in (torch.zeros_like(x), x.flip(-1)):
            expected = theirs.step(eps, step.timestep, x, eta=1.0, variance_noise=noise).prev_sample
            ours = transfer(x, eps, step.here, step.there, sigma) + sigma * noise
            assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_mean_and_spread_of_the_stochastic_step_keep_the_variance_of_the_level():
    """Of pure noise: what the mean loses, the spread adds."""
    noise = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a_from, a_to in ((0.1, 0.2), (0.05, 0.9), (0.8, 0.81)):
        sigma = spread(diffusion(a_from), diffusion(a_to))
        x = math.sqrt(1 - a_from) * noise[0]
        moved = transfer(x, noise[0], diffusion(a_from), diffusion(a_to), sigma) + sigma * noise[1]
        assert_close(moved.var().item(), 1 - a_to, rtol=0.02, atol=0)


def test_without_a_spread_the_step_is_deterministic(latents):
    (x, eps), between = latents, (diffusion(0.1), diffusion(0.9))
    assert torch.equal(transfer(x, eps, *between, 0.0), transfer(x, eps, *between))


def test_a_step_that_goes_nowhere_or_ends_in_the_picture_spreads_nothing():
    low, high = diffusion(0.3), diffusion(1.0)
    assert spread(low, low) == 0 and spread(low, high) == 0


def test_the_largest_spread_leaves_no_direction(latents):
    x, eps = latents
    low, high = diffusion(0.1), diffusion(0.9)
    mean = transfer(x, eps, low, high, math.sqrt(0.1 - 1e-12))
    assert_close(mean, math.sqrt(0.9) * predict_clean(x, eps, low), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("a_from", "a_to"), [(0.1, 0.2), (0.005, 0.999), (0.5, 0.500001), (0.998, 0.99915)])
def test_the_spread_leaves_room_for_the_predicted_noise(a_from, a_to):
    assert 0 <= spread(diffusion(a_from), diffusion(a_to)) ** 2 <= 1 - a_to


@pytest.mark.parametrize(
    "here, there",
    [
        (diffusion(0.3), diffusion(0.6)),
        (diffusion(0.6), diffusion(0.3)),
        (diffusion(0.0, velocity=True), diffusion(0.4, velocity=True)),
        (flow(1.0), flow(0.7)),
    ],
    ids=["noise, down", "noise, up", "velocity", "flow"],
)
def test_the_prediction_between_two_latents_leads_from_the_one_to_the_other(here, there):
    x, y = torch.randn(2, 1, 4, 8, 8, dtype=torch.float64, generator=torch.Generator().manual_seed(0)).unbind()
    assert_close(transfer(x, between(x, y, here, there), here, there), y)


def test_between_equal_levels_no_prediction_leads_anywhere():
    x, y = torch.zeros(1, 4, 8, 8), torch.ones(1, 4, 8, 8)
    assert torch.equal(between(x, y, diffusion(0.3), diffusion(0.3)), x)
