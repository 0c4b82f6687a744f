"""Qwen-Image on a tiny random network: what diffusers' own pipeline computes, and the editors on it."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import CFG, Backbone, Direct, MasaCtrl, NoiseMap, NullText, Pix2PixZero, PromptToPrompt, UniInv, edit
from nmg.alignment import find
from nmg.attention import sites
from nmg.backbones import QwenImage
from nmg.backbones.mmdit import packed, unpacked
from nmg.editors import Editor, LocalBlend
from nmg.lab import memory
from nmg.levels import transfer
from nmg.request import Request
from tests import families

SOURCE, TARGET = "a red cat sitting in the forest", "a blue dog in the forest"
QUIET = {"steps": 3, "progress": False}


@pytest.fixture(scope="module")
def pipe():
    return families.qwen()


@pytest.fixture(scope="module")
def backbone(pipe):
    return Backbone(pipe)


def sampled(backbone, x, scale, size):
    """Text-to-image by the backbone alone."""
    text, null = backbone.texts([SOURCE], "a dog")
    for step in backbone.steps(4, size):
        u, c = backbone.predict(x, step, null), backbone.predict(x, step, text)
        v = backbone.rescaled(u + scale * (c - u), c) if scale > 1 else c
        x = transfer(x, v, step.here, step.there)
    return x


def by_pipeline(pipe, x, scale, size):
    pixels = {"height": 2 * size[0], "width": 2 * size[1], "output_type": "latent"}
    asked = {"negative_prompt": "a dog", "true_cfg_scale": scale, "num_inference_steps": 4}
    return unpacked(pipe(SOURCE, latents=packed(x), **asked, **pixels).images, size)


@pytest.mark.parametrize(("size", "scale"), [((16, 16), 4.0), ((12, 20), 1.0)], ids=str)
def test_text_to_image_is_the_pipelines_own(pipe, backbone, size, scale):
    x = torch.randn(1, 4, *size)
    assert_close(sampled(backbone, x, scale, size), by_pipeline(pipe, x, scale, size), rtol=1e-4, atol=1e-4)


def test_so_it_is_in_bfloat16():
    pipe, x = families.qwen().to(torch.bfloat16), torch.randn(1, 4, 16, 16)
    expected = by_pipeline(pipe, x.bfloat16(), 4.0, (16, 16)).float()
    found = sampled(Backbone(pipe), x.bfloat16().float(), 4.0, (16, 16))
    assert_close(found, expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())


def test_a_picture_is_a_film_of_one_frame_in_the_networks_units(pipe, backbone, picture):
    pixels = nmg.images.to_tensor(nmg.images.fit(picture, 32, 24))
    latents, config = backbone.encode(pixels), pipe.vae.config
    mean = pipe.vae.encode(2 * pixels[:, :, None] - 1).latent_dist.mean[0, :, 0]
    for channel in range(4):
        own = (mean[channel] - config.latents_mean[channel]) / config.latents_std[channel]
        assert_close(latents[0, channel], own)
    assert_close(backbone._denormalised(latents)[0], mean)
    assert backbone.decode(latents).shape == pixels.shape


def test_an_identity_attend_changes_nothing_and_sees_every_layer_with_its_mask(backbone):
    x, text, seen = torch.randn(2, 4, 16, 16), backbone.text([SOURCE, TARGET]), []
    step = backbone.steps(3, (16, 16))[1]
    plain = backbone.predict(x, step, text)

    def attend(site, q, k, v, mask):
        seen.append(site)
        assert torch.equal(mask[:, 0, 0, : text.shape[1]], text.mask) and mask[..., text.shape[1] :].all()
        picture, words = (part(site, q.shape[2], (16, 16)) for part in (backbone.picture, backbone.words))
        assert words.indices(q.shape[2]) == (0, text.shape[1], 1)
        assert picture.indices(q.shape[2]) == (text.shape[1], q.shape[2], 1)

    assert torch.equal(backbone.predict(x, step, text, attend), plain) and type(backbone) is QwenImage
    assert seen == list(sites(backbone.network).values())


def test_a_row_alone_is_the_row_beside_a_longer_one(backbone):
    x, step = torch.randn(1, 4, 16, 16), backbone.steps(3, (16, 16))[1]
    alone, beside = backbone.text([TARGET]), backbone.text([TARGET, SOURCE])
    assert not beside.mask[0].all() and alone.mask.all()
    both = backbone.predict(x.expand(2, -1, -1, -1), step, beside)
    assert_close(both[:1], backbone.predict(x, step, alone), rtol=1e-4, atol=1e-4)
    # Joined later, they are as if they had been read together.
    joined = torch.cat([alone, backbone.text([SOURCE])])
    assert torch.equal(joined.mask, beside.mask)
    assert_close(backbone.predict(x.expand(2, -1, -1, -1), step, joined), both, rtol=1e-4, atol=1e-4)


def test_words_are_found_behind_the_templates_beginning(backbone):
    tokens, text = backbone.tokens(SOURCE), backbone.text([SOURCE])
    assert len(tokens.ids) == text.shape[1] < tokens.length
    assert "".join(SOURCE[a:b] for a, b in tokens.spans) == SOURCE.replace(" ", "")
    letters = backbone.tokenizer.convert_ids_to_tokens([tokens.ids[i] for i in find("forest", tokens)])
    assert "".join(letters) == "forest"
    # What follows the prompt in the template stands for none of its words.
    assert tokens.end < len(tokens.ids)


def test_guidance_keeps_the_norm_of_every_token(backbone):
    guided, text = torch.randn(2, 4, 8, 8), torch.randn(2, 4, 8, 8)
    found = backbone.rescaled(guided, text)
    assert_close(packed(found).norm(dim=-1), packed(text).norm(dim=-1))
    assert_close(
        torch.nn.functional.normalize(packed(found), dim=-1), torch.nn.functional.normalize(packed(guided), dim=-1)
    )
    assert_close(backbone.rescaled(text, text), text)


GUIDANCES = [NoiseMap(text_scale=3.0), NullText(3.0, iterations=1), Direct(3.0)]
EDITORS = [
    PromptToPrompt(self_replace=0),
    PromptToPrompt(cross_replace=0, layers=(1,)),
    MasaCtrl(start_step=0),
    Pix2PixZero(("cat", "dog")),
]


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda guidance: type(guidance).__name__)
@pytest.mark.parametrize("editor", EDITORS, ids=repr)
def test_every_editor_moves_the_target_and_leaves_the_source_alone(pipe, picture, editor, guidance):
    options = {"guidance": guidance, "negative": "", "inversion": UniInv(), **QUIET}
    targets = [] if isinstance(editor, Pix2PixZero) else [TARGET]
    found = edit(pipe, picture, SOURCE, targets, editor=editor, **options)
    plain = edit(
        pipe, found.trajectory, targets=[TARGET], editor=Editor(), guidance=guidance, negative="", progress=False
    )
    alone = edit(pipe, picture, SOURCE, **options).latents
    assert found.latents.isfinite().all() and plain.replayed
    for one in (found, plain):
        assert_close(one.latents[:1], alone, rtol=1e-3, atol=1e-3)
    assert (found.latents[1:] - plain.latents[1:]).abs().max() > 1e-4


def test_the_descent_of_pix2pix_zero_is_not_taken_unless_it_is_asked_for(pipe, picture):
    options = {"guidance": CFG(3.0), **QUIET}
    still, same, moved = (
        edit(pipe, picture, SOURCE, editor=Pix2PixZero(("cat", "dog"), amount), **options).latents
        for amount in (None, 0, 5.0)
    )
    assert torch.equal(still, same)
    assert_close(moved[0], still[0], rtol=1e-3, atol=1e-3)
    assert (moved[1] - still[1]).abs().max() > 1e-3


@pytest.mark.parametrize("editor", [PromptToPrompt(), MasaCtrl(start_step=0)], ids=repr)
def test_the_same_prompt_in_both_rows_changes_nothing(pipe, picture, editor):
    first, second = edit(pipe, picture, SOURCE, [SOURCE], guidance=CFG(3.0), editor=editor, **QUIET).latents
    assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_words_have_maps_and_weights(pipe, picture):
    options = {"guidance": CFG(3.0), "attention": True, **QUIET}
    plain, strong, blended = (
        edit(pipe, picture, SOURCE, [TARGET], editor=editor, **options)
        for editor in (
            PromptToPrompt(),
            PromptToPrompt(weights={"dog": 5.0}),
            PromptToPrompt(local_blend=LocalBlend(("cat", "dog"), threshold="otsu", start=0)),
        )
    )
    assert plain.attention.of("cat").shape == (8, 8) and plain.attention.of("dog", 1).min() > 0
    whole = plain.attention.steps.sum(-1)
    assert whole.min() > 0 and whole.max() < 1
    assert (strong.latents[1] - plain.latents[1]).abs().max() > 1e-4
    outside = ~blended.region[1, 0]
    assert outside.any() and torch.equal(blended.latents[1][:, outside], blended.latents[0][:, outside])


def test_a_gradient_is_the_same_with_checkpointing(picture):
    found = []
    for checkpointed in (False, True):
        pipe = families.qwen()
        if checkpointed:
            pipe.transformer.enable_gradient_checkpointing()
            pipe.transformer.train()
        found.append(edit(pipe, picture, SOURCE, [TARGET], guidance=NoiseMap(text_scale=3.0), **QUIET).latents)
    assert_close(*found, rtol=1e-3, atol=1e-3)


def test_at_text_scale_1_the_null_half_is_not_run(pipe, backbone, picture, monkeypatch):
    rows, predict = [], Backbone.predict
    monkeypatch.setattr(Backbone, "predict", lambda self, x, *rest: rows.append(len(x)) or predict(self, x, *rest))
    alone = edit(pipe, picture, SOURCE, [TARGET], guidance=CFG(1.0), editor=PromptToPrompt(), **QUIET)
    assert max(rows) == 2
    near = edit(pipe, alone.trajectory, targets=[TARGET], guidance=CFG(1 + 1e-6), progress=False)
    assert max(rows) == 4
    assert_close(near.latents, alone.latents, rtol=1e-3, atol=1e-3)


def test_a_folder_is_loaded_by_the_class_that_it_names(pipe, picture, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = nmg.load(str(tmp_path), device="cpu", dtype=torch.bfloat16)
    loaded.prompt_template_encode_start_idx = pipe.prompt_template_encode_start_idx
    assert type(loaded) is type(pipe) and not any(p.requires_grad for p in loaded.transformer.parameters())
    found = edit(loaded, picture, SOURCE, [TARGET], guidance=NoiseMap(text_scale=3.0), size=(32, 32), **QUIET)
    found.trajectory.save(tmp_path / "cat.safetensors")
    again = edit(
        loaded,
        nmg.Trajectory.load(tmp_path / "cat.safetensors"),
        targets=[SOURCE + " and a dog"],
        guidance=NoiseMap(text_scale=3.0),
        progress=False,
    )
    assert found.latents.isfinite().all() and again.replayed


def test_what_an_edit_takes_of_a_card_is_found_without_running_it(pipe, picture):
    asked = Request(picture, "a red cat", ("a blue dog",), guidance=NoiseMap(jacobian=False), editor=MasaCtrl())
    plain, gradient = (
        memory.needed(pipe, dataclasses.replace(asked, guidance=NoiseMap(jacobian=j))) for j in (False, True)
    )
    assert 0 < plain.step <= gradient.step and plain.picture > 0 and gradient.kept > plain.kept
