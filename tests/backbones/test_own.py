"""A pipeline of one's own, of every family: LoRA, offload, half precision and what exchanges weights."""

import dataclasses

import pytest
import torch
from torch.testing import assert_close

import nmg
from nmg import CFG, Backbone, Direct, MasaCtrl, NoiseMap, PromptToPrompt
from nmg.levels import transfer
from tests import families
from tests.families import FAMILIES

SOURCE, TARGET = "a red cat sitting in the forest", "a blue cat sitting in the forest"
GENTLE = NoiseMap(text_scale=3.0, gradient_scale=2.0)


@pytest.fixture(params=FAMILIES)
def family(request):
    return FAMILIES[request.param]


def edited(pipe, picture, guidance=GENTLE, editor=None, **options):
    options = {"editor": editor or PromptToPrompt(), "steps": 2, "progress": False} | options
    return nmg.edit(pipe, picture, SOURCE, [TARGET], guidance=guidance, **options).latents


def named(pipe):
    """The name of the pipeline's network, and the network."""
    return next((name, network) for name in ("unet", "transformer") if (network := getattr(pipe, name, None)))


def test_in_bfloat16_text_to_image_is_near_to_the_pipelines_own(family):
    pipe = family().to(torch.bfloat16)
    backbone, x = Backbone(pipe), torch.randn(1, 4, 16, 16)
    options = {"num_inference_steps": 4, "guidance_scale": 3.0, "output_type": "latent", "height": 32, "width": 32}
    expected = pipe(SOURCE, latents=x.bfloat16(), **options).images.float()
    text, null = backbone.texts([SOURCE], "")
    for step in backbone.steps(4, (16, 16)):
        u, c = backbone.predict(x, step, null), backbone.predict(x, step, text)
        x = transfer(x, u + 3.0 * (c - u), step.here, step.there)
    assert (x - expected).norm() <= 2e-2 * expected.norm()


def lora(network):
    """Weights of a LoRA on the attention's projections, far from zero."""
    from peft import LoraConfig, get_peft_model_state_dict

    torch.manual_seed(1)
    network.add_adapter(LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=False))
    return {name: weight.clone() for name, weight in get_peft_model_state_dict(network).items()}


@pytest.mark.parametrize("name", ["sd1", "xl"])
def test_a_lora_of_ones_own_is_edited_with_as_if_it_were_the_models(name, picture, tmp_path):
    pytest.importorskip("peft")
    pipe, fused = FAMILIES[name](), FAMILIES[name]()
    plain = edited(pipe, picture)
    pipe.save_lora_weights(tmp_path, unet_lora_layers=lora(FAMILIES[name]().unet))
    pipe.load_lora_weights(tmp_path)
    fused.load_lora_weights(tmp_path)
    fused.fuse_lora()
    found = edited(pipe, picture)
    assert (found - plain).abs().max() > 1e-2
    assert_close(found, edited(fused, picture), rtol=1e-3, atol=1e-3)
    pipe.unload_lora_weights()
    assert_close(edited(pipe, picture), plain, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("guidance", [GENTLE, CFG(3.0)], ids=["with a gradient", "without"])
def test_layers_that_lie_elsewhere_are_brought_when_they_run(family, picture, guidance):
    pipe = family()
    expected = edited(pipe, picture, guidance)
    _, network = named(pipe)
    families.offload(pipe)
    assert all(parameter.device.type == "meta" for parameter in network.parameters())
    assert_close(edited(pipe, picture, guidance), expected, rtol=1e-4, atol=1e-4)
    assert all(parameter.device.type == "meta" for parameter in network.parameters())


def test_parts_that_lie_elsewhere_are_brought_in_their_turn(family, picture, monkeypatch):
    """Model offload; `enable_model_cpu_offload` itself takes no CPU for the device."""
    from accelerate import cpu_offload_with_hook

    pipe, before, brought, freed = family(), None, [], []
    expected = edited(pipe, picture)
    parts = {name: part for name, part in pipe.components.items() if isinstance(part, torch.nn.Module)}
    for name in pipe.model_cpu_offload_seq.split("->"):
        if name in parts:
            _, before = cpu_offload_with_hook(parts[name], "cpu", prev_module_hook=before)
            parts[name].register_forward_pre_hook(lambda *_, name=name: brought.append(name))
    monkeypatch.setattr(pipe, "maybe_free_model_hooks", lambda: freed.append(True))
    assert_close(edited(pipe, picture), expected, rtol=1e-4, atol=1e-4)
    assert freed and {named(pipe)[0], "text_encoder"} <= set(brought)


def test_where_weights_are_exchanged_a_gradient_is_refused(family, picture):
    pipe = family()
    families.cast_layers(named(pipe)[1])
    with pytest.raises(ValueError, match="layerwise casting exchanges the weights .* NoiseMap\\(jacobian=False\\)"):
        edited(pipe, picture)
    # What the message says works.
    without = dataclasses.replace(GENTLE, jacobian=False)
    for guidance, editor in ((without, PromptToPrompt()), (Direct(3.0), MasaCtrl(start_step=0))):
        assert edited(pipe, picture, guidance, editor).isfinite().all()


def test_with_group_offload_a_gradient_is_refused(family, picture):
    pytest.importorskip("diffusers.hooks")
    from diffusers.hooks import apply_group_offloading

    pipe = family()
    options = {"onload_device": torch.device("cpu"), "offload_type": "leaf_level"}
    apply_group_offloading(named(pipe)[1], **options)
    with pytest.raises(ValueError, match="group offload exchanges the weights"):
        edited(pipe, picture)
