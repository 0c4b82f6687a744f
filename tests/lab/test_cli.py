import json
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import nmg
from nmg import pipelines
from nmg.lab import arguments, devices
from nmg.lab.arguments import parser
from nmg.lab.cli import main, printable
from nmg.lab.commands import COMMANDS
from nmg.lab.inputs import request_of
from nmg.lab.profile import MENAGERIE
from nmg.lab.top import HELP, SHELLS
from nmg.menagerie import Scene, caption
from nmg.menagerie.scene import SIZE
from nmg.request import Request
from tests import families


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
    assert all(pixels(path).shape == (SIZE, SIZE, 3) for path in written)
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
    # The source row is kept in the file, and replayed from there.
    for out in ("walked.png", "followed.png"):
        assert main(["edit", "--trajectory", "cat.safetensors", "--keep-path", *target, "--out", out]) == 0
        assert nmg.Trajectory.load("cat.safetensors").cache is not None
        assert np.abs(pixels(out).astype(int) - pixels("from-picture.png")).max() <= 1


CAT = "scene:10000,kind=cat,colour=red"
MASACTRL = ["--editor", "masactrl", "--start-step", "0"]
PIX2PIX_ZERO = ["--editor", "pix2pix-zero"]


@pytest.mark.parametrize(
    ("options", "expected"),
    [
        ([*MASACTRL, "--start-layer", "2"], nmg.MasaCtrl(0, 2)),
        (
            [*MASACTRL, "--words", "red cat", "cat", "--threshold", "0.4"],
            nmg.MasaCtrl(0, words=("red cat", "cat"), threshold=0.4),
        ),
        ([*PIX2PIX_ZERO, "--amount", "0.05"], nmg.Pix2PixZero(amount=0.05)),
        ([*PIX2PIX_ZERO, "--direction", "cat", "dog"], nmg.Pix2PixZero(("cat", "dog"))),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_every_editor_writes_a_picture_that_replays_to_the_pixel(here, options, expected):
    assert main(["edit", CAT, "--change", "pose=jumping", "--steps", "2", "--all", *options]) == 0
    recipe = Request.read("edit.png")
    assert recipe.editor == expected
    assert recipe.negative == (recipe.source if isinstance(expected, nmg.Pix2PixZero) else "")
    assert abs(pixels("edit.png") - pixels("edit-reconstruction.png")).max() > 0
    assert main(["replay", "edit.png"]) == 0
    np.testing.assert_array_equal(pixels("edit.png"), pixels("edit-replay.png"))


def test_masks_come_from_files_that_a_replay_finds_from_anywhere(here, monkeypatch):
    mask = np.zeros((SIZE, SIZE), bool)
    mask[:, : SIZE // 2] = True
    Image.fromarray(mask).save("source.png")
    Image.fromarray(mask.T).save("target.png")
    masks = ["--source-mask", "source.png", "--target-mask", "target.png"]
    assert main(["edit", CAT, "--change", "pose=jumping", "--steps", "2", *MASACTRL, *masks]) == 0
    assert main(["edit", CAT, "--change", "pose=jumping", "--steps", "2", *MASACTRL, "--out", "plain.png"]) == 0
    assert abs(pixels("edit.png") - pixels("plain.png")).max() > 0
    (here / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    assert main(["replay", "../edit.png"]) == 0
    np.testing.assert_array_equal(pixels("../edit.png"), pixels("../edit-replay.png"))


def test_a_direction_needs_no_target_prompt(here):
    assert main(["edit", CAT, *PIX2PIX_ZERO, "--direction", "cat", "dog", "--steps", "2"]) == 0
    source = caption(Scene.sample(10_000, kind="cat", colour="red"))
    assert Request.read("edit.png").targets == (source.replace("cat", "dog"),)
    # The name of the target plays no part in its picture.
    again = ["--direction", "cat", "dog", "--target", "zebra", "--steps", "2", "--out", "named.png"]
    assert main(["edit", CAT, *PIX2PIX_ZERO, *again]) == 0
    np.testing.assert_array_equal(pixels("edit.png"), pixels("named.png"))


def test_directions_come_from_files_with_long_names_that_a_replay_finds_from_anywhere(here, monkeypatch):
    cats, dogs = ("a cat", "a red cat in the snow"), ("a dog", "a red dog in the snow")
    names = [here / f"all the {kind} that there are in this world.txt" for kind in ("cats", "dogs")]
    for name, sentences in zip(names, (cats, dogs), strict=True):
        name.write_text("\n".join(sentences))
    nmg.EditDirection.between(nmg.load("menagerie"), cats, dogs).save("from every cat to every dog.safetensors")
    saved = ["--direction", "from every cat to every dog.safetensors", "--out", "saved.png"]
    sentences = ["--direction", names[0].name, names[1].name, "--out", "sentences.png"]
    for direction in (saved, sentences):
        assert main(["edit", CAT, *PIX2PIX_ZERO, *direction, "--steps", "2"]) == 0
    np.testing.assert_array_equal(pixels("saved.png"), pixels("sentences.png"))
    (here / "elsewhere").mkdir()
    monkeypatch.chdir("elsewhere")
    for name in ("saved", "sentences"):
        assert main(["replay", f"../{name}.png"]) == 0
        np.testing.assert_array_equal(pixels(f"../{name}.png"), pixels(f"../{name}-replay.png"))


def test_a_direction_edits_a_saved_trajectory(here):
    assert main(["invert", CAT, "--steps", "2"]) == 0
    direction = [*PIX2PIX_ZERO, "--direction", "cat", "dog"]
    assert main(["edit", "--trajectory", "trajectory.safetensors", *direction, "--out", "from-trajectory.png"]) == 0
    assert main(["edit", CAT, *direction, "--steps", "2"]) == 0
    np.testing.assert_array_equal(pixels("from-trajectory.png"), pixels("edit.png"))


def test_a_negative_prompt_is_followed_by_every_editor(here):
    given = ["edit", CAT, "--change", "colour=blue", "--steps", "2", *PIX2PIX_ZERO]
    assert main([*given, "--negative", "a photo of a car"]) == 0
    assert Request.read("edit.png").negative == "a photo of a car"
    assert main([*given, "--out", "habit.png"]) == 0
    assert abs(pixels("edit.png") - pixels("habit.png")).max() > 0
    assert main(["replay", "edit.png"]) == 0
    np.testing.assert_array_equal(pixels("edit.png"), pixels("edit-replay.png"))


def test_a_regularised_inversion_edits_replays_and_is_saved(here, capsys):
    given, regularised = ["--change", "colour=blue", "--steps", "2"], ["--inversion", "regularised"]
    assert main(["edit", CAT, *given, *regularised]) == 0
    assert main(["edit", CAT, *given, "--out", "plain.png"]) == 0
    assert abs(pixels("edit.png") - pixels("plain.png")).max() > 0
    assert Request.read("edit.png").inversion == nmg.Regularised() and Request.read("plain.png").inversion == nmg.DDIM()
    assert main(["replay", "edit.png"]) == 0
    np.testing.assert_array_equal(pixels("edit.png"), pixels("edit-replay.png"))

    assert main(["invert", CAT, "--steps", "2", *regularised]) == 0
    assert nmg.Trajectory.load("trajectory.safetensors").inversion == nmg.Regularised()
    target = ["--trajectory", "trajectory.safetensors", "--target", *Request.read("edit.png").targets]
    for options in ([], regularised):
        assert main(["edit", *target, *options, "--out", "from-trajectory.png"]) == 0
        np.testing.assert_array_equal(pixels("from-trajectory.png"), pixels("edit.png"))
    assert main(["edit", *target, "--inversion", "ddim"]) == 2
    assert "inversion=DDIM() is not the trajectory's Regularised" in capsys.readouterr().err


def test_a_caption_takes_the_place_of_the_source_prompt(here, picture, capsys):
    assert main(["edit", picture, "--caption", "--target", "a dog", "--steps", "1"]) == 0
    read = Request.read("edit.png").source
    assert f"the picture is captioned {read!r}" in capsys.readouterr().err and "facing" in read


def test_replay_notices_another_picture(here, picture, capsys):
    assert main(["edit", picture, "--source", "a cat", "--target", "a dog", "--steps", "2"]) == 0
    Scene.sample(10_001).render(128).save("scene.png")
    assert main(["replay", "edit.png"]) == 2
    assert "is not the picture that was edited" in capsys.readouterr().err


@pytest.mark.parametrize("out", ["again.jpg", "."])
def test_replay_refuses_what_it_can_not_write_before_it_begins(here, picture, capsys, monkeypatch, out):
    assert main(["edit", picture, "--source", "a cat", "--target", "a dog", "--steps", "2"]) == 0
    monkeypatch.setattr(pipelines, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    assert main(["replay", "edit.png", "--out", out]) == 2
    assert "can't be written; give the path of a .png file" in capsys.readouterr().err


def test_replay_makes_the_folder_that_it_writes_to(here, picture):
    assert main(["edit", picture, "--source", "a cat", "--target", "a dog", "--steps", "2"]) == 0
    assert main(["replay", "edit.png", "--out", "new/folder/again"]) == 0
    np.testing.assert_array_equal(pixels("edit.png"), pixels("new/folder/again.png"))


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
        (["edit", "scene:7", "--keep-path", "--target", "b"], "--keep-path needs --trajectory"),
        (["replay", "scene.png"], "holds no settings"),
        (
            ["edit", "scene:7", "--target", "b", "--amount", "0.1"],
            "--amount belongs to --editor pix2pix-zero, not to prompt-to-prompt",
        ),
        (
            ["edit", "scene:7", "--target", "b", "--editor", "masactrl", "--self-replace", "0.4"],
            "--self-replace belongs to --editor prompt-to-prompt, not to masactrl",
        ),
        (
            ["edit", "scene:7", "--target", "b", "--editor", "pix2pix-zero", "--start-step", "0"],
            "--start-step belongs to --editor masactrl, not to pix2pix-zero",
        ),
        (
            ["edit", "scene:7", "--target", "b", "--editor", "none", "--threshold", "0.4"],
            "--threshold belongs to --editor prompt-to-prompt or masactrl, not to none",
        ),
        (
            ["edit", "scene:7", "--target", "b", "--guidance", "none", "--energy", "l2"],
            "--energy belongs to --guidance noise-map or null-text+noise-map or direct+noise-map, not to none",
        ),
        (["edit", "scene:7", "--target", "b", "--threshold", "0.4"], "--threshold needs --blend"),
        (
            ["edit", "scene:7", "--target", "b", "--editor", "masactrl", "--source-mask", "scene.png"],
            "both masks or none, and target_mask is missing",
        ),
        (
            ["edit", "scene:7,kind=cat", "--target", "a dog", "--editor", "masactrl", "--words", "cat", "fox"],
            "'fox' does not occur in the prompt 'a dog'",
        ),
        (
            ["edit", "scene:7", "--target", "b", "--editor", "masactrl", "--start-layer", "70"],
            "start_layer=70 leaves no layer",
        ),
        (
            ["edit", "scene:7", "--target", "b", "--editor", "pix2pix-zero", "--amount", "nan"],
            "amount=nan must be a finite number",
        ),
        (
            ["edit", "scene:7", "--editor", "pix2pix-zero", "--direction", "a", "red", "cat"],
            "--direction takes two sides or one file, got 3: put phrases in quotes",
        ),
        (["edit", "scene:7", "--editor", "pix2pix-zero", "--direction", "none"], "there is no direction at"),
        (["edit", "scene:7", "--editor", "pix2pix-zero", "--direction", "none.txt", "dog"], "none.txt"),
        (["edit", "scene:7", "--editor", "pix2pix-zero", "--direction", "cat", "cat"], "leads nowhere"),
        (
            ["edit", "scene.png", "--source", "a cat", "--caption", "--target", "b"],
            "--caption writes the source prompt, which is given already",
        ),
        (
            ["edit", "--trajectory", "none.safetensors", "--caption", "--target", "b"],
            "--caption writes the source prompt, which is given already",
        ),
        (["invert", "scene.png", "--source", "a cat", "--caption"], "leave one of the two out"),
    ],
)
def test_bad_input_ends_with_one_clear_line(here, picture, capsys, arguments, message):
    assert main(arguments) == 2
    error = [line for line in capsys.readouterr().err.splitlines() if line.startswith("nmg: error:")]
    assert len(error) == 1 and message in error[0]
    assert [path.name for path in here.iterdir()] == ["scene.png"]


def test_saved_null_texts_are_used_again_and_an_edit_with_them_replays(here):
    files = ["--out", "t.safetensors", "--save-null-texts", "null.safetensors"]
    assert main(["invert", "scene:10000", "--steps", "2", *files]) == 0
    found = nmg.NullTexts.load("null.safetensors")
    assert len(found.embeddings) == 2 and found.text_scale == MENAGERIE.scales["text_scale"]
    edit = ["edit", "scene:10000", "--change", "colour=blue", "--steps", "2", "--guidance", "null-text"]
    assert main([*edit, "--null-texts", "null.safetensors", "--out", "known.png"]) == 0
    assert main([*edit, "--out", "searched.png"]) == 0
    assert main(["replay", "known.png"]) == 0
    known, searched, again = (
        np.asarray(Image.open(name), np.int16) for name in ("known.png", "searched.png", "known-replay.png")
    )
    assert np.array_equal(known, again) and np.abs(known - searched).max() <= 1


@pytest.mark.parametrize("guidance", ["negative-prompt", "proximal", "direct", "direct+noise-map"])
def test_every_guidance_edits_and_replays(here, guidance):
    edit = ["edit", "scene:10000", "--change", "colour=blue", "--steps", "2", "--guidance", guidance]
    assert main([*edit, "--editor", "pix2pix-zero", "--out", "edit.png"]) == 0
    assert main(["replay", "edit.png"]) == 0
    assert np.array_equal(*(np.asarray(Image.open(name)) for name in ("edit.png", "edit-replay.png")))


def test_unknown_words_are_noted(here, capsys):
    assert main(["edit", "scene:10000", "--target", "an elephant in the snow", "--steps", "1"]) == 0
    assert "does not know 'elephant'" in capsys.readouterr().err


def test_models_lists_what_can_be_named(capsys):
    assert main(["models"]) == 0
    assert "menagerie" in capsys.readouterr().out


@pytest.mark.parametrize("command", ["edit", "invert", "replay", "app", "models", "demo"])
def test_every_command_explains_itself(command, capsys):
    with pytest.raises(SystemExit, match="0"):
        main([command, "--help"])
    assert len(capsys.readouterr().out) > 100


@pytest.mark.slow
@pytest.mark.parametrize(("model", "size"), [("sd-shaped", 512), ("menagerie", SIZE)])
def test_a_real_photograph_goes_through(here, model, size):
    """The code path of Stable Diffusion 1.4 at 512×512 on random weights of its structure, and the bundled model."""
    tests = Path(__file__).parents[1]
    folder = str(tests / "reference" / model) if model == "sd-shaped" else model
    photograph = str(tests.parent / "images" / "chelsea.png")
    prompts = ["--source", "a photo of a cat", "--target", "a photo of a tiger", "--blend", "cat", "tiger"]
    assert main(["edit", photograph, "--model", folder, *prompts, "--steps", "2", "--all"]) == 0
    edited, source = pixels("edit.png"), pixels("edit-source.png")
    assert edited.shape == source.shape == (size, size, 3)
    assert edited.std() > 0 and abs(edited - pixels("edit-reconstruction.png")).max() > 0


# ---------------------------------------------------------------- what is lost, and what is said at once


def test_nothing_that_exists_is_written_over_unless_asked(here, picture, capsys):
    before = Path(picture).read_bytes()
    edit = ["edit", picture, "--source", "a cat", "--target", "a dog", "--steps", "1"]
    assert main([*edit, "--out", picture]) == 0
    assert main([*edit, "--all"]) == 0 and main([*edit, "--all"]) == 0
    names = ["scene-2.png", "edit.png", "edit-reconstruction.png", "edit-source.png"]
    assert capsys.readouterr().out.split() == [*names, "edit-2.png", "edit-2-reconstruction.png", "edit-2-source.png"]
    assert main([*edit, "--force"]) == 0
    assert capsys.readouterr().out.split() == ["edit.png"]
    for out in (["--out", picture], ["--out", "link.png"]):
        assert main([*edit, "--force", *out]) == (2 if picture in out else 0)
    assert Path(picture).read_bytes() == before


def test_an_input_is_not_written_over_by_force_either(here, picture, capsys, monkeypatch):
    monkeypatch.setattr(pipelines, "load", lambda *_, **__: pytest.fail("the model was loaded"))
    Path(picture).rename("edit-source.png")
    edit = ["edit", "edit-source.png", "--source", "a cat", "--target", "a dog"]
    assert main([*edit, "--all", "--force"]) == 2
    assert "'edit-source.png' is read, and would be written over" in capsys.readouterr().err
    masks = ["--editor", "masactrl", "--source-mask", "m.png", "--target-mask", "edit-source.png"]
    assert main([*edit, *masks, "--out", "m.png", "--force"]) == 2
    assert main(["invert", "edit-source.png", "--source", "", "--out", "a", "--save-null-texts", "a"]) == 2
    assert "two files would be written" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["edit", "none.png"], "no picture at 'none.png'"),
        (["edit", "scene.png", "--steps", "3"], "--source is missing"),
    ],
    ids=lambda value: "",
)
def test_what_is_missing_is_said_before_anything_heavy_is_imported(here, picture, arguments, said):
    script = f"import sys\nfrom nmg.lab.cli import main\nmain({arguments!r})\nassert 'torch' not in sys.modules"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert said in done.stderr


def test_the_help_needs_nothing_heavy():
    script = (
        "import sys\nfrom nmg.lab.cli import main\ntry: main(['--help'])\nfinally: assert 'torch' not in sys.modules"
    )
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    assert all(name in done.stdout for name in COMMANDS)


def test_no_message_steers_the_terminal(here, capsys):
    assert main(["edit", "a\x1b]0;owned\x07\nb.png"]) == 2
    assert capsys.readouterr().err.count("\n") == 1
    assert printable("a\x1b[2J\ud800\n") == r"a\x1b[2J\ud800"


# ---------------------------------------------------------------- help and completion


def test_the_help_of_an_edit_begins_with_what_most_edits_need(capsys):
    with pytest.raises(SystemExit):
        main(["edit", "--help"])
    _, most, _ = re.split(r"^(?:what most edits need|options):$", capsys.readouterr().out, flags=re.MULTILINE)[:3]
    assert tuple(re.findall(r"^  (--[\w-]+)", most, re.MULTILINE)) == arguments.FIRST


@pytest.mark.parametrize("shell", SHELLS)
def test_shells_complete_commands_options_choices_and_files(shell, capsys):
    pytest.importorskip("shtab")
    assert main(["--print-completion", shell]) == 0
    script = capsys.readouterr().out
    assert all(word in script for word in (*HELP, "noise-map-scale", "masactrl", "negative-prompt"))
    if shell == "bash":
        assert subprocess.run(["bash", "-n"], input=script, text=True).returncode == 0
        assert "edit_pos_0_COMPGEN=_shtab_compgen_files" in script


def test_completion_without_shtab_says_what_to_install(monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "shtab", None)
    assert main(["--print-completion", "bash"]) == 2
    assert "pip install 'nmg[completion]'" in capsys.readouterr().err


# ---------------------------------------------------------------- many pictures, grids, films, devices

RED = "scene:10000,kind=cat,colour=red"
TABLE = """\
image,source,target,text-scale,editor
one.png,a cat in the snow,a dog in the snow,2,
two.png,"a fox, front view",a blue fox,,masactrl
"scene:7,kind=cat",,a dog,3.5,none
"""


@pytest.fixture
def folder(here):
    (here / "photos").mkdir()
    for i, name in enumerate(("one", "two")):
        Scene.sample(10_000 + i).render(64).save(here / "photos" / f"{name}.png")
    (here / "edits.csv").write_text(TABLE)
    return here / "photos"


def test_a_table_edits_each_row_with_its_own_settings_and_goes_on_where_it_was_stopped(folder, capsys):
    many = ["edit", "photos", "--table", "edits.csv", "--steps", "3", "--start-step", "0", "--self-replace", "0.2"]
    # Options of another editor are wrong for a row that has one.
    assert main(many) == 2
    assert "edits.csv, row 2: --start-step belongs to --editor masactrl" in capsys.readouterr().err
    many = ["edit", "photos", "--table", "edits.csv", "--steps", "3", "--out", "out"]
    assert main(many) == 0
    names = ["one.png", "scene-7-kind-cat.png", "two.png"]
    assert sorted(path.name for path in Path("out").glob("*.png")) == names
    one, scene, two = (Request.read(Path("out") / name) for name in names)
    assert (one.source, one.targets, one.guidance.text_scale) == ("a cat in the snow", ("a dog in the snow",), 2.0)
    assert two.source == "a fox, front view" and isinstance(two.editor, nmg.MasaCtrl)
    assert scene.guidance.text_scale == 3.5 and type(scene.editor) is nmg.Editor and scene.targets == ("a dog",)
    assert two.guidance.text_scale == MENAGERIE.scales["text_scale"]
    # What is done stays; what is missing or asked for otherwise is made.
    made = {name: (Path("out") / name).stat().st_mtime_ns for name in names}
    capsys.readouterr()
    (Path("out") / "two.png").unlink()
    (folder.parent / "edits.csv").write_text(TABLE.replace(",2,", ",2.5,"))
    assert main(many) == 0
    assert capsys.readouterr().out.split() == ["out/one-2.png", "out/two.png"]
    assert (Path("out") / names[1]).stat().st_mtime_ns == made[names[1]]
    assert main(many) == 0 and capsys.readouterr().out == ""
    # Each row is what the command makes of its picture alone.
    alone = ["edit", "photos/one.png", "--source", "a cat in the snow", "--target", "a dog in the snow"]
    assert main([*alone, "--text-scale", "2.5", "--steps", "3", "--out", "alone.png"]) == 0
    np.testing.assert_array_equal(pixels("alone.png"), pixels("out/one-2.png"))
    assert main(["replay", "out/one-2.png", "--out", "again.png"]) == 0
    np.testing.assert_array_equal(pixels("again.png"), pixels("out/one-2.png"))


def test_a_folder_is_edited_with_the_same_prompts(folder, capsys):
    same = ["--source", "a cat", "--target", "a dog", "--target", "a fox", "--steps", "1"]
    assert main(["edit", "photos", *same]) == 0
    names = ["edits/one-1.png", "edits/one-2.png", "edits/two-1.png", "edits/two-2.png"]
    assert capsys.readouterr().out.split() == names
    assert main(["edit", "photos/one.png", "photos/two.png", *same]) == 0
    assert capsys.readouterr().out == ""


@pytest.mark.parametrize(
    ("table", "options", "said"),
    [
        ("picture,target\na.png,b", [], 'needs one column "image"; its first row has picture, target'),
        ("image,targt\none.png,b", [], "'targt' is no option of nmg edit; did you mean target?"),
        ("image,model\none.png,b", [], "--model holds for the whole run; give it on the command line"),
        (
            "image,source,target\none.png,a cat,a dog\nnone.png,a,b\n",
            [],
            "row 3: there is no picture at 'photos/none.png'",
        ),
        ("image,source,target\none.png,a cat\n", [], "row 2: it has no target prompt"),
        ("image,target\none.png,a dog\n", [], "row 2: --source is missing"),
        ("image,source,target\none.png,a cat,a dog, a fox", [], "row 2: it has 4 cells for 3 columns; put commas"),
        ("image,source,target,text-scale\none.png,a,b,high", [], "row 2: --text-scale: invalid float value: 'high'"),
        ("image,source,target,no-jacobian\none.png,a,b,maybe", [], "row 2: --no-jacobian is 'maybe'; write yes or no"),
        ("image,source,target,blend\none.png,a cat,a dog,cat fox", [], "row 2: 'fox' does not occur in the prompt"),
        ("image,source,target\n,a,b\n,c,d\n,e,f\n,g,h\n,i,j", [], "and 2 more"),
        ("image,source,target\none.png,a,b", ["--out", "out.png"], "--out out.png is a file's name"),
        ("image,source,target\none.png,a,b", ["--gif"], "--grid, --gif and --trajectory are for one picture"),
        ('image,source\none.png,"a', [], "can't be read as a table"),
    ],
    ids=lambda value: "",
)
def test_a_wrong_row_is_said_before_anything_is_made(folder, capsys, table, options, said):
    Path("edits.csv").write_text(table)
    assert main(["edit", "photos", "--table", "edits.csv", "--steps", "1", *options]) == 2
    error = capsys.readouterr().err
    assert said in error and not list(folder.parent.glob("edits/*.png"))


def test_a_row_that_fails_does_not_keep_the_others(folder, capsys):
    (folder / "one.png").write_bytes(b"no picture")
    assert main(["edit", "photos", "--source", "a cat", "--target", "a dog", "--steps", "1"]) == 2
    said = capsys.readouterr()
    assert "nmg: photos/one.png: " in said.err and "can't be read as a picture" in said.err
    assert "1 of 2 edits failed" in said.err and said.out.split() == ["edits/two.png"]


@pytest.mark.slow
def test_processes_share_the_rows(folder):
    command = [sys.executable, "-m", "torch.distributed.run", "--nproc_per_node", "2", "-m", "nmg", "edit", "photos"]
    same = ["--source", "a cat", "--target", "a dog", "--steps", "1", "--device", "cpu"]
    root = str(Path(nmg.__file__).parents[1])
    env = {
        **os.environ,
        "PYTHONPATH": os.pathsep.join([root, os.environ.get("PYTHONPATH", "")]),
        "OMP_NUM_THREADS": "1",
    }
    done = subprocess.run([*command, *same], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    assert sorted(done.stdout.split()) == ["edits/one.png", "edits/two.png"]


def test_a_grid_has_every_combination(here, capsys):
    edit = ["edit", RED, "--change", "colour=blue", "--steps", "2"]
    assert main([*edit, "--grid", "text-scale=2,6", "guidance=none, direct"]) == 0
    assert main([*edit, "--grid", "text-scale=2,6", "--out", "one.png"]) == 0
    assert capsys.readouterr().out.split() == ["edit-grid.png", "one-grid.png"]
    two, one = (Image.open(name).size for name in ("edit-grid.png", "one-grid.png"))
    # A row for each of two values; or the source and both values over reconstruction and edit.
    assert two[0] < one[0]
    assert [path.name for path in here.iterdir() if path.name.startswith("edit")] == ["edit-grid.png"]


@pytest.mark.parametrize(
    ("grid", "said"),
    [
        (["scale=1,2"], "'scale' is no option of nmg edit"),
        (["text-scale=1,high"], "--grid, text-scale=high: --text-scale: invalid float value"),
        (["cross-replace=0.5,3"], "--grid, cross-replace=3: cross_replace=3.0"),
        (["text-scale=1", "steps=2", "energy=l1,l2"], "--grid takes one or two options"),
        (["size=64x64,32x32"], "--size holds for the whole run"),
    ],
    ids=lambda value: "",
)
def test_a_wrong_grid_is_said(here, capsys, grid, said):
    assert main(["edit", RED, "--change", "colour=blue", "--steps", "2", "--grid", *grid]) == 2
    assert said in capsys.readouterr().err and not list(here.iterdir())


def test_the_film_of_an_edit_ends_at_its_picture(here, capsys):
    assert main(["edit", RED, "--change", "colour=blue", "--steps", "3", "--gif"]) == 0
    assert capsys.readouterr().out.split() == ["edit.png", "edit.gif"]
    film, edit = Image.open("edit.gif"), pixels("edit.png")
    # Small pictures are enlarged by a whole factor.
    by = film.height // SIZE
    assert by > 1 and film.n_frames == 3 and film.size == (2 * by * SIZE + 4, by * SIZE)
    film.seek(2)
    last = np.asarray(film.convert("RGB")).astype(int)[::by, -by * SIZE :: by]
    # A GIF has 256 colours.
    assert abs(last - edit).mean() < 8
    film.seek(0)
    assert abs(np.asarray(film.convert("RGB")).astype(int)[::by, -by * SIZE :: by] - edit).mean() > 8


def test_the_device_is_the_first_that_is_there(monkeypatch, capsys):
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: False)
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: False)
    assert devices.device_for(None) == "cpu" and devices.device_for("cuda:1") == "cuda:1"
    assert capsys.readouterr().err == ""
    monkeypatch.setattr(devices.torch.backends.mps, "is_available", lambda: True)
    assert devices.device_for(None) == "mps"
    assert "MPS), which is untested; --device cpu is tested" in capsys.readouterr().err
    monkeypatch.setattr(devices.torch.cuda, "is_available", lambda: True)
    assert devices.device_for(None) == "cuda" and capsys.readouterr().err == ""


def test_the_bundled_model_says_that_photographs_need_another(here, picture, capsys):
    assert main(["edit", picture, "--source", "a cat", "--target", "a dog", "--steps", "1"]) == 0
    assert "a photograph needs another, such as --model" in capsys.readouterr().err
    assert main(["edit", RED, "--steps", "1"]) == 0
    assert "photograph" not in capsys.readouterr().err


def test_without_a_target_it_says_that_it_reconstructs(here, capsys):
    assert main(["edit", RED, "--steps", "1"]) == 0
    assert "no --target is given, so this writes the reconstruction" in capsys.readouterr().err


@pytest.mark.parametrize(
    "options, guidance",
    [
        (["--editor", "flow-edit"], nmg.Direct(13.5)),
        (["--editor", "plug-and-play", "--text-scale", "5"], nmg.Direct(5.0)),
        (["--editor", "guide-and-rescale", "--guidance", "none"], nmg.CFG(7.5)),
        (["--editor", "flow-edit", "--guidance", "direct"], nmg.Direct(7.5)),
        (["--editor", "masactrl"], nmg.NoiseMap()),
    ],
    ids=str,
)
def test_an_editor_brings_its_own_scale_where_no_guidance_is_named(build, options, guidance):
    asked = parser().parse_args(["edit", "cat.png", *options])
    assert request_of(asked, build(), "cat.png", "a cat", ["a dog"]).guidance == guidance


@pytest.mark.parametrize("family", [families.flux, families.qwen], ids=lambda family: family.__name__)
def test_a_folder_of_another_family_is_edited_with_what_suits_it(here, picture, family):
    pipe = family()
    pipe.save_pretrained("model")
    prompts = ["--source", "a red cat", "--target", "a blue dog", "--steps", "2", "--size", "32x32"]
    assert main(["edit", picture, "--model", "model", "--device", "cpu", *prompts]) == 0
    recipe = Request.read("edit.png")
    assert recipe.guidance == nmg.default_guidance(pipe) and not recipe.guidance.jacobian
    assert pixels("edit.png").shape == (32, 32, 3)
    told = ["--guidance", "none", "--embedded-scale", "2"]
    done = main(["edit", picture, "--model", "model", "--device", "cpu", *prompts, *told])
    assert (done == 0) == (family is families.flux)
