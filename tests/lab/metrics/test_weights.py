import shutil
import sys

import pytest

from nmg.lab import metrics
from tests.lab.metrics.made import PROMPTS


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
