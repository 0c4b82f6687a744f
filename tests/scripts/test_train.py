import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from nmg import Backbone, NoiseMap, edit
from nmg.lab import bench
from nmg.menagerie import Scene, networks, prompt_pair
from nmg.menagerie.model import FOLDER, constant
from nmg.menagerie.tasks import TRAIN_SEEDS
from scripts import card, evaluate, train

# ---------------------------------------------------------------- training


def test_batches_see_every_index_once_in_each_epoch():
    batches = train.shuffled(10, 5, seed=0)
    first, second = ([*next(batches), *next(batches)] for _ in range(2))
    assert sorted(first) == sorted(second) == list(range(10)) and first != second


def test_a_budget_ends_by_samples_or_minutes():
    assert train.Budget(100, 10).spent(50, 0) == train.Budget(100, 10).spent(0, 300) == 0.5
    assert train.Budget(100).spent(200, 0) == 1 and train.Budget().spent(10**9, 10**9) == 0


def test_training_pictures_go_to_the_range_of_the_autoencoder():
    tensor = train.to_tensor(np.array([[[[0, 127, 255]]]], np.uint8))
    assert_close(tensor.flatten(), torch.tensor([-1, -1 / 255, 1]))


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained on 64 scenes for two batches, then for two more."""
    work = tmp_path_factory.mktemp("training")
    for samples in (32, 64):
        with torch.enable_grad():
            train.train(
                train.parser().parse_args(
                    [
                        "--work",
                        str(work),
                        "--out",
                        str(work / "pipeline"),
                        "--scenes",
                        "64",
                        "--workers",
                        "1",
                        "--report",
                        "0",
                        "--classifier-samples",
                        "64",
                        "--decoder-samples",
                        "8",
                        "--vae-samples",
                        "32",
                        "--unet-samples",
                        str(samples),
                        "--vae-batch",
                        "16",
                        "--unet-batch",
                        "16",
                        "--vae-channels",
                        "8",
                        "16",
                        "16",
                        "--unet-channels",
                        "16",
                        "32",
                        "--precision",
                        "no",
                        "--cpu",
                        "--no-compile",
                    ]
                )
            )
    return work


def log(work, name):
    return [json.loads(line)["samples"] for line in (work / f"{name}.jsonl").read_text().splitlines()]


def test_a_larger_budget_continues_and_a_spent_one_rests(trained):
    assert log(trained, "unet") == [32, 64]
    assert log(trained, "vae") == [32] and log(trained, "classifier") == [64]
    assert train.read_log(trained / "unet.jsonl")[-1]["samples"] == 64


def test_the_bank_holds_the_training_scenes(trained):
    bank = np.load(trained / "bank_64.npy")
    assert bank.shape == (64, 64, 64, 3)
    for index in (0, 63):
        assert np.array_equal(bank[index], np.asarray(Scene.sample(TRAIN_SEEDS + index).render(64)))


def test_the_exported_folder_is_an_ordinary_stable_diffusion_in_half_precision(trained):
    folder = trained / "pipeline"
    for part, name in (
        ("unet", "diffusion_pytorch_model"),
        ("vae", "diffusion_pytorch_model"),
        ("text_encoder", "model"),
    ):
        with safe_open(folder / part / f"{name}.safetensors", "pt") as file:
            dtypes = {file.get_slice(key).get_dtype() for key in file.keys()}  # noqa: SIM118
        assert dtypes == {"F16"}, part
    keys = load_file(folder / "text_encoder" / "model.safetensors").keys()
    assert all(key.startswith("text_model.") and not key.endswith("position_ids") for key in keys)
    files = {path.name for path in (folder / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= files and "tokenizer.json" not in files
    assert json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"] != 0.18215
    networks.FactorClassifier.load(folder / "classifier.safetensors")


def test_the_exported_folder_loads_with_the_averaged_weights_and_edits(trained):
    from diffusers import StableDiffusionPipeline

    folder, options = (
        trained / "pipeline",
        {"safety_checker": None, "local_files_only": True, "torch_dtype": torch.float32},
    )
    pipe = StableDiffusionPipeline.from_pretrained(folder, **options)
    average = torch.load(trained / "unet.pt", weights_only=True)["average"]
    for network, name in (
        (pipe.unet, "conv_in.weight"),
        (pipe.text_encoder, "final_layer_norm.weight"),
        (pipe.text_encoder, "token_embedding.weight"),
    ):
        loaded, saved = (
            [tensor for key, tensor in state.items() if key.endswith(name)] for state in (network.state_dict(), average)
        )
        assert_close(loaded, saved, rtol=1e-3, atol=1e-4)
    scene = Scene(kind="cat", colour="red")
    source, target = prompt_pair(scene, colour="blue")
    result = edit(
        pipe, scene.render(), source, [target], guidance=NoiseMap(gradient_scale=500), steps=2, progress=False
    )
    assert result.pictures[0].size == (64, 64) and result.latents.isfinite().all()


# ---------------------------------------------------------------- the report


def test_edits_take_over_the_records_of_a_benchmark(tiny, tmp_path):
    backbone, task = Backbone(tiny()), "colour change"
    scales = {"NMG": {"PromptToPrompt": 5.0}}
    found = bench.run(backbone, bench.Menagerie(), ["DDIM"], [task], 1, tmp_path, steps=2, progress=False)
    (tmp_path / "scales.json").write_text(json.dumps({"scales": scales}))
    report = evaluate.edits(backbone, 1, steps=2, tasks=[task], records=tmp_path)
    assert len(bench.read(tmp_path)) == len(found) + 1
    assert report["noise_map_scales"] == {"PromptToPrompt": 5.0} and report["scenes"] == {task: 1}
    rows = report["tasks"][task]
    assert rows == evaluate.edits(backbone, 1, steps=2, tasks=[task], records=tmp_path)["tasks"][task]
    bench.run(backbone, bench.Menagerie(), ["DDIM"], [task], 2, tmp_path, steps=2, progress=False)
    assert evaluate.edits(backbone, 1, steps=2, tasks=[task], records=tmp_path)["scenes"] == {task: 2}
    assert set(rows) == {"identity", "ceiling", "DDIM", "NMG"}
    assert rows["DDIM"] == {name: found[-1].metrics[name] for name in ("psnr", "success")}


def test_curves_are_means_of_neighbours_without_rows_of_counts_alone():
    rows = [{"samples": 10 * n, "minutes": n / 2, "loss": 1 / n} for n in range(1, 100)]
    thin = train.thinned([*rows, {"samples": 991, "minutes": 49.5}])
    assert len(thin) == 33 and thin[0] == pytest.approx({"samples": 20, "minutes": 1, "loss": (1 + 1 / 2 + 1 / 3) / 3})
    assert train.thinned(rows[:5]) == rows[:5]


def test_a_card_shows_the_curves_of_a_training(trained, tmp_path):
    training = json.loads((trained / "pipeline" / "training.json").read_text())
    figure = card.curves(training)
    drawn = [line.get_xdata().tolist() for axes in figure.axes for line in axes.lines]
    seen = {name: [row["samples"] / 1e3 for row in rows] for name, rows in training["curves"].items()}
    after = [training["stages"]["vae"]["samples"] / 1e3 + n for n in seen["decoder"]]
    assert drawn == [pytest.approx(seen["vae"]), pytest.approx(after), pytest.approx(seen["unet"])]
    figure.savefig(tmp_path / card.CURVES)


def test_the_card_names_the_scale_of_each_editor():
    edits = {
        "scenes": {"colour change": 1},
        "steps": 50,
        "noise_map_scales": {"PromptToPrompt": 10.0, "MasaCtrl": 30.0},
        "tasks": {"colour change": {"NMG": {"success": 1.0, "psnr": 20.0}}},
    }
    text = card._edits(edits, {"noise_map_scale": 30.0, "gradient_scale": 5000.0, "text_scale": 3.0})
    assert "noise_map_scale 10 for PromptToPrompt and 30 for MasaCtrl; gradient_scale 5000, text_scale 3" in text
    assert "| colour change | 1 | 1.00 / 20.0 |" in text
    edits["noise_map_scales"] = {"PromptToPrompt": 30.0, "MasaCtrl": 30.0}
    assert "(noise_map_scale 30; gradient_scale" in card._edits(edits, {"gradient_scale": 5000.0, "text_scale": 3.0})


# ---------------------------------------------------------------- what was never trained


def test_a_network_that_no_gradient_reached_is_refused():
    torch.manual_seed(0)
    network = torch.nn.Sequential(torch.nn.Linear(4, 4), torch.nn.LayerNorm(4))
    start = network.state_dict()
    with pytest.raises(RuntimeError, match=r"2 tensors were never trained, 1\.weight, 1\.bias among them"):
        train.check_trained({name: 0.9453 * tensor for name, tensor in start.items()})
    train.check_trained({name: tensor + 0.01 * torch.rand(tensor.shape) for name, tensor in start.items()})


def test_the_card_says_how_much_of_the_first_model_was_never_trained():
    found = constant(load_file(FOLDER / "unet" / "diffusion_pytorch_model.safetensors"))
    assert found and all(
        any(block in name for block in ("down_blocks.1", "mid_block", "up_blocks.0")) for name in found
    )
    assert f"{len(found)} of its vectors still have one value" in (FOLDER / "README.md").read_text()
