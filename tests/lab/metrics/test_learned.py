import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
import torch
from PIL import Image

from nmg.lab import metrics
from nmg.menagerie import model as menagerie

SIDE = 32
PROMPTS = ["a red cat sitting in the forest", "a blue car at night"]
# Sixteen tokens are the longest that the tiny network reads.
LONG = " ".join(["a red cat sitting in the forest"] * 4)


@pytest.fixture(scope="module")
def pair():
    """Two pairs of pictures of 80×64 pixels: smooth ones, and the same with their columns in another order."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 80), indexing="ij")
    a = torch.stack([torch.stack([rows, columns, rows * columns]), torch.stack([columns**2, 1 - rows, rows])])
    return a, a.roll(24, -1)


@pytest.fixture(scope="module")
def region():
    region = torch.zeros(1, 1, 64, 80, dtype=torch.bool)
    region[..., 16:48, 8:40] = True
    return region


def randomise(network):
    """Random weights under which the input matters."""
    generator = torch.Generator().manual_seed(0)
    for weight in network.parameters():
        if weight.ndim > 1:
            weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    return network


@pytest.fixture(scope="module")
def clip(tmp_path_factory) -> str:
    """A folder with the files of CLIP's on the hub: tiny, of random weights, with the bundled tokenizer."""
    from transformers import CLIPConfig, CLIPModel, CLIPTokenizer

    folder = tmp_path_factory.mktemp("clip")
    for file in Path(menagerie.FOLDER, "tokenizer").iterdir():
        shutil.copy(file, folder)
    preprocessor = {
        "image_processor_type": "CLIPImageProcessor",
        "size": {"shortest_edge": SIDE},
        "crop_size": {"height": SIDE, "width": SIDE},
        "image_mean": [0.5, 0.4, 0.3],
        "image_std": [0.25, 0.3, 0.35],
    }
    (folder / "preprocessor_config.json").write_text(json.dumps(preprocessor))

    tokenizer = CLIPTokenizer.from_pretrained(folder)
    ends = dict(bos_token_id=tokenizer.bos_token_id, eos_token_id=tokenizer.eos_token_id)
    widths = dict(hidden_size=16, intermediate_size=32, num_hidden_layers=2, num_attention_heads=2)
    text = dict(vocab_size=len(tokenizer), max_position_embeddings=16, pad_token_id=tokenizer.pad_token_id)
    config = CLIPConfig(
        text_config={**widths, **ends, **text},
        vision_config=dict(**widths, image_size=SIDE, patch_size=8),
        projection_dim=16,
    )
    randomise(CLIPModel(config)).save_pretrained(folder)
    return str(folder)


@pytest.fixture(scope="module")
def dino(tmp_path_factory) -> str:
    """A folder with a tiny vision transformer of random weights."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    randomise(ViTModel(config, add_pooling_layer=False)).save_pretrained(folder)
    return str(folder)


# ---------------------------------------------------------------- CLIP score


def direct_score(folder, pixels, prompt):
    """The score of one picture: PIL resizes and crops, and the towers are called one by one."""
    from transformers import CLIPModel, CLIPTokenizer

    network = CLIPModel.from_pretrained(folder).eval()
    picture = Image.fromarray((pixels.permute(1, 2, 0).numpy() * 255).round().astype(np.uint8))
    scale = SIDE / min(picture.size)
    picture = picture.resize([int(side * scale) for side in picture.size], Image.Resampling.BICUBIC)
    left, top = (picture.width - SIDE) // 2, (picture.height - SIDE) // 2
    array = np.asarray(picture.crop((left, top, left + SIDE, top + SIDE))) / 255
    array = (array - [0.5, 0.4, 0.3]) / [0.25, 0.3, 0.35]
    image = torch.from_numpy(array).float().permute(2, 0, 1)[None]
    tokens = CLIPTokenizer.from_pretrained(folder)(
        prompt, truncation=True, max_length=16, return_tensors="pt"
    ).input_ids
    u = network.visual_projection(network.vision_model(pixel_values=image).pooler_output)[0]
    v = network.text_projection(network.text_model(input_ids=tokens).pooler_output)[0]
    return 100 * max((u @ v / (u.norm() * v.norm())).item(), 0)


def test_clip_score_is_a_hundred_times_the_cosine(clip, pair):
    score = metrics.ClipScore(clip, "cpu")
    found = set()
    for pictures in pair:
        for prompts in (PROMPTS, PROMPTS[::-1], [LONG, ""]):
            expected = [direct_score(clip, *row) for row in zip(pictures, prompts, strict=True)]
            assert score(pictures, prompts).tolist() == pytest.approx(expected, abs=2e-3)
            found |= {round(value, 2) for value in expected}
    assert len(found) > 4, "the scores are too much alike to tell anything"
    assert max(found) > 1


def test_a_negative_cosine_scores_nothing(clip, pair):
    score = metrics.ClipScore(clip, "cpu")
    from nmg.lab.metrics import learned

    projection = learned._clip(clip, torch.device("cpu"))[0].text_projection.weight
    scores = score(pair[0], PROMPTS)
    projection.data.neg_()
    negated = score(pair[0], PROMPTS)
    projection.data.neg_()
    assert torch.minimum(scores, negated).tolist() == [0, 0]
    assert torch.maximum(scores, negated).min() > 0


def test_a_regions_clip_score_is_that_of_the_masked_picture(clip, pair, region):
    score = metrics.ClipScore(clip, "cpu")
    torch.testing.assert_close(score(pair[0], PROMPTS, region), score(metrics.masked(pair[0], region), PROMPTS))
    assert not torch.allclose(score(pair[0], PROMPTS, region), score(pair[0], PROMPTS))


def test_weights_are_loaded_once(clip, pair, tmp_path):
    folder = shutil.copytree(clip, tmp_path / "clip")
    first = metrics.ClipScore(str(folder), "cpu")(pair[0], PROMPTS)
    shutil.rmtree(folder)
    torch.testing.assert_close(metrics.ClipScore(str(folder), "cpu")(pair[0], PROMPTS), first)


def test_every_picture_has_its_prompt(clip, pair):
    for prompts in (PROMPTS[:1], "ab"):
        with pytest.raises(ValueError, match="there are 2 pictures and .* for prompts"):
            metrics.ClipScore(clip, "cpu")(pair[0], prompts)


# ---------------------------------------------------------------- structure distance


def direct_distance(folder, a, b, peak=1.0):
    """The distance of one pair: the last layer's keys are computed from its normalised input, in loops."""
    from transformers import ViTModel

    network = ViTModel.from_pretrained(folder, add_pooling_layer=False).eval()
    weights = {name.replace("attention.attention.", "attention."): w for name, w in network.state_dict().items()}
    (weight, bias) = (
        next(w for name, w in weights.items() if "2.attention.k" in name and name.endswith(kind))
        for kind in ("weight", "bias")
    )
    norm = [module for name, module in network.named_modules() if name.endswith("layernorm_before")][-1]

    def similarity(pixels):
        # 80×64 becomes 40×32 pixels: five by four patches.
        pixels = torch.nn.functional.interpolate(pixels[None], (32, 40), mode="bilinear") * peak
        mean, deviation = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        pixels = (pixels - mean[:, None, None]) / deviation[:, None, None]
        hidden = network(pixels, interpolate_pos_encoding=True, output_hidden_states=True).hidden_states[2][0]
        keys = norm(hidden) @ weight.T + bias
        return np.array([[torch.cosine_similarity(k, q, dim=0).item() for q in keys] for k in keys])

    difference = similarity(a) - similarity(b)
    assert difference.shape == (21, 21)
    return (difference**2).mean()


@pytest.mark.parametrize("peak", [1.0, 255.0])
def test_structure_distance_compares_the_last_layers_keys(dino, pair, peak):
    expected = [direct_distance(dino, *row, peak) for row in zip(*pair, strict=True)]
    assert metrics.StructureDistance(dino, "cpu", peak)(*pair).tolist() == pytest.approx(expected, rel=1e-3)
    assert min(expected) > 1e-3 and abs(expected[0] - expected[1]) > 1e-3


def test_equal_pictures_have_no_structure_distance(dino, pair):
    assert metrics.StructureDistance(dino, "cpu")(pair[0], pair[0]).tolist() == [0, 0]


def test_the_structure_distance_leaves_no_hook(dino, pair):
    from nmg.lab.metrics import learned

    metrics.StructureDistance(dino, "cpu")(*pair)
    network, projection = learned._dino(dino, torch.device("cpu"))
    assert not any(module._forward_hooks for module in network.modules())
    assert projection in list(network.modules())


def test_pictures_are_resized_by_their_shorter_side():
    from nmg.lab.metrics.learned import _resized

    sizes = {(512, 512): (224, 224), (64, 64): (224, 224), (768, 512): (336, 224), (300, 500): (224, 373)}
    for size, expected in {**sizes, (100, 1000): (48, 480), (1000, 100): (480, 48)}.items():
        assert _resized(torch.zeros(1, 3, *size), 224).shape[-2:] == expected


# ---------------------------------------------------------------- LPIPS and TIFA, by stand-ins for their packages


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Stand-ins for `lpips` and `tifascore`, and an empty folder for torch.hub; returns what was built and asked."""
    from nmg.lab.metrics import learned

    calls = []

    class LPIPS(torch.nn.Module):
        def __init__(self, net, verbose):
            super().__init__()
            calls.append(net)

        def forward(self, a, b, normalize=False):
            assert normalize, "pictures are in 0…1"
            return (a - b).abs().mean((1, 2, 3), keepdim=True)

    def tifa_score_single(network, questions, path):
        with Image.open(path) as picture:
            calls.append((network, picture.size, [question["question"] for question in questions]))
        questions[0]["free_form_vqa"] = "yes"
        return {"tifa_score": len(questions) / 4}

    lpips, tifascore = ModuleType("lpips"), ModuleType("tifascore")
    lpips.LPIPS, tifascore.VQAModel, tifascore.tifa_score_single = LPIPS, str.upper, tifa_score_single
    monkeypatch.setitem(sys.modules, "lpips", lpips)
    monkeypatch.setitem(sys.modules, "tifascore", tifascore)
    monkeypatch.setattr(torch.hub, "get_dir", lambda: str(tmp_path))
    learned._lpips.cache_clear()
    learned._tifa.cache_clear()
    yield calls
    learned._lpips.cache_clear()
    learned._tifa.cache_clear()


def test_lpips_is_the_packages(packages, pair, tmp_path):
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / "squeezenet1_1-b8a52dc0.pth").touch()
    for _ in range(2):
        torch.testing.assert_close(metrics.Lpips("squeeze", "cpu")(*pair), (pair[0] - pair[1]).abs().mean((1, 2, 3)))
    assert packages == ["squeeze"], "the network is built once"


def test_lpips_fetches_nothing_offline(packages, pair):
    with pytest.raises(metrics.Missing, match=r"LPIPS can't .* HF_HUB_OFFLINE .* alexnet-owt-\*\.pth once, or copy"):
        metrics.Lpips(device="cpu")(*pair)
    assert packages == []


def test_an_unknown_lpips_network_is_an_error():
    with pytest.raises(ValueError, match="net='vgg' is unknown; alex and squeeze work"):
        metrics.Lpips("vgg")


def test_tifa_is_the_packages(packages, pair):
    question = dict(question="is there a cat?", choices=["yes", "no"], answer="yes")
    questions = [[question], [question, {**question, "question": "is it red?"}]]
    assert metrics.Tifa("vilt")(pair[0], questions).tolist() == [0.25, 0.5]
    assert packages == [
        ("VILT", (80, 64), ["is there a cat?"]),
        ("VILT", (80, 64), ["is there a cat?", "is it red?"]),
    ]
    assert "free_form_vqa" not in question
    with pytest.raises(ValueError, match="2 pictures and 1 for lists of questions"):
        metrics.Tifa("vilt")(pair[0], questions[:1])
    with pytest.raises(ValueError, match="no question"):
        metrics.Tifa("vilt")(pair[0], [[], [question]])


@pytest.mark.parametrize("package", ["lpips", "tifascore"])
def test_an_absent_package_is_missing(packages, pair, package, monkeypatch):
    monkeypatch.setitem(sys.modules, package, None)
    metric, cure, arguments = {
        "lpips": (metrics.Lpips(device="cpu"), r"LPIPS .* pip install 'nmg\[metrics\]'", (pair[1],)),
        "tifascore": (metrics.Tifa(), "TIFA .* github.com/Yushi-Hu/tifa", ([[{}], [{}]],)),
    }[package]
    with pytest.raises(metrics.Missing, match=cure) as error:
        metric(pair[0], *arguments)
    assert package in str(error.value)


# ---------------------------------------------------------------- what is missing


def test_a_model_that_is_not_here_is_missing(pair):
    with pytest.raises(
        metrics.Missing, match="the CLIP score can't .* 'openai/clip-vit-large-patch14'; HF_HUB_OFFLINE"
    ):
        metrics.ClipScore(device="cpu")(pair[0], PROMPTS)
    with pytest.raises(metrics.Missing, match="the structure distance can't .* 'facebook/dino-vitb8'; HF_HUB_OFFLINE"):
        metrics.StructureDistance(device="cpu")(*pair)


@pytest.mark.parametrize("folder", ["/no/such/folder", "./nowhere"])
def test_an_absent_folder_is_missing(pair, folder):
    with pytest.raises(metrics.Missing, match=f"there is no folder '{folder}' — give model= a folder"):
        metrics.StructureDistance(folder, "cpu")(*pair)


def test_another_kind_of_model_is_missing(clip, dino, pair):
    with pytest.raises(metrics.Missing, match="the CLIP score can't be measured"):
        metrics.ClipScore(dino, "cpu")(pair[0], PROMPTS)
    with pytest.raises(metrics.Missing, match="the structure distance can't be measured"):
        metrics.StructureDistance(clip, "cpu")(*pair)


def test_an_incomplete_model_is_missing(dino, pair, tmp_path):
    from safetensors.torch import load_file, save_file

    folder = shutil.copytree(dino, tmp_path / "dino")
    tensors = load_file(folder / "model.safetensors")
    lacking = next(name for name in tensors if "patch_embeddings" in name)
    save_file(
        {name: w for name, w in tensors.items() if name != lacking}, folder / "model.safetensors", {"format": "pt"}
    )
    with pytest.raises(metrics.Missing, match=r"lacks 1 of the network's tensors, such as .*patch_embeddings"):
        metrics.StructureDistance(str(folder), "cpu")(*pair)


@pytest.mark.parametrize("absent", [("vocab.json", "merges.txt"), ("preprocessor_config.json",)])
def test_a_model_without_its_vocabulary_or_processor_is_missing(clip, pair, tmp_path, absent):
    folder = shutil.copytree(clip, tmp_path / "clip")
    for name in absent:
        (folder / name).unlink()
    with pytest.raises(metrics.Missing, match="the CLIP score can't be measured"):
        metrics.ClipScore(str(folder), "cpu")(pair[0], PROMPTS)
