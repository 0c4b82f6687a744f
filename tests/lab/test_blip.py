"""Captions by a tiny BLIP of random weights, in which the picture matters."""

import json
import shutil

import pytest
import torch
from PIL import Image

from nmg.lab.blip import BLIP, caption

WORDS = ["a", "the", "red", "blue", "cat", "dog", "sits", "stands", "in", "on", "grass"]
SIDE = 32
CPU = torch.device("cpu")


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> str:
    """A folder with the files of BLIP's on the hub."""
    from transformers import BlipConfig, BlipForConditionalGeneration

    folder = tmp_path_factory.mktemp("blip")
    vocabulary = ["[PAD]", "[SEP]", "[CLS]", "[UNK]", "[MASK]", *WORDS]
    (folder / "vocab.txt").write_text("\n".join(vocabulary) + "\n")
    (folder / "tokenizer_config.json").write_text(json.dumps({"tokenizer_class": "BertTokenizer"}))
    preprocessor = {
        "image_processor_type": "BlipImageProcessor",
        "processor_class": "BlipProcessor",
        "size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5, 0.5, 0.5],
        "image_std": [0.25, 0.25, 0.25],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))

    widths = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2, projection_dim=16)
    # As in BLIP's own, two tokens of the network are none of the tokenizer's: [DEC], with which it begins, and [ENC].
    special = dict(bos_token_id=len(vocabulary), pad_token_id=0, sep_token_id=1, eos_token_id=1)
    text = dict(vocab_size=len(vocabulary) + 2, encoder_hidden_size=16, max_position_embeddings=48)
    network = BlipForConditionalGeneration(
        BlipConfig(
            text_config={**widths, **special, **text},
            vision_config=dict(**widths, image_size=SIDE, patch_size=8),
        )
    )
    random = torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1:
            scale = 10.0 if "crossattention" in name or "patch" in name else 0.2
            weight.data = scale * torch.randn(weight.shape, generator=random)
    network.save_pretrained(folder)
    return str(folder)


@pytest.fixture
def copy(blip, tmp_path):
    """A copy of the folder, to break."""
    return shutil.copytree(blip, tmp_path / "copy")


def test_a_caption_is_that_of_transformers_and_depends_on_the_picture(blip):
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor, network = BlipProcessor.from_pretrained(blip), BlipForConditionalGeneration.from_pretrained(blip)
    found = set()
    for colour in ("red", "blue", "white", "black"):
        picture = Image.new("RGB", (SIDE, SIDE), colour)
        tokens = network.generate(**processor(images=picture, return_tensors="pt"), num_beams=3, max_new_tokens=30)
        prompt = caption(picture, blip, CPU)
        assert prompt == prompt.strip() == processor.decode(tokens[0], skip_special_tokens=True).strip()
        assert set(prompt.split()) <= {*WORDS, "[UNK]", "[CLS]", "[MASK]"}
        found.add(prompt)
    assert len(found) > 1


# ---------------------------------------------------------------- errors


def refusal(model) -> str:
    with pytest.raises(OSError, match="can't be loaded") as caught:
        caption(Image.new("RGB", (SIDE, SIDE)), str(model), CPU)
    assert caught.value.__cause__ is not None
    return str(caught.value)


def test_a_model_out_of_reach_is_named_with_what_works(tmp_path):
    for model in (BLIP, str(tmp_path / "missing"), str(tmp_path)):
        message = refusal(model)
        assert repr(model) in message and "\n" not in message
        for cure in ("write the source prompt yourself", "in transformers' layout", "the hub id of one"):
            assert cure in message


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt"])
def test_a_folder_without_one_of_its_files_is_refused(copy, file):
    (copy / file).unlink()
    refusal(copy)


def test_half_a_file_of_weights_is_refused(copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    refusal(copy)


def test_weights_that_leave_some_of_blip_random_are_refused(copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    some = {name: tensor for name, tensor in tensors.items() if "crossattention" not in name}
    save_file(some, copy / "model.safetensors", metadata={"format": "pt"})
    assert f"lacks {len(tensors) - len(some)} of" in refusal(copy)
