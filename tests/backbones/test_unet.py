import copy
from types import SimpleNamespace

import diffusers
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from nmg import (
    CFG,
    Backbone,
    FixedPoint,
    NoiseMap,
    edit,
    images,
    invert,
    prepare,
    steps,
    transfer,
)
from nmg.backbones.unet import frozen
from nmg.inversion import rise

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"


@pytest.fixture
def pixels(picture, backbone):
    return images.to_tensor(backbone.prepare(picture))


@pytest.fixture
def step(backbone):
    return steps(backbone.scheduler, 10)[3]


# ---------------------------------------------------------------- pictures


def test_encoding_neither_depends_on_the_random_state_nor_changes_it(backbone, pixels):
    torch.manual_seed(1)
    first, state = backbone.encode(pixels), torch.random.get_rng_state()
    torch.manual_seed(2)
    assert torch.equal(backbone.encode(pixels), first)
    torch.manual_seed(1)
    assert torch.equal(torch.random.get_rng_state(), state)


def test_encoding_is_the_scaled_mean_of_the_latent(backbone, pixels):
    with torch.no_grad():
        mean = backbone.vae.encode(2 * pixels - 1).latent_dist.mean
    assert_close(backbone.encode(pixels), mean * backbone.vae.config.scaling_factor)


def test_decoding_gives_pixels_of_the_pictures_shape_in_0_to_1(backbone, pixels):
    decoded = backbone.decode(backbone.encode(pixels).repeat(2, 1, 1, 1))
    assert decoded.shape == (2, *pixels.shape[1:])
    assert decoded.min() >= 0 and decoded.max() <= 1
    assert_close(decoded[0], decoded[1])


def test_decoding_hands_the_decoder_the_latent_that_the_encoder_gave(build, pixels, monkeypatch):
    pipe = build()
    pipe.vae.register_to_config(scaling_factor=0.5, shift_factor=0.2)
    backbone, handed = Backbone(pipe), []
    decode = pipe.vae.decode
    monkeypatch.setattr(pipe.vae, "decode", lambda z, **options: handed.append(z) or decode(z, **options))
    backbone.decode(backbone.encode(pixels))
    with torch.no_grad():
        assert_close(handed[0], pipe.vae.encode(2 * pixels - 1).latent_dist.mean)


def test_values_that_are_not_finite_are_not_shown(backbone):
    with pytest.raises(FloatingPointError, match="VAE decoded values that are not finite, in float32 too"):
        backbone.decode(torch.full((1, 4, 16, 16), torch.nan))


def test_a_picture_is_cropped_and_resized_to_the_native_size(backbone, picture):
    assert backbone.prepare(picture).size == backbone.native_size == (32, 32)
    assert backbone.prepare(picture, (40, 24)).size == (40, 24)


@pytest.mark.parametrize("size", [(33, 32), (32, 31), (0, 0), (2, 32), (-32, 32)])
def test_a_size_that_does_not_fit_the_latent_is_refused(backbone, picture, size):
    with pytest.raises(ValueError, match="multiples of 2, such as 32×32"):
        backbone.prepare(picture, size)


def test_sizes_come_from_the_model(sd_shaped, build):
    assert Backbone(sd_shaped).native_size == (512, 512) and Backbone(sd_shaped).pixels_per_latent == 8
    assert Backbone(build(size=12)).native_size == (24, 24) and Backbone(build()).pixels_per_latent == 2


# ---------------------------------------------------------------- text


def test_text_has_one_row_per_prompt_and_the_encoders_length(backbone, sd_shaped):
    assert backbone.text([SOURCE, TARGET, ""]).shape == (3, 24, 128)
    assert Backbone(sd_shaped).text([SOURCE]).shape == (1, 77, 32)


def test_equal_prompts_have_equal_rows_and_different_prompts_different_ones(backbone):
    first, second, other = backbone.text([SOURCE, SOURCE, TARGET]).tokens
    assert torch.equal(first, second)
    assert (first - other).abs().max() > 1e-3


@pytest.mark.parametrize(("count", "fits"), [(22, True), (23, False), (90, False)])
def test_a_prompt_longer_than_the_encoder_reads_is_refused(backbone, count, fits):
    prompt = " ".join(["cat"] * count)
    if fits:
        backbone.check([prompt])
        assert backbone.text([prompt]).tokens.isfinite().all()
        return
    with pytest.raises(ValueError, match=rf"has {count + 2} tokens and the text encoder reads 24.*; shorten"):
        backbone.check([prompt])


def test_stable_diffusion_reads_77_tokens(sd_shaped):
    assert Backbone(sd_shaped).text([" ".join(["cat"] * 75)]).shape[1] == 77
    with pytest.raises(ValueError, match="has 78 tokens and the text encoder reads 77"):
        Backbone(sd_shaped).check([" ".join(["cat"] * 76)])


@pytest.mark.parametrize("prompt", [None, 3, ["a cat"], b"a cat"])
def test_a_prompt_that_is_no_string_is_refused(backbone, prompt, unchecked):
    with pytest.raises(TypeError, match="give a string"):
        backbone.check([prompt])


def test_textual_inversions_of_several_vectors_are_written_out(build):
    pipe = build()
    pipe.load_textual_inversion({"<thing>": torch.randn(2, 128)})
    backbone = Backbone(pipe)
    assert backbone.readable("a <thing> cat") == "a <thing> <thing>_1 cat"
    assert (backbone.text(["a <thing> cat"]).tokens - backbone.text(["a cat"]).tokens).abs().max() > 1e-3


# ---------------------------------------------------------------- what is no Stable Diffusion 1 or 2


def test_a_pipeline_without_a_unet_is_refused():
    with pytest.raises(TypeError, match="SimpleNamespace has no unet, vae, text_encoder"):
        Backbone(SimpleNamespace(scheduler=1))


def test_a_second_text_encoder_without_its_tokenizer_is_refused(tiny):
    parts = {name: getattr(tiny(), name) for name in Backbone.PARTS}
    with pytest.raises(TypeError, match="SimpleNamespace has no tokenizer_2; pass a loaded"):
        Backbone(SimpleNamespace(**parts, text_encoder_2=tiny().text_encoder))


def test_a_transformer_is_refused_by_its_name():
    with pytest.raises(TypeError, match=r"has a Linear, and transformers of this kind are not supported yet; .*XL"):
        Backbone(SimpleNamespace(transformer=torch.nn.Linear(2, 2), scheduler=1))


def test_an_inpainting_unet_is_refused(build):
    pipe = build()
    pipe.unet.register_to_config(in_channels=9)
    with pytest.raises(TypeError, match="takes 9 channels and the latent has 4"):
        Backbone(pipe)


# ---------------------------------------------------------------- the network


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_every_prediction_type_gives_the_noise_that_diffusers_steps_along(tiny, kind):
    backbone = Backbone(tiny(prediction_type=kind))
    x, text, step = torch.randn(1, 4, 16, 16), backbone.text([SOURCE]), steps(backbone.scheduler, 10)[3]
    theirs = copy.deepcopy(backbone.scheduler)
    theirs.set_timesteps(10)
    with torch.no_grad():
        out = backbone.unet(x, step.timestep, text.tokens).sample
        found = transfer(x, backbone.predict(x, step, text), step.here, step.there)
    assert_close(found, theirs.step(out, step.timestep, x).prev_sample, rtol=1e-4, atol=1e-4)


def test_an_unknown_prediction_type_is_refused(build):
    backbone = Backbone(build(prediction_type="flow"))
    with pytest.raises(ValueError, match="epsilon, v_prediction, sample work"):
        backbone.predict(torch.randn(1, 4, 16, 16), steps(backbone.scheduler, 10)[3], backbone.text([SOURCE]))


ZERO_SNR = {"prediction_type": "v_prediction", "timestep_spacing": "trailing", "rescale_betas_zero_snr": True}


@pytest.mark.parametrize(
    "kind", ["DDIM", "EulerDiscrete", "DPMSolverMultistep", "UniPCMultistep", "FlowMatchEulerDiscrete"]
)
def test_models_that_start_in_pure_noise_are_inverted_and_edited(build, picture, kind):
    pipe, flows = build(), kind.startswith("Flow")
    # Calm enough that a fixed point is found at every level.
    pipe.unet.conv_out.weight.data *= 0.1
    betas = {name: pipe.scheduler.config[name] for name in ("beta_start", "beta_end", "beta_schedule")}
    options = {"shift": 2.0} if flows else {**betas, **ZERO_SNR}
    pipe.scheduler = getattr(diffusers, f"{kind}Scheduler")(**options)
    trajectory = invert(pipe, picture, SOURCE, steps=6, inversion=FixedPoint(), progress=False)
    assert trajectory.start.abs().max() < 10
    kept = edit(pipe, trajectory, guidance=CFG(1.0), progress=False)
    assert kept.drift < 5e-3
    found = edit(pipe, trajectory, targets=[TARGET], guidance=NoiseMap(text_scale=3.0), progress=False)
    assert found.latents.isfinite().all() and found.drift < 1


def test_the_unet_of_a_flow_samples_as_diffusers_does(build):
    pipe = build()
    pipe.scheduler = theirs = diffusers.FlowMatchEulerDiscreteScheduler(shift=2.0)
    x = expected = torch.randn(1, 4, 16, 16)
    backbone = Backbone(pipe)
    text = backbone.text([SOURCE])
    with torch.no_grad():
        for step in backbone.steps(4, (16, 16)):
            x = transfer(x, backbone.predict(x, step, text), step.here, step.there)
        theirs.set_timesteps(4)
        for t in theirs.timesteps:
            expected = theirs.step(pipe.unet(expected, t, text.tokens).sample, t, expected).prev_sample
    assert_close(x, expected, rtol=1e-4, atol=1e-4)


def test_eps_is_the_unets_output(backbone, step):
    x, text = torch.randn(2, 4, 16, 16), backbone.text([SOURCE, TARGET])
    with torch.no_grad():
        expected = backbone.unet(x.double(), step.timestep, text.tokens.double()).sample
        assert_close(backbone.predict(x, step, text), expected.float())


def test_gradients_reach_the_latent_and_never_the_parameters(build, step):
    backbone = Backbone(build())
    backbone.unet.enable_gradient_checkpointing()
    backbone.unet.train()
    x = torch.randn(1, 4, 16, 16)
    run = prepare(backbone, rise(backbone, x, SOURCE, 2))
    gradient, _ = run.gradient(x, step, run.null, lambda z, eps: eps.sum())
    assert gradient.abs().max() > 0
    assert all(parameter.requires_grad for parameter in backbone.unet.parameters())
    assert all(parameter.grad is None for parameter in backbone.unet.parameters())


@pytest.mark.parametrize("error", [None, KeyboardInterrupt])
def test_frozen_gives_every_parameter_its_own_flag_back(error):
    network = torch.nn.Linear(2, 2)
    network.bias.requires_grad_(False)
    try:
        with frozen(network):
            assert not any(parameter.requires_grad for parameter in network.parameters())
            if error:
                raise error
    except KeyboardInterrupt:
        pass
    assert network.weight.requires_grad and not network.bias.requires_grad


def test_an_edit_leaves_no_gradient_in_the_model(build, picture):
    pipe = build()
    pipe.unet.conv_in.requires_grad_(False)
    flags = [parameter.requires_grad for parameter in pipe.unet.parameters()]
    edit(pipe, picture, SOURCE, [TARGET], guidance=NoiseMap(), steps=2, progress=False)
    assert [parameter.requires_grad for parameter in pipe.unet.parameters()] == flags
    for part in (pipe.unet, pipe.vae, pipe.text_encoder):
        assert all(parameter.grad is None for parameter in part.parameters())


@pytest.mark.parametrize("size", [(16, 16), (17, 9), (12, 20)])
def test_cross_attention_runs_at_the_positions_that_are_foretold(backbone, step, size):
    seen = set()
    x, text = torch.randn(1, 4, *size), backbone.text([SOURCE])
    with torch.no_grad():
        backbone.predict(x, step, text, lambda site, q, k, v, mask: seen.add(q.shape[2]) if site.is_cross else None)
    assert seen == backbone.cross_positions(size)


@pytest.mark.parametrize("parts", [("unet",), ("unet", "vae", "text_encoder")])
def test_a_half_precision_model_edits_with_latents_in_fp32(build, picture, parts):
    pipe = build()
    for part in parts:
        getattr(pipe, part).to(torch.bfloat16)
    result = edit(pipe, picture, SOURCE, [TARGET], guidance=NoiseMap(), steps=3, progress=False)
    assert result.latents.dtype == result.trajectory.maps.dtype == torch.float32
    assert result.latents.isfinite().all()
    assert isinstance(result.pictures[0], Image.Image)
