"""Stable Diffusion XL on a tiny random network: what diffusers' own pipeline computes, and every editor on it."""

import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import CFG, Backbone, MasaCtrl, NegativePrompt, NoiseMap, NullText, Pix2PixZero, PromptToPrompt, edit
from nmg.attention import attention, sites
from nmg.backbones import StableDiffusionXL
from nmg.editors import EditDirection, Editor, LocalBlend
from nmg.levels import transfer
from tests import families

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"
QUIET = {"steps": 2, "progress": False}


@pytest.fixture(scope="module")
def pipe():
    return families.sdxl()


@pytest.fixture(scope="module")
def backbone(pipe):
    return Backbone(pipe)


def sampled(backbone, x, negative, scale, size):
    text, null = backbone.texts([SOURCE], negative)
    for step in backbone.steps(3, size):
        u, c = backbone.predict(x, step, null), backbone.predict(x, step, text)
        x = transfer(x, u + scale * (c - u), step.here, step.there)
    return x


@pytest.mark.parametrize("size", [(16, 16), (12, 20)], ids=str)
@pytest.mark.parametrize(("negative", "theirs"), [("", None), ("a dog", "a dog")])
def test_text_to_image_is_the_pipelines_own(pipe, backbone, size, negative, theirs):
    x = torch.randn(1, 4, *size)
    options = {"height": 2 * size[0], "width": 2 * size[1], "negative_prompt": theirs, "output_type": "latent"}
    expected = pipe(SOURCE, latents=x, num_inference_steps=3, guidance_scale=5.0, **options).images
    assert_close(sampled(backbone, x, negative, 5.0, size), expected, rtol=1e-4, atol=1e-4)


def test_the_empty_null_prompt_is_zeros_only_where_the_model_was_trained_so(backbone):
    _, zeros = backbone.texts([SOURCE], "")
    assert not zeros.tokens.any() and not zeros.pooled.any()
    other = Backbone(families.sdxl(force_zeros=False))
    _, empty = other.texts([SOURCE], "")
    assert_close(empty.tokens, other.text([""]).tokens)
    assert_close(empty.pooled, other.text([""]).pooled)


def test_it_is_a_family_of_its_own(backbone, tiny):
    assert type(backbone) is StableDiffusionXL and type(Backbone(tiny())) is Backbone
    assert backbone.native_size == (32, 32)
    # Words are read at a quarter of the latent's side, or the nearest that there is; the layout is held up to there.
    assert backbone.word_map_size((16, 16)) == (8, 8) and backbone.layout_positions((128, 128)) == 32 * 32


def test_an_identity_attend_changes_nothing(backbone):
    x, text, seen = torch.randn(1, 4, 16, 16), backbone.text([SOURCE]), []
    step = backbone.steps(3, (16, 16))[1]
    plain = backbone.predict(x, step, text)
    assert torch.equal(backbone.predict(x, step, text, lambda site, q, k, v, mask: seen.append(site)), plain)
    assert seen == list(sites(backbone.network).values())
    assert_close(backbone.predict(x, step, text, lambda site, q, k, v, mask: attention(q, k, v)), plain)


EDITS = {
    "Prompt-to-Prompt": (PromptToPrompt(local_blend=LocalBlend(("cat", "cat"))), [TARGET]),
    "MasaCtrl": (MasaCtrl(start_step=0, words=("cat", "cat")), [TARGET]),
    "pix2pix-zero": (Pix2PixZero(("cat", "dog")), []),
}


GUIDANCES = [NoiseMap(text_scale=3.0), NullText(3.0, iterations=1), NegativePrompt(3.0)]


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda guidance: type(guidance).__name__)
@pytest.mark.parametrize(("editor", "targets"), EDITS.values(), ids=EDITS)
def test_every_editor_works_and_leaves_the_source_alone(pipe, picture, editor, targets, guidance):
    found = edit(pipe, picture, SOURCE, targets, guidance=guidance, editor=editor, **QUIET)
    negative = None if isinstance(guidance, NegativePrompt) else found.request.negative
    alone = edit(pipe, picture, SOURCE, guidance=guidance, editor=Editor(), negative=negative, **QUIET)
    assert found.latents.isfinite().all()
    assert_close(found.latents[:1], alone.latents, rtol=1e-3, atol=1e-3)
    again = edit(pipe, found.trajectory, targets=targets, guidance=guidance, editor=editor, progress=False)
    assert again.replayed
    assert_close(again.latents, found.latents, rtol=1e-3, atol=1e-3)


def test_a_direction_moves_tokens_and_pooled_embedding(pipe, backbone, tmp_path):
    direction = EditDirection.between(pipe, ["a cat"], ["a dog"])
    here, there = backbone.text(["a cat"]), backbone.text(["a dog"])
    assert_close(direction.embedding, there.tokens - here.tokens)
    assert_close(direction.pooled, there.pooled - here.pooled)
    direction.save(tmp_path / "direction.safetensors")
    assert torch.equal(EditDirection.load(tmp_path / "direction.safetensors").pooled, direction.pooled)


def test_a_gradient_is_the_same_with_checkpointing(picture):
    found = []
    for checkpointed in (False, True):
        pipe = families.sdxl()
        if checkpointed:
            pipe.unet.enable_gradient_checkpointing()
            pipe.unet.train()
        found.append(edit(pipe, picture, SOURCE, guidance=NoiseMap(text_scale=3.0), **QUIET).latents)
    assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("dtype", [torch.float16, torch.bfloat16], ids=str)
def test_in_half_precision_the_autoencoder_works_in_full(picture, dtype, monkeypatch):
    pipe, seen = families.sdxl().to(dtype), []
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda z, **options: seen.append(z.dtype) or decode(z, **options))
    found = edit(pipe, picture, SOURCE, [TARGET], guidance=CFG(3.0), **QUIET)
    assert found.latents.isfinite().all() and found.latents.dtype == torch.float32
    # bfloat16 has float32's range.
    assert set(seen) == {torch.float32 if dtype == torch.float16 else dtype} and pipe.vae.dtype == dtype


def test_a_folder_is_loaded_by_the_class_that_it_names(pipe, picture, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = nmg.load(str(tmp_path), device="cpu")
    assert type(loaded) is type(pipe) and not any(p.requires_grad for p in loaded.unet.parameters())
    options = {"guidance": CFG(3.0), **QUIET}
    expected, found = (edit(p, picture, SOURCE, [TARGET], **options).latents for p in (pipe, loaded))
    assert_close(found, expected, rtol=1e-4, atol=1e-4)
