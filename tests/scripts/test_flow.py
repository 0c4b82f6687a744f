"""The flow twin is trained as an ordinary Stable Diffusion 3 pipeline computes it."""

import pytest
import torch
from torch.testing import assert_close

from nmg.menagerie import networks
from scripts.training import flow
from scripts.training.data import tokenized
from tests import families

CAPTIONS = ["a cat on a beach", "a smiling red dog"]


@pytest.fixture(scope="module")
def parts(tmp_path_factory):
    families.needs_sd35()
    torch.manual_seed(0)
    tokenizer = networks.build_tokenizer(tmp_path_factory.mktemp("flow") / "tokenizer")
    encoders = tuple(networks.build_projected_text_encoder(tokenizer) for _ in range(2))
    transformer = networks.build_transformer(width=32, layers=2)
    for parameter in transformer.parameters():
        if parameter.ndim > 1:  # Gates that start at 0 would hide the attention.
            torch.nn.init.normal_(parameter, std=0.1)
    return tokenizer, encoders, transformer


def test_the_trained_velocity_is_the_pipelines_with_all_absent_tokens(parts):
    from diffusers import StableDiffusion3Pipeline

    tokenizer, encoders, transformer = parts
    scheduler, vae = networks.build_flow_scheduler(), networks.build_vae((8, 8, 16, 16))
    pipe = StableDiffusion3Pipeline(
        transformer, scheduler, vae, encoders[0], tokenizer, encoders[1], tokenizer, None, None
    )
    latents, sigmas = torch.randn(2, networks.LATENT_CHANNELS, 16, 16), torch.tensor([0.3, 0.9])
    embedded, _, pooled, _ = pipe.encode_prompt(CAPTIONS, None, None, do_classifier_free_guidance=False)
    assert embedded.shape[1] == tokenizer.model_max_length + flow.ABSENT
    expected = transformer(latents, embedded, pooled, 1000 * sigmas).sample
    velocity, maps = flow.FlowDenoiser(encoders, transformer)(latents, sigmas, tokenized(tokenizer, CAPTIONS))
    assert_close(velocity, expected, rtol=1e-5, atol=1e-5)
    assert [layer.shape for layer in maps] == 2 * [(2, flow.SIDE**2, tokenizer.model_max_length)]


def test_a_shift_moves_noise_levels_towards_noise_and_keeps_the_ends():
    levels = flow.shifted(torch.tensor([0.0, 0.5, 1.0]), 2.0)
    assert_close(levels, torch.tensor([0.0, 2 / 3, 1.0]))


def test_a_flowed_latent_is_the_picture_at_level_0_and_noise_at_1():
    clean, noise = torch.randn(2, 8, 16, 16), torch.randn(2, 8, 16, 16)
    mixed = flow.flowed(clean, noise, torch.tensor([0.0, 1.0]))
    assert torch.equal(mixed[0], clean[0]) and torch.equal(mixed[1], noise[1])
