import functools
import types

import pytest
import torch
from diffusers import AutoencoderTiny, DDIMScheduler, EDMEulerScheduler
from torch import nn
from torch.testing import assert_close

from nmg import (
    CFG,
    Backbone,
    Direct,
    GuideAndRescale,
    MasaCtrl,
    NoiseMap,
    NullText,
    Pix2PixZero,
    PromptToPrompt,
    Request,
    edit,
    find_null_texts,
    images,
    invert,
)
from nmg.backbones.checks import SWAPS, unfollowed
from nmg.undo import undoing
from tests import families

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"
QUICK = {"steps": 2, "progress": False}


def with_config(**settings):
    return lambda pipe: pipe.unet.register_to_config(**settings)


def with_part(**parts):
    return lambda pipe: pipe.register_modules(**parts)


def with_perturbed_attention(pipe):
    pipe.set_pag_applied_layers = lambda layers: None


def with_scheduler_of_another_kind(pipe):
    pipe.scheduler = EDMEulerScheduler()


def first_block(pipe):
    return pipe.unet.mid_block.attentions[0].transformer_blocks[0]


def with_merged_tokens(pipe):
    first_block(pipe).attn1.forward = lambda x, *rest, **options: x


def with_patched_block(pipe):
    block = first_block(pipe)
    block.__class__ = type("ToMeBlock", (type(block),), {})


def with_cached_block(pipe):
    """As DeepCache does it."""
    block = pipe.unet.down_blocks[0]
    block.forward = lambda *rest, **options: type(block).forward(block, *rest, **options)


def with_hook(name):
    def change(pipe):
        pipe.unet.mid_block._diffusers_hook = types.SimpleNamespace(hooks={name: None})

    return change


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (
            with_part(controlnet=nn.Linear(1, 1)),
            "has a controlnet, whose condition .* StableDiffusionPipeline.from_pipe",
        ),
        (with_part(adapter=nn.Linear(1, 1)), "has a adapter, whose condition an edit would leave out"),
        (with_perturbed_attention, "guides by perturbed attention"),
        (with_scheduler_of_another_kind, "EDMEulerScheduler has no levels that can be followed"),
        (with_config(time_cond_proj_dim=256), r"reads the guidance scale .*time_cond_proj_dim=256"),
        (with_config(addition_embed_type="text_image"), "reads a second embedding"),
        (with_config(class_embed_type="projection"), "reads a class"),
        (with_config(num_class_embeds=10), "reads a class"),
        (with_config(encoder_hid_dim_type="text_proj"), "another kind of text embedding"),
        (with_config(attention_type="gated"), "grounding boxes"),
        (with_merged_tokens, "the forward pass of .*attn1 was replaced, by token merging"),
        (with_patched_block, "the forward pass of .*transformer_blocks.0 was replaced, by token merging"),
        (with_cached_block, r"the forward pass of down_blocks.0 was replaced, .* helper.disable\(\)"),
        (with_hook("pyramid_attention_broadcast"), "has pyramid_attention_broadcast, which leaves out .*disable_cache"),
        (with_hook("fbc_block_hook"), "has fbc_block_hook, which"),
        (with_hook("faster_cache_block"), "has faster_cache_block, which"),
    ],
    ids=lambda value: "",
)
def test_what_an_edit_would_leave_out_is_refused_by_name(build, change, said):
    pipe = build()
    Backbone(pipe)
    change(pipe)
    with pytest.raises(TypeError, match=said):
        Backbone(pipe)


def test_what_changes_no_block_is_not_refused(build):
    """A watched network, tileable convolutions, and layers under accelerate's hooks."""
    pipe = build()
    unet = pipe.unet
    watched = unet.forward
    unet.forward = lambda *rest, **options: watched(*rest, **options)
    unet.conv_in.forward = lambda x: type(unet.conv_in).forward(unet.conv_in, x)
    unet.down_blocks[0].forward = functools.partial(type(unet.down_blocks[0]).forward, unet.down_blocks[0])
    unet.down_blocks[0]._hf_hook = object()
    Backbone(pipe)


def test_a_layer_of_ours_that_an_interrupt_left_is_put_back(build):
    pipe = build()
    with undoing(pipe.unet) as note:
        pass
    # A change of a block that has ended, and was not undone.
    note(functools.partial(vars(pipe.unet.mid_block).pop, "forward", None))
    pipe.unet.mid_block.forward = lambda x: x
    Backbone(pipe)
    assert "forward" not in vars(pipe.unet.mid_block)


# ---------------------------------------------------------------- gradients


def swapping(pipe, name):
    """The pipeline with a hook of diffusers that exchanges weights."""
    hooks = types.SimpleNamespace(hooks={name: None}, get_hook=lambda name: None)
    pipe.unet.conv_in._diffusers_hook = hooks
    return pipe


@pytest.mark.parametrize(
    ("methods", "said"),
    [
        ({"guidance": NoiseMap()}, "NoiseMap takes .* give NoiseMap\\(jacobian=False\\)"),
        ({"guidance": CFG() + NoiseMap(text_scale=7.5)}, "NoiseMap takes"),
        ({"guidance": NullText()}, "NullText takes .* give NegativePrompt"),
        ({"guidance": CFG(), "editor": Pix2PixZero()}, "Pix2PixZero takes .* give Pix2PixZero\\(amount=0\\)"),
        ({"editor": GuideAndRescale()}, "GuideAndRescale takes .* give GuideAndRescale\\(until=0\\)"),
    ],
    ids=["NoiseMap", "a stack", "NullText", "Pix2PixZero", "GuideAndRescale"],
)
def test_a_gradient_through_weights_that_leave_is_refused(build, trajectory, methods, said):
    for name, what in SWAPS.items():
        with pytest.raises(ValueError, match=f"{said}.*enable_model_cpu_offload") as error:
            edit(swapping(build(), name), trajectory, targets=[TARGET], progress=False, **methods)
        assert f"and {what} exchanges the weights" in str(error.value)


@pytest.mark.parametrize(
    "methods",
    [
        {"guidance": CFG()},
        {"guidance": Direct(), "editor": MasaCtrl(start_step=0)},
        {"guidance": NoiseMap(jacobian=False, gradient_scale=5)},
        {"guidance": NoiseMap.fast(), "editor": Pix2PixZero(amount=0)},
        {"editor": GuideAndRescale(until=0)},
    ],
    ids=["CFG", "MasaCtrl", "no Jacobian", "fast", "unguided"],
)
def test_what_takes_no_gradient_works_with_cast_weights(build, trajectory, methods):
    pipe = build()
    families.cast_layers(pipe.unet)
    found = edit(pipe, trajectory, targets=[TARGET], progress=False, **methods)
    assert found.latents.isfinite().all()


def test_null_texts_that_were_found_need_no_gradient(build, trajectory):
    pipe = build()
    texts = find_null_texts(pipe, trajectory, NullText(iterations=1), progress=False)
    swapping(pipe, "group_offloading")
    edit(pipe, trajectory, targets=[TARGET], guidance=NullText(embeddings=texts), progress=False)
    with pytest.raises(ValueError, match="NullText takes a gradient"):
        find_null_texts(pipe, trajectory, progress=False)


# ---------------------------------------------------------------- parts that differ, and work


def test_an_autoencoder_without_a_distribution_works(build, picture):
    pipe = build()
    pipe.vae = AutoencoderTiny(
        encoder_block_out_channels=(8, 8),
        decoder_block_out_channels=(8, 8),
        num_encoder_blocks=(1, 1),
        num_decoder_blocks=(1, 1),
    ).eval()
    backbone = Backbone(pipe)
    pixels = images.to_tensor(backbone.prepare(picture))
    with torch.no_grad():
        assert_close(backbone.encode(pixels), pipe.vae.encode(2 * pixels - 1).latents)
    assert edit(pipe, picture, SOURCE, [TARGET], guidance=CFG(), **QUICK).pictures[0].size == (32, 32)


def test_a_network_that_does_not_say_its_size_asks_for_one(build, picture):
    pipe = build()
    pipe.unet.register_to_config(sample_size=None)
    with pytest.raises(ValueError, match=r"does not say its sample_size; give .* size=\(512, 512\)"):
        invert(pipe, picture, SOURCE, **QUICK)
    with pytest.raises(ValueError, match="multiples of 2, such as 128×128"):
        invert(pipe, picture, SOURCE, size=(33, 32), **QUICK)
    trajectory = invert(pipe, picture, SOURCE, size=(32, 32), **QUICK)
    assert edit(pipe, trajectory, targets=[TARGET], guidance=CFG(), progress=False).request.size == (32, 32)


def test_an_encoder_that_overflows_in_half_precision_runs_in_single(build, picture):
    pipe = build()
    pixels = images.to_tensor(Backbone(pipe).prepare(picture))
    with torch.no_grad():
        for weight in (pipe.vae.encoder.conv_in.weight, pipe.vae.encoder.conv_in.bias):
            weight.mul_(3e5)
    expected = Backbone(pipe).encode(pixels)
    pipe.vae.to(torch.float16)
    assert_close(Backbone(pipe).encode(pixels), expected, rtol=0.02, atol=0.02)
    assert pipe.vae.dtype == torch.float16
    with torch.no_grad():
        pipe.vae.quant_conv.bias.fill_(torch.nan)
    with pytest.raises(FloatingPointError, match="the VAE encoded values that are not finite"):
        Backbone(pipe).encode(pixels)


# ---------------------------------------------------------------- what is said


@pytest.mark.parametrize(
    ("options", "said"),
    [
        ({}, None),
        ({"clip_sample": True}, "DDIMScheduler's clip_sample is not followed"),
        ({"thresholding": True, "clip_sample": True}, "DDIMScheduler's clip_sample, thresholding are not followed"),
    ],
    ids=["none", "clipping", "both"],
)
def test_options_of_a_scheduler_that_are_not_followed_are_said(build, options, said):
    scheduler = DDIMScheduler.from_config(build().scheduler.config, **{"clip_sample": False} | options)
    found = unfollowed(scheduler)
    assert found is None if said is None else found.startswith(said)


def test_edit_and_invert_say_what_is_not_followed(build, picture):
    pipe = build()
    pipe.scheduler.register_to_config(use_karras_sigmas=True)
    with pytest.warns(UserWarning, match="use_karras_sigmas is not followed"):
        invert(pipe, picture, SOURCE, **QUICK)
    with pytest.warns(UserWarning, match="use_karras_sigmas is not followed"):
        edit(pipe, picture, SOURCE, [TARGET], guidance=CFG(), **QUICK)


@pytest.mark.parametrize(
    ("editor", "said"),
    [
        (PromptToPrompt(), True),
        (MasaCtrl(), True),
        (PromptToPrompt(weights={"cat": 1}), True),
        (PromptToPrompt(weights={"cat": 2}), False),
        (Pix2PixZero(("cat", "dog")), False),
    ],
    ids=repr,
)
def test_a_target_that_is_the_source_is_said_unless_the_editor_edits_it(backbone, editor, said):
    request = Request("picture", SOURCE, [SOURCE], guidance=CFG(), editor=editor, steps=4)
    assert any("is the source's, so that its picture is not edited" in r for r in request.remarks(backbone)) == said
