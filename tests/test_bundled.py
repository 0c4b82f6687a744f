"""The model that the repository carries: it loads, it is the one that was trained, and NMG works on it."""

import json

import pytest
import torch
from safetensors import safe_open

import nmg
from nmg.lab import metrics
from nmg.lab.profile import MENAGERIE
from nmg.menagerie import Scene, caption
from nmg.menagerie.model import FOLDER, load_classifier
from nmg.menagerie.tasks import TASKS, TEST_SEEDS
from scripts import evaluate


@pytest.fixture(scope="module")
def bundled():
    return nmg.Backbone(nmg.load("menagerie"))


def test_every_file_is_small_and_in_the_older_layout():
    sizes = [path.stat().st_size for path in FOLDER.rglob("*") if path.is_file()]
    assert max(sizes) < 16 * 2**20 and sum(sizes) < 40 * 2**20
    with safe_open(FOLDER / "text_encoder" / "model.safetensors", "pt") as file:
        assert all(key.startswith("text_model.") for key in file.keys())  # noqa: SIM118
    assert {path.name for path in (FOLDER / "tokenizer").iterdir()} >= {"vocab.json", "merges.txt"}


def test_golden_values(bundled):
    """Pins tokenizer, text encoder, UNet and VAE on every supported stack."""
    golden = json.loads((FOLDER / "golden.json").read_text())
    seen = evaluate.golden(bundled)
    assert (seen.pop("prompt"), seen.pop("input_ids")) == (golden.pop("prompt"), golden.pop("input_ids"))
    for name, values in golden.items():
        torch.testing.assert_close(torch.tensor(seen[name]), torch.tensor(values), rtol=2e-3, atol=2e-3, msg=name)


def test_the_classifier_reads_held_out_scenes():
    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(96)]
    accuracy = evaluate.accuracy(load_classifier(), evaluate.pixels(scenes), scenes)
    assert min(accuracy.values()) >= 0.95, accuracy


def test_the_autoencoder_keeps_what_the_classifier_reads(bundled):
    report = evaluate.autoencoder(bundled, load_classifier(), 64)
    assert report["psnr"] >= 26
    assert min(report["accuracy_on_reconstructions"].values()) >= 0.9, report


@pytest.mark.slow
def test_nmg_beats_guidance_at_reconstruction_by_8_db(bundled):
    """6 held-out scenes, 50 steps, text scale 7.5, against the autoencoder's picture; the model's report has 32."""
    guidances = {"ddim": nmg.CFG(7.5), "nmg": MENAGERIE.guidance(text_scale=7.5)}
    report = evaluate.reconstruction(bundled, 6, guidances)
    assert report["psnr"]["nmg"] >= report["psnr"]["ddim"] + 8, report


def test_ddim_at_scale_1_returns_to_the_picture(bundled):
    scene = Scene.sample(TEST_SEEDS)
    trajectory = nmg.invert(bundled, scene.render(), caption(scene), progress=False)
    rebuilt = nmg.edit(bundled, trajectory, guidance=nmg.CFG(1.0), progress=False).latents
    ceiling = bundled.decode(trajectory.maps[:1])
    assert metrics.psnr(bundled.decode(rebuilt), ceiling).item() > 30


def test_every_task_changes_its_prompt_and_its_picture():
    for task in TASKS.values():
        for scene, target in task.scenes(TEST_SEEDS, 3):
            source_prompt, target_prompt = task.prompts(scene, target)
            assert source_prompt == caption(scene) and target_prompt == caption(target) != source_prompt
            assert getattr(scene, task.factor) != getattr(target, task.factor)
            assert scene.changed(target).any()
            assert MENAGERIE.unknown_words([source_prompt, target_prompt]) is None


@pytest.mark.slow
def test_the_demo_draws_its_sheets(tmp_path):
    from nmg.lab.demo import demo

    paths = list(demo(tmp_path, steps=2))
    assert [path.name for path in paths] == ["benefit.png", "edits.png", "poses-and-kinds.png"]
    assert all(path.stat().st_size > 100_000 for path in paths)
