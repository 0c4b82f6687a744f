"""Half precision: edits in float16 and bfloat16 are finite, and near to those in float32."""

import functools

import pytest
import torch

import nmg
from nmg import images
from nmg.lab import metrics
from nmg.lab.presets import SCENES
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import EXAMPLES

CLOSE = {torch.float16: 35.0, torch.bfloat16: 22.0}
"""PSNR in dB that an edit in half precision has to the one in float32 at least."""


@pytest.fixture(scope="module")
def example():
    from nmg.menagerie.captions import prompt_pair

    name, scene, change = next(example for example in EXAMPLES if example[0] == "colour change")
    assert isinstance(scene, Scene)
    return scene.render(), *prompt_pair(scene, **change), SCENES[name]


@functools.cache
def load(dtype):
    return nmg.load("menagerie", device="cpu", dtype=dtype)


def edited(example, dtype, editor=None):
    pipe, (picture, source, target, own) = load(dtype), example
    options = {
        "guidance": nmg.default_guidance(pipe, noise_map_scale=3),
        "editor": editor or own,
        "steps": 4,
        "progress": False,
    }
    return pipe, nmg.edit(pipe, picture, source, [target], **options)


@pytest.mark.parametrize("dtype", CLOSE, ids=str)
@pytest.mark.parametrize("editor", [None, nmg.Pix2PixZero()], ids=lambda e: type(e).__name__)
def test_an_edit_is_finite_and_near_to_the_one_in_full_precision(example, dtype, editor):
    _, full = edited(example, torch.float32, editor)
    pipe, half = edited(example, dtype, editor)
    assert pipe.unet.dtype == pipe.vae.dtype == dtype
    assert half.latents.dtype == torch.float32 and half.latents.isfinite().all()
    for one, other in zip([full.reconstruction, *full.pictures], [half.reconstruction, *half.pictures], strict=True):
        assert metrics.psnr(images.to_tensor(one), images.to_tensor(other)).item() > CLOSE[dtype]


def test_a_decoder_that_overflows_in_half_precision_decodes_in_full(build, monkeypatch):
    backbone = nmg.Backbone(build().to(torch.float16))
    latents, decode = torch.randn(2, 4, 16, 16), backbone.vae.decode

    def overflowing(row, **options):
        (pixels,) = decode(row, **options)
        return (pixels.float() / 0 if row.dtype == torch.float16 else pixels,)

    expected = nmg.Backbone(build()).decode(latents)
    monkeypatch.setattr(backbone.vae, "decode", overflowing)
    pixels = backbone.decode(latents)
    # The weights were rounded, the arithmetic was not.
    torch.testing.assert_close(pixels, expected, rtol=0, atol=5e-3)
    assert backbone.vae.dtype == torch.float16


def test_a_decoder_that_is_not_finite_in_full_precision_is_an_error(build, monkeypatch):
    backbone = nmg.Backbone(build())
    monkeypatch.setattr(backbone.vae, "decode", lambda row, **_: (row.new_full((1, 3, 32, 32), float("nan")),))
    with pytest.raises(FloatingPointError, match="not finite"):
        backbone.decode(torch.randn(1, 4, 16, 16))
