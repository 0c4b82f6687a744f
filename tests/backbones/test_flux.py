"""FLUX.1 on a tiny random network: what diffusers' own pipeline computes, and the editors on it."""

import diffusers
import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import (
    CFG,
    Backbone,
    Direct,
    Drawn,
    FlowEdit,
    MasaCtrl,
    NoiseMap,
    NullText,
    Pix2PixZero,
    PromptToPrompt,
    Request,
    UniEdit,
    UniInv,
    edit,
    invert,
)
from nmg.attention import sites
from nmg.backbones import Flux
from nmg.backbones.mmdit import packed, unpacked
from nmg.editors import Editor, LocalBlend
from nmg.levels import transfer
from tests import families

SOURCE, TARGET = "a red cat sitting in the forest", "a blue dog in the forest"
QUIET = {"steps": 3, "progress": False}


@pytest.fixture(scope="module")
def pipe():
    return families.flux()


@pytest.fixture(scope="module")
def backbone(pipe):
    return Backbone(pipe)


def sampled(backbone, x, size, scale=1.0, told=3.5):
    """Text-to-image by the backbone alone."""
    text, null = (text.with_guidance(told) for text in backbone.texts([SOURCE], "a dog"))
    for step in backbone.steps(4, size):
        v = backbone.predict(x, step, text)
        if scale > 1:
            u = backbone.predict(x, step, null)
            v = u + scale * (v - u)
        x = transfer(x, v, step.here, step.there)
    return x


def by_pipeline(pipe, x, size, scale=1.0, told=3.5):
    pixels = {"height": 2 * size[0], "width": 2 * size[1], "output_type": "latent"}
    longest = 512 if pipe.transformer.config.guidance_embeds else 256
    asked = {"guidance_scale": told, "num_inference_steps": 4, "max_sequence_length": longest}
    asked |= {"negative_prompt": "a dog", "true_cfg_scale": scale} if scale > 1 else {}
    return unpacked(pipe(SOURCE, latents=packed(x), **asked, **pixels).images, size)


@pytest.mark.parametrize(("size", "scale"), [((16, 16), 1.0), ((12, 20), 2.0)], ids=str)
@pytest.mark.parametrize("dev", [True, False], ids=["dev", "schnell"])
def test_text_to_image_is_the_pipelines_own(dev, size, scale):
    pipe, x = families.flux(dev), torch.randn(1, 4, *size)
    found = sampled(Backbone(pipe), x, size, scale)
    assert_close(found, by_pipeline(pipe, x, size, scale), rtol=1e-4, atol=1e-4)


def test_so_it_is_in_bfloat16():
    pipe, x = families.flux().to(torch.bfloat16), torch.randn(1, 4, 16, 16)
    expected = by_pipeline(pipe, x.bfloat16(), (16, 16)).float()
    found = sampled(Backbone(pipe), x.bfloat16().float(), (16, 16))
    assert_close(found, expected, rtol=2e-2, atol=2e-2 * expected.abs().max().item())


def test_an_identity_attend_changes_nothing_and_sees_every_layer_in_the_order_they_run(backbone):
    x, text, seen = torch.randn(2, 4, 16, 16), backbone.text([SOURCE, TARGET]), []
    step = backbone.steps(3, (16, 16))[1]
    plain = backbone.predict(x, step, text)

    def attend(site, q, k, v, mask):
        seen.append(site)
        picture, words = (part(site, q.shape[2], (16, 16)) for part in (backbone.picture, backbone.words))
        assert words.indices(q.shape[2]) == (0, 512, 1) and picture.indices(q.shape[2]) == (512, 576, 1)

    assert torch.equal(backbone.predict(x, step, text, attend), plain) and type(backbone) is Flux
    assert seen == list(sites(backbone.network).values()) and all(site.is_joint for site in seen)
    assert [site.place for site in seen] == ["transformer"] * 2 + ["single"] * 2
    assert [site.layer for site in seen] == [0, 1, 2, 3]


def test_inversion_and_the_null_text_are_told_1_and_the_text_half_the_setting(pipe, picture, monkeypatch):
    told, called = [], Flux._inputs

    def inputs(self, x, timestep, text):
        # A smaller latent asks who the network is.
        if x.shape[-1] == 16:
            told.append(text.guidance.tolist())
        return called(self, x, timestep, text)

    monkeypatch.setattr(Flux, "_inputs", inputs)
    guidance = NoiseMap(text_scale=1.0, embedded_scale=2.5, jacobian=False)
    found = edit(pipe, picture, SOURCE, [TARGET], guidance=guidance, **QUIET)
    # Up in three calls; down, in each step, the null text steers, and two rows of text follow: no null half.
    assert told[:9] == [[1.0]] * 3 + [[1.0], [2.5, 2.5]] * 3
    told.clear()
    edit(pipe, found.trajectory, targets=[TARGET], guidance=CFG(1.0), progress=False)
    assert told[:3] == [[3.5, 3.5]] * 3
    told.clear()
    edit(pipe, found.trajectory, targets=[TARGET], guidance=CFG(2.0), progress=False)
    assert told[:3] == [[1.0, 3.5, 3.5]] * 3 or told[:3] == [[1.0, 1.0, 3.5, 3.5]] * 3


GUIDANCES = [NoiseMap(text_scale=1.0), NoiseMap(text_scale=1.0, jacobian=False), Direct(1.0), CFG(2.0)]
EDITORS = [PromptToPrompt(), MasaCtrl(start_step=0, layers=(1, 3)), Pix2PixZero()]


@pytest.mark.parametrize("guidance", GUIDANCES, ids=repr)
@pytest.mark.parametrize("editor", EDITORS, ids=repr)
def test_every_editor_moves_the_target_and_leaves_the_source_alone(pipe, picture, editor, guidance):
    options = {"guidance": guidance, "negative": "", "inversion": UniInv(), **QUIET}
    found, plain, alone = (
        edit(pipe, picture, SOURCE, targets, editor=one, **options).latents
        for one, targets in ((editor, [TARGET]), (Editor(), [TARGET]), (Editor(), []))
    )
    assert found.isfinite().all()
    assert_close(found[:1], alone, rtol=1e-3, atol=1e-3)
    takes = not isinstance(editor, Pix2PixZero)
    assert ((found[1:] - plain[1:]).abs().max() > 1e-4) == takes


@pytest.mark.parametrize("editor", [PromptToPrompt(), MasaCtrl(start_step=0)], ids=repr)
def test_the_same_prompt_in_both_rows_changes_nothing(pipe, picture, editor):
    first, second = edit(pipe, picture, SOURCE, [SOURCE], guidance=CFG(1.0), editor=editor, **QUIET).latents
    assert_close(first, second, rtol=1e-3, atol=1e-3)


@pytest.mark.parametrize("guidance", [CFG(1.0), Direct(1.0), Direct(2.0)], ids=repr)
def test_uni_edit_with_equal_prompts_is_the_source_sampled_alone_whatever_omega(pipe, picture, guidance):
    inverted = invert(pipe, picture, SOURCE, inversion=UniInv(), **QUIET)
    options = {"skip": 0, "progress": False}
    alone = edit(pipe, inverted, guidance=CFG(1.0, embedded_scale=1.0), editor=Editor(), **options).latents
    for omega in (0.0, 5.0, 50.0):
        found = edit(pipe, inverted, targets=[SOURCE], guidance=guidance, editor=UniEdit(omega), **options).latents
        assert_close(found[1:], alone, rtol=1e-4, atol=1e-4)


def test_uni_edit_follows_the_prompts_difference_and_leaves_the_source_row_alone(pipe, picture):
    inverted = invert(pipe, picture, SOURCE, inversion=UniInv(), **QUIET)
    options = {"targets": [TARGET], "guidance": CFG(1.0), "skip": 0, "progress": False}
    plain, weak, strong = (
        edit(pipe, inverted, editor=editor, **options).latents for editor in (Editor(), UniEdit(0.0), UniEdit(5.0))
    )
    assert_close(weak[:1], plain[:1], rtol=1e-4, atol=1e-4)
    assert (strong[1:] - weak[1:]).abs().max() > 1e-4


@torch.no_grad()
def by_flow_edit(backbone, maps, target, source_scale, target_scale):
    """Algorithm 1 of FlowEdit, each side told its own scale."""
    source = backbone.text([SOURCE]).with_guidance(source_scale)
    text = backbone.text([target]).with_guidance(target_scale)
    clean = edited = maps.maps[:1]
    for step in maps.steps:
        noised = maps.origin(step)
        change = backbone.predict(edited + noised - clean, step, text) - backbone.predict(noised, step, source)
        edited = edited + (step.there.s - step.here.s) * change
    return edited


@pytest.mark.parametrize(
    ("options", "scales"),
    [
        ({"guidance": Direct(1.0, embedded_scale=4.0), "editor": FlowEdit(source_scale=2.0)}, (2.0, 4.0)),
        ({"editor": FlowEdit()}, (1.5, 5.5)),
        ({"guidance": Direct(1.0), "editor": FlowEdit(source_scale=1.0)}, (1.0, 3.5)),
    ],
    ids=["given", "published", "own"],
)
def test_flow_edit_tells_each_side_its_own_scale(pipe, backbone, picture, options, scales):
    drawn = invert(pipe, picture, SOURCE, inversion=Drawn(), **QUIET)
    for target in (SOURCE, TARGET):
        found = edit(pipe, drawn, targets=[target], skip=0, progress=False, **options).latents
        assert_close(found[1:], by_flow_edit(backbone, drawn, target, *scales), rtol=1e-3, atol=1e-3)
        assert torch.equal(found[:1], drawn.maps[:1])


def test_flow_edit_with_equal_prompts_and_scales_returns_the_picture_and_runs_no_null_half(pipe, picture, monkeypatch):
    drawn, batches, called = invert(pipe, picture, SOURCE, inversion=Drawn(), **QUIET), [], Flux._inputs

    def inputs(self, x, timestep, text):
        batches.append(len(x))
        return called(self, x, timestep, text)

    monkeypatch.setattr(Flux, "_inputs", inputs)
    options = {"guidance": Direct(1.0, embedded_scale=2.0), "editor": FlowEdit(2.0), "progress": False}
    found = edit(pipe, drawn, targets=[SOURCE], **options).latents
    assert_close(found[1:], drawn.maps[:1], rtol=1e-4, atol=1e-4)
    # One row for the source and one for the target, in each of two steps; more would be a null half.
    assert batches[-2:] == [2, 2]


@pytest.mark.parametrize(("told", "said"), [(None, False), (2.0, False), (1.0, True)])
def test_flow_edit_says_a_source_that_is_told_more_than_the_targets(backbone, told, said):
    methods = {"guidance": Direct(1.0, embedded_scale=told), "editor": FlowEdit()}
    found = Request("picture", SOURCE, [TARGET], steps=3, **methods).remarks(backbone)
    assert ["source_scale=1.5 is above the targets' embedded_scale=1" in remark for remark in found] == [True] * said


def test_a_gradient_is_the_same_with_checkpointing(picture):
    found = []
    for checkpointed in (False, True):
        pipe = families.flux()
        if checkpointed:
            pipe.transformer.enable_gradient_checkpointing()
            pipe.transformer.train()
        found.append(edit(pipe, picture, SOURCE, [TARGET], guidance=NoiseMap(text_scale=1.0), **QUIET).latents)
    assert_close(*found, rtol=1e-3, atol=1e-3)


def test_an_edit_direction_moves_the_pooled_embedding_too(pipe, picture):
    found = edit(pipe, picture, SOURCE, editor=Pix2PixZero(("cat", "dog")), guidance=CFG(1.0), **QUIET)
    assert (found.latents[1] - found.latents[0]).abs().max() > 1e-4


def test_what_suits_the_family_is_the_default(pipe, backbone):
    assert nmg.default_guidance(pipe) == NoiseMap(text_scale=1.0, jacobian=False)
    assert backbone.native_size == (32, 32) and backbone.max_tokens == 512
    assert Backbone(families.flux(dev=False)).max_tokens == 256


def test_mutual_attention_acts_in_the_layers_that_carry_the_appearance():
    real = Backbone(families.flux(double=19, single=38))
    assert sorted(MasaCtrl().mutual_layers(real)) == [0, 1, 17, 18, 25, 28, 53, 54, 56]
    assert sorted(MasaCtrl(start_layer=55).mutual_layers(real)) == [55, 56]
    other = Backbone(families.flux())
    assert sorted(MasaCtrl().mutual_layers(other)) == [2, 3]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"guidance": NullText(1.0)}, "NullText searches .* was distilled to do without; use NoiseMap or Direct"),
        (
            {"editor": PromptToPrompt(local_blend=LocalBlend(("cat", "dog")))},
            "the text is itself changed by the picture",
        ),
        ({"editor": PromptToPrompt(weights={"dog": 2.0})}, "leave them out: the layout alone"),
        ({"editor": PromptToPrompt(layers=(4,))}, r"layers=\(4,\) are not all joint layers; they are \[0, 1, 2, 3\]"),
        ({"editor": MasaCtrl(layers=(4,))}, r"layers=\(4,\) are not all among the network's 4"),
        (
            {"editor": MasaCtrl(words=("cat", "dog"), start_step=0)},
            "MasaCtrl with words looks at .*changed by the picture.*; give source_mask and target_mask instead",
        ),
        ({"editor": Pix2PixZero(amount=0.1)}, r"give Pix2PixZero\(amount=0\)"),
        (
            {"editor": UniEdit(), "guidance": Direct(1.0, embedded_scale=2.0)},
            "embedded_scale=2 would do nothing; leave it",
        ),
        ({"attention": True}, "attention=True looks at the words"),
        ({"guidance": NoiseMap(text_scale=1.0, bound=None)}, "the schedule starts in pure noise"),
    ],
    ids=str,
)
def test_what_the_family_lacks_is_refused(pipe, picture, options, message):
    with pytest.raises(ValueError, match=message):
        edit(pipe, picture, SOURCE, [TARGET], **{"guidance": CFG(1.0)} | QUIET | options)


def test_a_scale_that_nothing_is_told_is_refused(picture):
    for pipe in (families.flux(dev=False), families.sd3()):
        with pytest.raises(ValueError, match="embedded_scale=3 is told to a network that embeds its guidance"):
            edit(pipe, picture, SOURCE, [TARGET], guidance=CFG(1.0, embedded_scale=3.0), **QUIET)


def test_classifier_free_guidance_is_said_to_be_needless(pipe, picture):
    with pytest.warns(
        UserWarning, match="text_scale=7.5 is classifier-free guidance, which this network was distilled"
    ):
        edit(pipe, picture, SOURCE, [TARGET], guidance=CFG(), **QUIET)


def test_a_network_that_reads_a_second_picture_is_refused(pipe):
    (kontext,) = families.classes(diffusers, "FluxKontextPipeline")
    parts = {name: part for name, part in pipe.components.items() if part is not None}
    with pytest.raises(TypeError, match="FluxKontextPipeline reads a second picture"):
        Backbone(kontext(**parts))


def test_a_network_with_layers_that_the_installed_diffusers_left_out_is_refused():
    pipe = families.flux()
    pipe.transformer.register_to_config(off_by_default=None, norm_of_tomorrow="rms")
    message = f"saved with norm_of_tomorrow='rms', which diffusers {diffusers.__version__} does not know"
    with pytest.raises(TypeError, match=message):
        Backbone(pipe)


def test_it_needs_a_diffusers_in_which_all_rows_have_the_same_positions():
    pipe = families.flux()
    pipe.transformer.pos_embed.__class__ = type("EmbedND", (type(pipe.transformer.pos_embed),), {})
    with pytest.raises(TypeError, match="FLUX.1 works with diffusers 0.31 and later"):
        Backbone(pipe)


def test_a_folder_is_loaded_by_the_class_that_it_names(pipe, picture, tmp_path):
    pipe.save_pretrained(tmp_path)
    loaded = nmg.load(str(tmp_path), device="cpu", dtype=torch.bfloat16)
    assert type(loaded) is type(pipe) and not any(p.requires_grad for p in loaded.transformer.parameters())
    assert edit(loaded, picture, SOURCE, [TARGET], size=(32, 32), **QUIET).latents.isfinite().all()
