"""Each model has one profile: its scales, presets, examples, words and captioner."""

from pathlib import Path
from types import SimpleNamespace

import pytest
from PIL import Image

import nmg
from nmg.backbones import ModelSettings
from nmg.editors import FlowEdit, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.lab.presets import FURTHER, PHOTOGRAPHS, SCENES
from nmg.lab.profile import MENAGERIE, Photographs, Scenes, profile_of
from nmg.menagerie import Scene, caption, model
from nmg.menagerie.scene import FACTORS
from nmg.menagerie.tasks import TASKS, TEST_SEEDS

IMAGES = Path(__file__).parents[2] / "images"


@pytest.fixture(scope="module")
def bundled():
    return nmg.Backbone(nmg.load("menagerie", device="cpu"))


def test_a_model_has_the_profile_that_its_folder_names(bundled, tiny):
    assert profile_of(bundled) == profile_of(bundled.pipe) == MENAGERIE and isinstance(MENAGERIE, Scenes)
    assert profile_of(tiny()) == Photographs() and not Photographs.knows_scenes
    other = SimpleNamespace(name=None)
    assert isinstance(profile_of(other), Photographs)


def test_a_profile_that_does_not_exist_is_refused(tmp_path):
    (tmp_path / "nmg.json").write_text('{"profile": "paintings"}')
    with pytest.raises(ValueError, match="the model's profile 'paintings' is unknown; photographs, menagerie work"):
        profile_of(SimpleNamespace(name_or_path=str(tmp_path)))


def test_the_guidance_has_the_models_scales_but_for_those_given(bundled, tiny):
    assert MENAGERIE.guidance() == nmg.default_guidance(bundled) == nmg.NoiseMap(**MENAGERIE.scales)
    assert MENAGERIE.guidance(text_scale=2.0) == nmg.default_guidance(bundled, text_scale=2.0)
    assert profile_of(tiny()).guidance() == nmg.NoiseMap()
    own = Photographs(ModelSettings(text_scale=4.0))
    assert own.guidance() == nmg.NoiseMap(text_scale=4.0)


def test_words_that_a_model_has_never_read_are_named_once():
    said = MENAGERIE.unknown_words(["an elephant juggling", "a juggling cat"])
    assert said.startswith("the model 'menagerie' does not know 'elephant', 'juggling' and") and "cat" in said
    assert MENAGERIE.unknown_words(["a red cat", "A photo of a dog,"]) is None
    assert Photographs().unknown_words(["an elephant juggling"]) is None


def test_presets_are_those_that_the_scenes_were_measured_with_and_the_papers_for_photographs():
    kinds = MENAGERIE.presets()
    assert {name: kinds[name].build("a cat", "a fox") for name in TASKS} == {name: SCENES[name] for name in TASKS}
    assert all(kind.when for kind in kinds.values()) and kinds.keys() == {*TASKS, *FURTHER}
    by_flow_edit = kinds["FlowEdit"].build
    assert by_flow_edit("a red cat", "a blue cat") == SCENES["colour change by FlowEdit"]
    assert by_flow_edit("a cat", "a cat") == FURTHER["FlowEdit"]
    assert kinds["object swap"].words == set(FACTORS["kind"])


@pytest.mark.parametrize("kind", [PromptToPrompt, MasaCtrl, Pix2PixZero])
def test_the_presets_for_photographs_are_the_examples_for_any_prompts(kind):
    presets = Photographs().presets()
    assert presets.keys() == {*PHOTOGRAPHS, *FURTHER} and presets["FlowEdit"].build("a cat", "a fox") == FlowEdit()
    for name, example in Photographs().examples(kind, IMAGES, dog=IMAGES / "coffee.png").items():
        assert presets[name].fits(example.source, example.target, example.editor)


# ---------------------------------------------------------------- captions of scenes


def test_held_out_scenes_read_back_to_their_captions(bundled):
    scenes = [Scene.sample(TEST_SEEDS + i) for i in range(12)]
    exact = [MENAGERIE.caption(bundled, scene.render(), "") == caption(scene) for scene in scenes]
    assert sum(exact) >= 9, exact


@pytest.mark.parametrize("size", [64, 512])
def test_a_plain_scene_is_read_exactly_at_every_size(bundled, size):
    scene = Scene(kind="cat", colour="blue", place="beach", seed=TEST_SEEDS)
    assert MENAGERIE.caption(bundled, scene.render(size), "") == caption(scene)


def test_a_car_has_no_smile(bundled, monkeypatch):
    """The classifier's heads know nothing of each other."""
    scene = Scene(kind="car", colour="red").normalised()
    read = {**scene.factors, "mouth": "smiling", "glasses": True, "pose": "sitting"}
    monkeypatch.setattr(model, "load_classifier", lambda: SimpleNamespace(read=lambda pixels: [read]))
    assert MENAGERIE.caption(bundled, scene.render(), "") == caption(scene)


@pytest.mark.parametrize("colour", ["black", "white", "teal"])
def test_what_is_no_scene_gets_a_caption_that_the_model_knows(bundled, colour):
    prompt = MENAGERIE.caption(bundled, Image.new("RGB", (200, 90), colour), "")
    assert MENAGERIE.unknown_words([prompt]) is None
    assert any(kind in prompt.split() for kind in FACTORS["kind"])
