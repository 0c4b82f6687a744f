"""Pictures, tiny networks in the layout of the hub's, and stand-ins for the packages of LPIPS and TIFA."""

import json
import shutil
import sys
from pathlib import Path
from types import ModuleType

import pytest
import torch
from PIL import Image

from nmg.menagerie import model as menagerie
from tests.lab.metrics.made import SIDE


@pytest.fixture(scope="session")
def pair():
    """Two pairs of pictures of 80×64 pixels: smooth ones, and the same with their columns in another order."""
    rows, columns = torch.meshgrid(torch.linspace(0, 1, 64), torch.linspace(0, 1, 80), indexing="ij")
    a = torch.stack([torch.stack([rows, columns, rows * columns]), torch.stack([columns**2, 1 - rows, rows])])
    return a, a.roll(24, -1)


@pytest.fixture(scope="session")
def region():
    region = torch.zeros(1, 1, 64, 80, dtype=torch.bool)
    region[..., 16:48, 8:40] = True
    return region


def randomise(network):
    """Random weights under which the input matters, always the same."""
    generator = torch.Generator().manual_seed(0)
    for name, weight in network.named_parameters():
        if weight.ndim > 1 or name.endswith("class_embedding"):
            weight.data = 0.3 * torch.randn(weight.shape, generator=generator)
    return network


@pytest.fixture(scope="session")
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


@pytest.fixture(scope="session")
def dino(tmp_path_factory) -> str:
    """A folder with a tiny vision transformer of random weights."""
    from transformers import ViTConfig, ViTModel

    folder = tmp_path_factory.mktemp("dino")
    config = ViTConfig(
        hidden_size=16, intermediate_size=32, num_hidden_layers=3, num_attention_heads=2, image_size=SIDE, patch_size=8
    )
    randomise(ViTModel(config, add_pooling_layer=False)).save_pretrained(folder)
    return str(folder)


@pytest.fixture
def packages(monkeypatch, tmp_path):
    """Stand-ins for `lpips` and `tifascore`, and an empty folder for torch.hub; returns what was built and asked."""
    from nmg.lab.metrics import lpips as lpips_module
    from nmg.lab.metrics import tifa

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
    lpips_module._lpips.cache_clear()
    tifa._tifa.cache_clear()
    yield calls
    lpips_module._lpips.cache_clear()
    tifa._tifa.cache_clear()
