import json
import shutil
import subprocess
import sys
from types import SimpleNamespace

import pytest
import torch
from PIL import Image, ImageOps

import nmg
from nmg.lab import captioning
from nmg.lab.captioning import describe
from nmg.menagerie import Scene, caption
from nmg.menagerie.model import check_words
from nmg.menagerie.scene import FACTORS
from nmg.menagerie.tasks import TEST_SEEDS

WORDS = ["a", "the", "red", "blue", "cat", "dog", "sits", "stands", "in", "on", "grass"]
SIDE = 32


@pytest.fixture(scope="module")
def bundled():
    return nmg.Backbone(nmg.load("menagerie", device="cpu"))


@pytest.fixture(scope="module")
def blip(tmp_path_factory) -> str:
    """A folder with the files of BLIP's on the hub: tiny, of random weights in which the picture matters."""
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


# ---------------------------------------------------------------- the bundled model


def test_held_out_scenes_read_back_to_their_captions(bundled):
    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(12)]
    exact = [describe(bundled, scene.render()) == caption(scene) for scene in scenes]
    assert sum(exact) >= 9, exact


@pytest.mark.parametrize("size", [64, 512])
def test_a_plain_scene_is_read_exactly_at_every_size(bundled, size):
    scene = Scene(kind="cat", colour="blue", place="beach", seed=TEST_SEEDS)
    assert describe(bundled, scene.render(size)) == "a blue cat sitting on the beach, front view"


def test_a_pipeline_reads_as_its_backbone_does(bundled):
    picture = Scene.sample(TEST_SEEDS).render()
    assert describe(bundled.pipe, picture) == describe(bundled, picture)


def test_a_car_has_no_smile(bundled, monkeypatch):
    """The classifier's heads know nothing of each other."""
    read = dict(kind="car", colour="red", place="forest", mouth="smiling", glasses=True, style="plain", pose="sitting")
    classifier = SimpleNamespace(read=lambda pixels: [{**read, "view": "side"}])
    monkeypatch.setattr(captioning.menagerie, "load_classifier", lambda: classifier)
    assert describe(bundled, Image.new("RGB", (64, 64))) == "a red car in the forest, side view"


@pytest.mark.parametrize("colour", ["black", "white", "teal"])
def test_what_is_no_scene_gets_a_caption_that_the_model_knows(bundled, colour):
    prompt = describe(bundled, Image.new("RGB", (200, 90), colour))
    assert check_words([prompt]) is None
    assert any(kind in prompt.split() for kind in FACTORS["kind"])


def test_the_bundled_model_needs_no_other(bundled):
    assert describe(bundled, Scene.sample(TEST_SEEDS).render(), model="nowhere/nothing")


# ---------------------------------------------------------------- BLIP


def test_a_caption_is_words_and_the_same_every_time(tiny, blip, picture):
    prompt = describe(tiny(), picture, blip)
    assert prompt and set(prompt.split()) <= {*WORDS, "[UNK]", "[CLS]", "[MASK]"}
    assert prompt == prompt.strip() == describe(tiny(), picture, blip)


def test_a_stable_diffusion_is_described_by_blip(sd_shaped, blip, picture):
    assert isinstance(describe(sd_shaped, picture, blip), str)


def test_the_caption_depends_on_the_picture(tiny, blip):
    colours = "red", "blue", "white", "black"
    assert len({describe(tiny(), Image.new("RGB", (SIDE, SIDE), colour), blip) for colour in colours}) > 1


def test_the_caption_is_that_of_transformers(tiny, blip, picture):
    from transformers import BlipForConditionalGeneration, BlipProcessor

    processor, network = BlipProcessor.from_pretrained(blip), BlipForConditionalGeneration.from_pretrained(blip)
    middle = ImageOps.fit(picture, (SIDE, SIDE), Image.Resampling.LANCZOS)
    tokens = network.generate(**processor(images=middle, return_tensors="pt"), num_beams=3, max_new_tokens=30)
    assert describe(tiny(), picture, blip) == processor.decode(tokens[0], skip_special_tokens=True).strip()


def test_only_what_is_edited_is_described(tiny, blip):
    wide = Image.new("RGB", (3 * SIDE, SIDE), "blue")
    wide.paste("red", (SIDE, 0, 2 * SIDE, SIDE))
    assert describe(tiny(), wide, blip) == describe(tiny(), Image.new("RGB", (SIDE, SIDE), "red"), blip)


def test_a_path_is_read(tiny, blip, picture, tmp_path):
    picture.save(tmp_path / "photo.png")
    assert describe(tiny(), tmp_path / "photo.png", blip) == describe(tiny(), picture, blip)


# ---------------------------------------------------------------- errors


def refusal(pipe, picture, model) -> str:
    with pytest.raises(OSError, match="can't be loaded") as caught:
        describe(pipe, picture, str(model))
    assert caught.value.__cause__ is not None
    return str(caught.value)


def test_a_model_out_of_reach_is_named_with_what_works(tiny, picture, tmp_path):
    for model in (captioning.BLIP, str(tmp_path / "missing"), str(tmp_path)):
        message = refusal(tiny(), picture, model)
        assert repr(model) in message and "\n" not in message
        for cure in ("write the source prompt yourself", "in transformers' layout", "the hub id of one"):
            assert cure in message


@pytest.mark.parametrize("file", ["config.json", "model.safetensors", "preprocessor_config.json", "vocab.txt"])
def test_a_folder_without_one_of_its_files_is_refused(tiny, picture, copy, file):
    (copy / file).unlink()
    refusal(tiny(), picture, copy)


def test_half_a_file_of_weights_is_refused(tiny, picture, copy):
    weights = copy / "model.safetensors"
    weights.write_bytes(weights.read_bytes()[:2000])
    refusal(tiny(), picture, copy)


def test_weights_that_leave_some_of_blip_random_are_refused(tiny, picture, copy):
    from safetensors.torch import load_file, save_file

    tensors = load_file(copy / "model.safetensors")
    some = {name: tensor for name, tensor in tensors.items() if "crossattention" not in name}
    save_file(some, copy / "model.safetensors", metadata={"format": "pt"})
    assert f"lacks {len(tensors) - len(some)} of" in refusal(tiny(), picture, copy)


def test_a_missing_picture_is_told_before_a_model_is_fetched(tiny, tmp_path):
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        describe(tiny(), tmp_path / "nothing.png", "nowhere/nothing")


def test_what_is_no_pipeline_is_refused(picture):
    with pytest.raises(TypeError, match="pass a loaded StableDiffusionPipeline"):
        describe(object(), picture)


def test_importing_the_module_imports_neither_transformers_nor_diffusers():
    script = "import sys, nmg.lab.captioning; assert not {'transformers', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
