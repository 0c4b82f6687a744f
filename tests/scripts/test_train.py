"""The recipe from rendering to an exported folder, on few scenes and small networks."""

import json

import numpy as np
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch.testing import assert_close

from nmg import NoiseMap, edit
from nmg.menagerie import Scene, networks, prompt_pair
from nmg.menagerie.model import FOLDER, constant_tensors
from nmg.menagerie.scene import SIZE
from nmg.menagerie.tasks import TRAIN_SEEDS
from scripts import train
from tests import families

STAGES = "--stages classifier vae decoder unet export" if families.missing_of_sd35() else ""
"""All but the flow twin where diffusers can't build it."""
SMALL = "--scenes 16 --workers 1 --watched 2 --warmup 0 --vae-channels 8 8 16 16 --unet-channels 16 16 --flow-width 32"
BATCHES = (
    "--vae-batch 4 --decoder-batch 4 --classifier-batch 8 --unet-batch 8 --flow-batch 4 --flow-width 32 --flow-layers 2"
)
BUDGETS = "--classifier-samples 16 --vae-samples 16 --decoder-samples 8 --flow-samples 8"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A model trained for a few batches, and its UNet then for some more."""
    work = tmp_path_factory.mktemp("training")
    for samples in (32, 64):
        given = f"--work {work} --out {work / 'pipeline'} {SMALL} {BATCHES} {BUDGETS} {STAGES} --unet-samples {samples}"
        with torch.enable_grad():
            train.train(train.parser().parse_args(given.split()))
    return work


def test_a_larger_budget_continues_and_a_spent_one_rests(trained):
    samples = {name: [row["samples"] for row in train.read_log(trained / f"{name}.jsonl")] for name in ("unet", "vae")}
    assert samples == {"unet": [32, 64], "vae": [16]}


def test_the_bank_holds_the_training_scenes_and_their_masks(trained):
    pictures, masks = (np.load(trained / f"{name}_16.npy") for name in ("pictures", "masks"))
    assert pictures.shape == (16, SIZE, SIZE, 3) and masks.shape == (16, 2, 16, 16)
    scene = Scene.sample(TRAIN_SEEDS + 15)
    assert np.array_equal(pictures[15], np.asarray(scene.render()))
    assert masks[15, 0].mean() / 255 == pytest.approx(scene.mask("figure").mean(), abs=0.01)


def test_the_exported_folder_is_an_ordinary_stable_diffusion_in_half_precision(trained):
    folder = trained / "pipeline"
    weights = {"unet": "diffusion_pytorch_model", "vae": "diffusion_pytorch_model", "text_encoder": "model"}
    for part, name in weights.items():
        with safe_open(folder / part / f"{name}.safetensors", "pt") as file:
            assert {file.get_slice(key).get_dtype() for key in file.keys()} == {"F16"}, part  # noqa: SIM118
    keys = load_file(folder / "text_encoder" / "model.safetensors").keys()
    assert all(key.startswith("text_model.") and not key.endswith("position_ids") for key in keys)
    files = {path.name for path in (folder / "tokenizer").iterdir()}
    assert {"vocab.json", "merges.txt", "tokenizer_config.json"} <= files and "tokenizer.json" not in files
    assert json.loads((folder / "vae" / "config.json").read_text())["scaling_factor"] != 0.18215
    networks.FactorClassifier.load(folder / "classifier.safetensors")


def test_the_exported_folder_loads_with_the_averaged_weights_and_edits(trained):
    from diffusers import StableDiffusionPipeline

    options = {"safety_checker": None, "local_files_only": True, "torch_dtype": torch.float32}
    pipe = StableDiffusionPipeline.from_pretrained(trained / "pipeline", **options)
    average = torch.load(trained / "unet.pt", weights_only=True)["average"]
    for network, name in ((pipe.unet, "conv_in.weight"), (pipe.text_encoder, "token_embedding.weight")):
        loaded, saved = (
            [tensor for key, tensor in state.items() if key.endswith(name)] for state in (network.state_dict(), average)
        )
        assert_close(loaded, saved, rtol=1e-3, atol=1e-4)
    source, target = prompt_pair(Scene(colour="red"), colour="blue")
    picture = Scene(colour="red").render()
    result = edit(pipe, picture, source, [target], guidance=NoiseMap(gradient_scale=500), steps=2, progress=False)
    assert result.pictures[0].size == (SIZE, SIZE) and result.latents.isfinite().all()


def test_every_tensor_of_the_shipped_networks_left_its_start():
    assert constant_tensors(FOLDER) == []


def test_a_network_with_a_part_that_no_gradient_reached_is_noticed(trained, tmp_path):
    """As the first bundled model's 8×8 level was: its random start, shrunk by weight decay."""
    path = trained / "pipeline" / "unet" / "diffusion_pytorch_model.safetensors"
    tensors = load_file(path)
    assert constant_tensors(trained / "pipeline") == []
    name = "mid_block.resnets.0.norm1.weight"
    (tmp_path / "unet").mkdir()
    save_file({**tensors, name: torch.full_like(tensors[name], 0.9453)}, tmp_path / "unet" / path.name)
    assert constant_tensors(tmp_path) == [f"unet: {name}"]


def test_curves_are_means_of_neighbours_without_rows_of_counts_alone():
    rows = [{"samples": 10 * n, "minutes": n / 2, "loss": 1 / n} for n in range(1, 100)]
    thin = train.thinned([*rows, {"samples": 991, "minutes": 49.5}])
    assert len(thin) == 33 and thin[0] == pytest.approx({"samples": 20, "minutes": 1, "loss": (1 + 1 / 2 + 1 / 3) / 3})
    assert train.thinned(rows[:5]) == rows[:5]


def test_the_flow_twin_is_an_ordinary_stable_diffusion_3(trained):
    from diffusers import StableDiffusion3Pipeline

    families.needs_sd35()
    absent = dict.fromkeys(("text_encoder_3", "tokenizer_3", "image_encoder", "feature_extractor"))
    pipe = StableDiffusion3Pipeline.from_pretrained(
        trained / "pipeline-flow", torch_dtype=torch.float32, local_files_only=True, **absent
    )
    average = torch.load(trained / "flow.pt", weights_only=True)["average"]
    name = "pos_embed.proj.weight"
    assert_close(pipe.transformer.state_dict()[name], average[f"transformer.{name}"], rtol=1e-3, atol=1e-4)
    with torch.no_grad():
        latents = pipe("a cat", num_inference_steps=2, height=SIZE, width=SIZE, output_type="latent").images
    assert latents.shape == (1, networks.LATENT_CHANNELS, 16, 16) and latents.isfinite().all()


def test_a_training_starts_from_an_exported_folder(trained, tmp_path):
    given = f"--work {tmp_path} --start {trained / 'pipeline'} {SMALL} --unet-batch 4 --unet-samples 16 --stages unet"
    (tmp_path / "vae.jsonl").write_text((trained / "vae.jsonl").read_text())
    with torch.enable_grad():
        train.train(train.parser().parse_args(given.split()))
    start = torch.load(tmp_path / "unet.pt", weights_only=True)["start"]
    average = torch.load(trained / "unet.pt", weights_only=True)["average"]
    for name in ("unet.mid_block.resnets.0.conv1.weight", "text_encoder.final_layer_norm.weight"):
        (own,) = (tensor for key, tensor in average.items() if key.endswith(name.split("text_encoder.")[-1]))
        assert_close(
            start[name if name in start else f"text_encoder.text_model.{name[13:]}"], own, rtol=1e-3, atol=1e-4
        )
