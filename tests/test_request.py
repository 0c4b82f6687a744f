import dataclasses
import json

import numpy as np
import pytest
from PIL import Image

import nmg
from nmg.request import Recipe, digest

RECIPE = Recipe(
    model="menagerie",
    image="scene:7",
    digest="0123456789ab",
    source="a cat",
    targets=("a dog", "a “fox”, ünïcode"),
    guidance=nmg.NoiseMap(noise_map_scale=3.0, energy="l2"),
    editor=nmg.PromptToPrompt(
        "refine",
        {"default_": 0.8, "dog": (0.1, 0.5)},
        (0.2, 0.7),
        {"dog": 2.0},
        nmg.LocalBlend(("cat", ("dog", "fox")), subtract=("cat", "dog"), threshold=(0.3, 0.4)),
    ),
    steps=20,
    width=64,
    height=64,
    offset=0,
)


MASK = np.zeros((24, 16), bool)
MASK[4:12, 3:9] = True


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"guidance": nmg.CFG(2.0), "editor": nmg.Editor()},
        {"editor": nmg.MasaCtrl(2, 5, words=("cat", "dog", "fox"), threshold=0.2)},
        {"editor": nmg.MasaCtrl(source_mask=MASK, target_mask=MASK.T.astype(float))},
        {"editor": nmg.MasaCtrl(source_mask=Image.fromarray(MASK), target_mask="target.png")},
        {"editor": nmg.Pix2PixZero(amount=0.1), "negative": "a cat"},
        {"editor": nmg.Pix2PixZero(("cat", "a “fox”"))},
        {"editor": nmg.Pix2PixZero((("a cat", "the cat"), "dogs.txt"))},
        {"inversion": nmg.Regularised(auto_correlation=10.0, rounds=2, seed=7), "convention": "diffusers-0.18"},
    ],
    ids=lambda changes: "+".join(type(value).__name__ for value in changes.values()) or "plain",
)
def test_a_picture_brings_its_recipe_back(changes, tmp_path):
    recipe = dataclasses.replace(RECIPE, **changes)
    path = recipe.save(Image.new("RGB", (64, 64)), tmp_path / "picture.png")
    assert Recipe.read(path) == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_a_direction_comes_back_as_the_sentences_that_it_is_found_by(backbone, tmp_path):
    direction = nmg.EditDirection.between(backbone, ["a cat", "a red cat"], ["a dog", "a blue dog"])
    recipe = dataclasses.replace(RECIPE, editor=nmg.Pix2PixZero(direction))
    editor = Recipe.read(recipe.save(Image.new("RGB", (64, 64)), tmp_path / "picture.png")).editor
    assert editor == nmg.Pix2PixZero((direction.source, direction.target))
    assert editor.resolved(backbone) is direction


def test_a_recipe_from_before_there_were_inversions_is_read():
    values = json.loads(RECIPE.to_json())
    assert values.pop("inversion") == {"method": "DDIM"}
    assert Recipe.from_json(json.dumps(values)) == RECIPE


def test_a_picture_without_a_recipe_is_an_error(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="holds no settings"):
        Recipe.read(tmp_path / "plain.png")
    with pytest.raises(FileNotFoundError, match="no picture"):
        Recipe.read(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="can't be read"):
        Recipe.read(tmp_path / "text.png")


def test_a_recipe_of_another_version_is_an_error():
    with pytest.raises(ValueError, match="no method 'Telepathy'"):
        Recipe.from_json(RECIPE.to_json().replace('"NoiseMap"', '"Telepathy"'))
    with pytest.raises(ValueError, match="newer"):
        Recipe.from_json(RECIPE.to_json().replace('"steps"', '"strides"'))


def test_the_digest_tells_pictures_apart():
    black, white = (Image.new("RGB", (8, 8), colour) for colour in ("black", "white"))
    assert digest(black) == digest(black.copy()) != digest(white)
