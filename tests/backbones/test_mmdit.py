"""Stable Diffusion 3 on a tiny random network: what diffusers' own pipeline computes, and the editors on it."""

import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import CFG, Backbone, Direct, MasaCtrl, NoiseMap, NullText, Pix2PixZero, PromptToPrompt, UniInv, edit
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
    hooked = backbone.predict(x, step, text, lambda site, q, k, v: seen.append((site, q.shape[2])))
    assert type(backbone) is StableDiffusion3 and torch.equal(hooked, plain)
    assert [site for site, _ in seen] == list(sites(backbone.network).values())
    for site, positions in seen:
        assert positions == 8 * 8 + site.is_joint * text.shape[1]
        assert backbone.picture(site, positions, text.shape[1]).indices(positions) == (0, 64, 1) or not site.is_joint


GUIDANCES = [
    NoiseMap(text_scale=3.0),
    NoiseMap(text_scale=3.0, jacobian=False),
    NullText(3.0, iterations=1),
    Direct(3.0),
]


@pytest.mark.parametrize("guidance", GUIDANCES, ids=lambda guidance: type(guidance).__name__)
@pytest.mark.parametrize("editor", [PromptToPrompt(), MasaCtrl(start_step=0), Pix2PixZero(amount=0)], ids=repr)
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
        (
            {"editor": PromptToPrompt(local_blend=LocalBlend(("cat", "dog")))},
            "weights, windows or places of words looks",
        ),
        ({"editor": PromptToPrompt(weights={"dog": 2.0})}, "leave them out: the layout alone"),
        ({"editor": MasaCtrl(words=("cat", "dog"), start_step=0)}, "MasaCtrl with masks or words"),
        ({"editor": Pix2PixZero()}, r"give Pix2PixZero\(amount=0\)"),
        ({"attention": True}, "attention=True looks at the words"),
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
