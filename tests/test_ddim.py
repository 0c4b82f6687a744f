import math

import pytest
import torch
from torch.testing import assert_close

from nmg.ddim import predict_clean, steps, transfer
from nmg.inversion import CONVENTIONS


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
