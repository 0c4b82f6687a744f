"""Stable Diffusion 3 on a tiny random network: what diffusers' own pipeline computes, and the editors on it."""

import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import CFG, Backbone, Direct, MasaCtrl, NoiseMap, NullText, Pix2PixZero, PromptToPrompt, UniInv, edit
from nmg.alignment import find
from nmg.attention import sites
from nmg.backbones import StableDiffusion3
from nmg.editors import Editor, LocalBlend
from nmg.levels import transfer
from tests import families

SOURCE, TARGET = "a red cat sitting in the forest", "a blue dog in the forest"
QUIET = {"steps": 3, "progress": False}


@pytest.fixture(scope="module")
def pipe():
    return families.sd3()


@pytest.fixture(scope="module")
def backbone(pipe):
    return Backbone(pipe)


@pytest.mark.parametrize("dynamic", [False, True], ids=["static shift", "dynamic shift"])
@pytest.mark.parametrize(("size", "scale"), [((16, 16), 4.0), ((12, 20), 1.0)], ids=str)
def test_text_to_image_is_the_pipelines_own(size, scale, dynamic):
    pipe = families.sd3(dynamic)
    backbone, x = Backbone(pipe), torch.randn(1, 4, *size)
    options = {"height": 2 * size[0], "width": 2 * size[1], "guidance_scale": scale, "output_type": "latent"}
    expected = pipe(SOURCE, latents=x, num_inference_steps=4, **options).images
    text, null = backbone.texts([SOURCE], "")
    for step in backbone.steps(4, size):
        u, c = backbone.predict(x, step, null), backbone.predict(x, step, text)
        x = transfer(x, u + scale * (c - u), step.here, step.there)
    assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_an_identity_attend_changes_nothing_and_sees_every_layer(backbone):
    x, text, seen = torch.randn(2, 4, 16, 16), backbone.text([SOURCE, TARGET]), []
    step = backbone.steps(3, (16, 16))[1]
    plain = backbone.predict(x, step, text)
    hooked = backbone.predict(x, step, text, lambda site, q, k, v, mask: seen.append((site, q.shape[2])))
    assert type(backbone) is StableDiffusion3 and torch.equal(hooked, plain)
    assert [site for site, _ in seen] == list(sites(backbone.network).values())
    for site, positions in seen:
        assert positions == 8 * 8 + site.is_joint * text.shape[1]
        assert backbone.picture(site, positions, (16, 16)).indices(positions) == (0, 64, 1) or not site.is_joint


GUIDANCES = [
    NoiseMap(text_scale=3.0),
    NoiseMap(text_scale=3.0, jacobian=False),
    NullText(3.0, iterations=1),
    Direct(3.0),
]


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda guidance: type(guidance).__name__)
@pytest.mark.parametrize("editor", [PromptToPrompt(), MasaCtrl(start_step=0), Pix2PixZero()], ids=repr)
def test_every_editor_moves_the_target_and_leaves_the_source_alone(pipe, picture, editor, guidance):
    options = {"guidance": guidance, "negative": "", "inversion": UniInv(), **QUIET}
    found, plain, alone = (
        edit(pipe, picture, SOURCE, targets, editor=one, **options).latents
        for one, targets in ((editor, [TARGET]), (Editor(), [TARGET]), (Editor(), []))
    )
    assert found.isfinite().all()
    assert_close(found[:1], alone, rtol=1e-3, atol=1e-3)
    takes = not isinstance(editor, Pix2PixZero)
    assert ((found[1:] - plain[1:]).abs().max() > 1e-3) == takes


@pytest.mark.parametrize("editor", [PromptToPrompt(), MasaCtrl(start_step=0)], ids=repr)
def test_the_same_prompt_in_both_rows_changes_nothing(pipe, picture, editor):
    first, second = edit(pipe, picture, SOURCE, [SOURCE], guidance=CFG(3.0), editor=editor, **QUIET).latents
    assert_close(first, second, rtol=1e-3, atol=1e-3)


def test_words_are_found_in_what_both_kinds_of_encoder_read(backbone):
    tokens, text = backbone.tokens(SOURCE), backbone.text([SOURCE])
    assert tokens.width == text.shape[1] == 77 + 256
    by_clip, by_t5 = ([i for i in find("cat", tokens) if (i >= 77) == second] for second in (False, True))
    assert by_clip and by_t5
    assert backbone.pipe.tokenizer.decode([tokens.ids[i] for i in by_clip]).strip() == "cat"
    assert backbone.pipe.tokenizer_3.decode([tokens.then.ids[i - 77] for i in by_t5]) == "▁cat"


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
    assert plain.attention.steps.sum(-1).max() < 1
    assert (strong.latents[1] - plain.latents[1]).abs().max() > 1e-4
    outside = ~blended.region[1, 0]
    assert outside.any() and torch.equal(blended.latents[1][:, outside], blended.latents[0][:, outside])


def test_words_are_read_where_the_papers_blocks_are(monkeypatch):
    """Of a network with as many blocks as Stable Diffusion 3.5 medium's, some of which have a second attention."""
    backbone = Backbone(families.sd3())
    assert backbone.word_layers is None
    monkeypatch.setattr(StableDiffusion3, "WORD_BLOCKS_DUAL", {3: (0, 2)})
    # Block 0 has two self-attention layers.
    assert backbone.word_layers == (0, 3)
    shown = [site.name for site in sites(backbone.network).values() if backbone.shows_words(site, 0, (16, 16))]
    assert shown == ["transformer_blocks.0.attn", "transformer_blocks.2.attn"]


def test_a_gradient_is_the_same_with_checkpointing(picture):
    found = []
    for checkpointed in (False, True):
        pipe = families.sd3()
        if checkpointed:
            pipe.transformer.enable_gradient_checkpointing()
            pipe.transformer.train()
        found.append(edit(pipe, picture, SOURCE, guidance=NoiseMap(text_scale=3.0), **QUIET).latents)
    assert_close(*found, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"convention": "diffusers-0.18"}, "belongs to diffusion models"),
        ({"offset": 1}, "no meaning for a flow"),
        ({"guidance": NoiseMap(bound=None)}, "the schedule starts in pure noise"),
    ],
    ids=str,
)
def test_what_a_joint_attention_or_a_flow_lacks_is_refused(pipe, picture, options, message):
    with pytest.raises(ValueError, match=message):
        edit(pipe, picture, SOURCE, [TARGET], **QUIET, **options)


def test_a_size_that_the_patches_do_not_divide_is_refused(pipe, picture):
    with pytest.raises(ValueError, match="give multiples of 4, such as 32×32"):
        edit(pipe, picture, SOURCE, [TARGET], size=(34, 32), **QUIET)


def test_a_folder_is_loaded_by_the_class_that_it_names(pipe, picture, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = nmg.load(str(tmp_path), device="cpu", dtype=torch.bfloat16)
    assert type(loaded) is type(pipe) and not any(p.requires_grad for p in loaded.transformer.parameters())
    assert edit(loaded, picture, SOURCE, [TARGET], guidance=NoiseMap(text_scale=3.0), **QUIET).latents.isfinite().all()
