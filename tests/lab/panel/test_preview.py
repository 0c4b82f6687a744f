"""A latent is seen as a picture without its decoder."""

import numpy as np
import pytest
import torch
from PIL import Image

import nmg
from nmg import images
from nmg.lab.panel import LatentPreview, predicted
from nmg.levels import Step, diffusion, spread, transfer
from nmg.menagerie.scene import Scene


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_clean_latent_of_a_step_is_solved_for_exactly(stochastic):
    generator = torch.Generator().manual_seed(0)
    clean, noise, residual = (torch.randn(1, 4, 3, 3, generator=generator) for _ in range(3))
    for alpha, alpha_prev in ((0.01, 0.05), (0.3, 0.6), (0.9, 1.0)):
        here, there = diffusion(alpha), diffusion(alpha_prev)
        step, sigma = Step(0, 1, here, there), spread(here, there) if stochastic else 0.0
        before = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
        after = transfer(before, noise, here, there, sigma) + (residual if stochastic else 0)
        found = predicted(before, after, step, residual if stochastic else None)
        torch.testing.assert_close(found, clean, atol=2e-5, rtol=1e-4)
    still = Step(0, 1, diffusion(0.99), diffusion(0.99))
    torch.testing.assert_close(predicted(clean, clean, still), clean / 0.99**0.5)


@pytest.mark.parametrize("channels", [4, 8])
def test_a_linear_encoder_is_seen_through_exactly(channels, picture):
    class Linear:
        mixing = torch.randn(channels, 3, generator=torch.Generator().manual_seed(0))

        def encode(self, pixels):
            return torch.einsum("cp,rphw->rchw", self.mixing, torch.nn.functional.avg_pool2d(pixels, 8)) + 0.3

    encoder, fitted = Linear(), picture.resize((64, 48))
    preview = _fit(encoder, fitted)
    other = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    latents = encoder.encode(images.to_tensor(other.resize((64, 48), Image.Resampling.NEAREST)))
    assert np.abs(np.asarray(preview(latents, (8, 6)), int) - np.asarray(other, int)).max() <= 1


def _fit(encoder, picture) -> LatentPreview:
    """A fit to something that encodes as a backbone does."""
    backbone = object.__new__(nmg.Backbone)
    backbone.encode = encoder.encode
    return LatentPreview.fit(backbone, picture)


def test_the_bundled_models_latents_are_seen_as_their_pictures():
    backbone = nmg.Backbone(nmg.load("menagerie"))
    fitted, other = Scene(seed=1).render(), Scene("dog", "red", "beach", seed=5).render()
    preview = LatentPreview.fit(backbone, fitted)
    latents = backbone.encode(images.to_tensor(other))
    small = latents.shape[-1], latents.shape[-2]
    shown, wanted = (np.asarray(p.resize(small, Image.Resampling.BOX), float) for p in (preview(latents, small), other))
    assert np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > 0.9
