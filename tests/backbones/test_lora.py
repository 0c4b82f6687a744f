"""A user's own LoRA on a transformer: loaded as diffusers loads it, seen by the edit, gone when it is unloaded."""

import pytest
import torch
from torch.testing import assert_close

from nmg import NoiseMap, edit
from tests import families

peft = pytest.importorskip("peft")


@pytest.mark.parametrize("build", [families.sd3, families.flux, families.qwen], ids=lambda build: build.__name__)
def test_a_lora_is_loaded_as_in_diffusers_and_the_edit_sees_it(build, picture, tmp_path):
    def edited(pipe):
        options = {"guidance": NoiseMap(text_scale=1.0), "size": (32, 32), "steps": 2, "progress": False}
        return edit(pipe, picture, "a red cat", ["a blue dog"], **options).latents

    pipe, donor = build(), build()
    torch.manual_seed(0)
    # Of an alpha that is not its rank, the file would have to say so.
    config = peft.LoraConfig(r=2, lora_alpha=2, target_modules=["to_q", "to_k"], init_lora_weights=False)
    donor.transformer.add_adapter(config)
    plain, expected = edited(pipe), edited(donor)
    weights = peft.utils.get_peft_model_state_dict(donor.transformer)
    type(pipe).save_lora_weights(tmp_path, transformer_lora_layers=weights)
    pipe.load_lora_weights(tmp_path)
    assert_close(edited(pipe), expected, rtol=1e-4, atol=1e-4)
    assert (expected - plain).abs().max() > 1e-3
    pipe.unload_lora_weights()
    assert_close(edited(pipe), plain, rtol=1e-4, atol=1e-4)
