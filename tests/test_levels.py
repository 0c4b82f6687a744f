import math

import pytest
import torch
from torch.testing import assert_close

from nmg.inversion import CONVENTIONS
from nmg.levels import predict_clean, spread, steps, transfer


def scheduler(**options):
    from diffusers import DDIMScheduler

    return DDIMScheduler(
        **{"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear", "clip_sample": False, **options}
    )


@pytest.fixture
def latents():
    random = torch.Generator().manual_seed(0)
    return torch.randn(2, 2, 4, 8, 8, generator=random, dtype=torch.float64)


def test_transfer_there_and_back_is_the_identity(latents):
    x, eps = latents
    assert_close(transfer(transfer(x, eps, 0.9, 0.1), eps, 0.1, 0.9), x)


def test_transfer_in_two_strides_is_transfer_in_one(latents):
    x, eps = latents
    assert_close(transfer(transfer(x, eps, 0.9, 0.5), eps, 0.5, 0.1), transfer(x, eps, 0.9, 0.1))


def test_transfer_to_its_own_level_changes_nothing(latents):
    x, eps = latents
    assert_close(transfer(x, eps, 0.3, 0.3), x)


def test_transfer_moves_a_noised_picture_between_levels(latents):
    clean, noise = latents
    noised = [math.sqrt(a) * clean + math.sqrt(1 - a) * noise for a in (0.2, 0.8)]
    assert_close(transfer(noised[0], noise, 0.2, 0.8), noised[1])
    assert_close(predict_clean(noised[0], noise, 0.2), clean)


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
        assert_close(transfer(x, eps, step.alpha, step.alpha_prev), expected, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("to_one", [False, True])
@pytest.mark.parametrize("count", [1, 10, 50])
def test_trailing_steps_are_those_of_diffusers(latents, count, to_one):
    theirs = scheduler(timestep_spacing="trailing", set_alpha_to_one=to_one)
    theirs.set_timesteps(count)
    x, eps = latents.float()
    for step, timestep in zip(steps(theirs, count), theirs.timesteps.tolist(), strict=True):
        assert step.timestep == timestep
        expected = theirs.step(eps, timestep, x).prev_sample
        assert_close(transfer(x, eps, step.alpha, step.alpha_prev), expected, rtol=1e-4, atol=1e-4)


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
        assert_close(transfer(x, eps, rise.a_from, rise.a_to), expected, rtol=1e-4, atol=1e-4)


def test_every_step_starts_where_the_one_before_it_ended():
    ours = steps(scheduler(), 50)
    assert [s.alpha_prev for s in ours[:-1]] == [s.alpha for s in ours[1:]]
    assert [s.index for s in ours] == list(range(50))


def test_only_the_authors_offset_wastes_the_last_step():
    theirs = scheduler(steps_offset=1, set_alpha_to_one=False)
    assert steps(theirs, 50)[-1].alpha < steps(theirs, 50)[-1].alpha_prev
    assert steps(theirs, 50, offset=0)[-1].alpha == steps(theirs, 50, offset=0)[-1].alpha_prev


@pytest.mark.parametrize("count", [0, -1, 1001, 2.5, 50.0, math.nan, True, "50", None])
def test_a_count_of_steps_that_is_no_whole_number_in_range_is_refused(count, unchecked):
    with pytest.raises(ValueError, match="whole number from 1 to 1000"):
        steps(scheduler(), count)


def test_steps_past_the_end_of_the_schedule_are_refused():
    with pytest.raises(ValueError, match="fewer steps"):
        steps(scheduler(steps_offset=1), 1000)


def test_a_schedule_that_starts_in_pure_noise_is_refused():
    with pytest.raises(ValueError, match="pure noise"):
        steps(scheduler(rescale_betas_zero_snr=True, timestep_spacing="trailing"), 10)


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
        sigma = spread(step.alpha, step.alpha_prev)
        below = step.timestep - 1000 // count
        assert math.isclose(sigma**2, theirs._get_variance(step.timestep, below), rel_tol=1e-4, abs_tol=1e-7)
        for noise in (torch.zeros_like(x), x.flip(-1)):
            expected = theirs.step(eps, step.timestep, x, eta=1.0, variance_noise=noise).prev_sample
            ours = transfer(x, eps, step.alpha, step.alpha_prev, sigma) + sigma * noise
            assert_close(ours, expected, rtol=1e-3, atol=1e-3)


def test_mean_and_spread_of_the_stochastic_step_keep_the_variance_of_the_level():
    """Of pure noise: what the mean loses, the spread adds."""
    noise = torch.randn(2, 200_000, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    for a_from, a_to in ((0.1, 0.2), (0.05, 0.9), (0.8, 0.81)):
        sigma = spread(a_from, a_to)
        x = math.sqrt(1 - a_from) * noise[0]
        moved = transfer(x, noise[0], a_from, a_to, sigma) + sigma * noise[1]
        assert_close(moved.var().item(), 1 - a_to, rtol=0.02, atol=0)


def test_without_a_spread_the_step_is_deterministic(latents):
    x, eps = latents
    assert torch.equal(transfer(x, eps, 0.1, 0.9, 0.0), transfer(x, eps, 0.1, 0.9))


def test_a_step_that_goes_nowhere_or_ends_in_the_picture_spreads_nothing():
    assert spread(0.3, 0.3) == 0 and spread(0.3, 1.0) == 0


def test_the_largest_spread_leaves_no_direction(latents):
    x, eps = latents
    mean = transfer(x, eps, 0.1, 0.9, math.sqrt(0.1 - 1e-12))
    assert_close(mean, math.sqrt(0.9) * predict_clean(x, eps, 0.1), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("a_from", "a_to"), [(0.1, 0.2), (0.005, 0.999), (0.5, 0.500001), (0.998, 0.99915)])
def test_the_spread_leaves_room_for_the_predicted_noise(a_from, a_to):
    assert 0 <= spread(a_from, a_to) ** 2 <= 1 - a_to
