import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from nmg.cli import main
from nmg.menagerie import Scene, caption


@pytest.fixture
def here(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    return tmp_path


@pytest.fixture
def picture(here):
    Scene.sample(10_000).render(128).save("scene.png")
    return "scene.png"


def pixels(path):
    return np.asarray(Image.open(path).convert("RGB")).astype(int)


def test_edit_writes_a_picture_that_replays_to_the_pixel(here, capsys):
    assert main(["edit", "scene:10000,kind=cat,colour=red", "--change", "colour=blue", "--steps", "3", "--all"]) == 0
    written = ["edit.png", "edit-reconstruction.png", "edit-source.png"]
    assert capsys.readouterr().out.split() == written
    assert all(pixels(path).shape == (64, 64, 3) for path in written)
    assert main(["replay", "edit.png"]) == 0
    np.testing.assert_array_equal(pixels("edit.png"), pixels("edit-replay.png"))
    assert abs(pixels("edit.png") - pixels("edit-reconstruction.png")).max() > 0


def test_a_file_edits_with_every_option(here, picture):
    prompts = ["--source", "a cat in the snow", "--target", "a dog in the snow", "--target", "a red fox in the snow"]
    options = [
        "--steps",
        "3",
        "--weight",
        "snow=2",
        "--blend",
        "cat",
        "dog",
        "fox",
        "--subtract",
        "snow",
        "snow",
        "snow",
    ]
    scales = [
        "--noise-map-scale",
        "3",
        "--text-scale",
        "2",
        "--energy",
        "l2",
        "--self-replace",
        "0.3",
        "--size",
        "64x48",
    ]
    assert main(["edit", picture, *prompts, *options, *scales, "--out", "out/edit.png"]) == 0
    assert pixels("out/edit-1.png").shape == pixels("out/edit-2.png").shape == (48, 64, 3)
    assert main(["replay", "out/edit-2.png", "--out", "again.png"]) == 0
    np.testing.assert_array_equal(pixels("out/edit-2.png"), pixels("again.png"))


def test_a_saved_trajectory_edits_as_its_picture_does(here, picture):
    source, target = ["--source", "a cat"], ["--target", "a dog"]
    assert main(["invert", picture, *source, "--steps", "3", "--out", "cat.safetensors"]) == 0
    assert main(["edit", "--trajectory", "cat.safetensors", *target, "--out", "from-trajectory.png"]) == 0
    assert main(["edit", picture, *source, *target, "--steps", "3", "--out", "from-picture.png"]) == 0
    np.testing.assert_array_equal(pixels("from-trajectory.png"), pixels("from-picture.png"))


def test_replay_notices_another_picture(here, picture, capsys):
    assert main(["edit", picture, "--source", "a cat", "--target", "a dog", "--steps", "2"]) == 0
    Scene.sample(10_001).render(128).save("scene.png")
    assert main(["replay", "edit.png"]) == 2
    assert "is not the picture that was edited" in capsys.readouterr().err


def test_replay_shows_the_settings(here, capsys):
    assert (
        main(["edit", "scene:10000", "--target", "a dog", "--steps", "2", "--guidance", "none", "--editor", "none"])
        == 0
    )
    capsys.readouterr()
    assert main(["replay", "edit.png", "--show"]) == 0
    shown = json.loads(capsys.readouterr().out)
    assert shown["source"] == caption(Scene.sample(10_000))
    assert shown["guidance"]["method"] == "CFG" and shown["editor"]["method"] == "Editor"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["edit", "missing.png", "--source", "a", "--target", "b"], "there is no picture at 'missing.png'"),
        (["edit", "scene.png", "--target", "b"], "--source is missing"),
        (["edit", "--source", "a", "--target", "b"], "IMAGE is missing"),
        (["edit", "scene.png", "--source", "a cat", "--target", ""], "a target prompt is empty"),
        (["edit", "scene.png", "--source", "a cat", "--target", "a dog", "--steps", "0"], "steps=0"),
        (
            ["edit", "scene.png", "--source", "a cat", "--target", "a dog", "--text-scale", "nan"],
            "must be a finite number",
        ),
        (["edit", "scene.png", "--source", "a cat", "--target", "a dog", "--weight", "fox=2"], "its words are a, dog"),
        (["edit", "scene.png", "--source", "a cat", "--target", "a dog", "--size", "65x64"], "doesn't fit the latent"),
        (
            ["edit", "scene.png", "--source", "a cat", "--target", "a dog", "--subtract", "a", "a"],
            "--subtract needs --blend",
        ),
        (["edit", "scene.png", "--source", "a cat", "--change", "kind=dog"], "--change is for scenes"),
        (["edit", "scene:7", "--change", "colour=mauve"], "colour is one of red"),
        (["edit", "scene:7,hat=red", "--target", "b"], "no factor 'hat'"),
        (["edit", "scene:seven", "--target", "b"], "names no scene"),
        (
            ["edit", "scene.png", "--source", "a", "--target", "b", "--model", "no/where"],
            "'menagerie', which is bundled",
        ),
        (["edit", "scene.png", "--trajectory", "t.safetensors", "--target", "b"], "leave IMAGE out"),
        (["edit", "scene.png", "--source", "a", "--target", "b", "--out", "edit.jpg"], "give the path of a .png file"),
        (["edit", "scene.png", "--source", "a", "--target", "b", "--out", "."], "can't be written"),
        (["edit", "--trajectory", "none.safetensors", "--target", "b"], "there is no trajectory"),
        (["replay", "scene.png"], "holds no settings"),
    ],
)
def test_bad_input_ends_with_one_clear_line(here, picture, capsys, arguments, message):
    assert main(arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nmg: error:")]
    assert len(error) == 1 and message in error[0]
    assert [path.name for path in here.iterdir()] == ["scene.png"]


def test_unknown_words_are_noted(here, capsys):
    assert main(["edit", "scene:10000", "--target", "an elephant in the snow", "--steps", "1"]) == 0
    assert "does not know 'elephant'" in capsys.readouterr().err


def test_models_lists_what_can_be_named(capsys):
    assert main(["models"]) == 0
    assert "menagerie" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["edit", "invert", "replay", "models", "demo"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert len(capsys.readouterr().out) > 100


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size"), [("sd-shaped", 512), ("menagerie", 64)])
def test_a_real_photograph_goes_through(here, model, size):
    """The code path of Stable Diffusion 1.4 at 512×512 on random weights of its structure, and the bundled model."""
    tests = Path(__file__).parent
    folder = str(tests / "reference" / model) if model == "sd-shaped" else model
    photograph = str(tests.parent / "images" / "chelsea.png")
    prompts = ["--source", "a photo of a cat", "--target", "a photo of a tiger", "--blend", "cat", "tiger"]
    assert main(["edit", photograph, "--model", folder, *prompts, "--steps", "2", "--all"]) == 0
    edited, source = pixels("edit.png"), pixels("edit-source.png")
    assert edited.shape == source.shape == (size, size, 3)
    assert edited.std() > 0 and abs(edited - pixels("edit-reconstruction.png")).max() > 0
