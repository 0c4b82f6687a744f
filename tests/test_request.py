import dataclasses
import inspect
import json
from contextlib import nullcontext

import numpy as np
import pytest
from PIL import Image

import nmg
from nmg.lab.code import call
from nmg.request import Request, digest

REQUEST = Request(
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
    size=(64, 64),
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
    recipe = dataclasses.replace(REQUEST, **changes)
    path = recipe.save(Image.new("RGB", (64, 64)), tmp_path / "picture.png")
    assert Request.read(path) == recipe
    assert [p.name for p in tmp_path.iterdir()] == ["picture.png"]


def test_a_direction_comes_back_as_the_sentences_that_it_is_found_by(backbone, tmp_path):
    direction = nmg.EditDirection.between(backbone, ["a cat", "a red cat"], ["a dog", "a blue dog"])
    recipe = dataclasses.replace(REQUEST, editor=nmg.Pix2PixZero(direction))
    editor = Request.read(recipe.save(Image.new("RGB", (64, 64)), tmp_path / "picture.png")).editor
    assert editor == nmg.Pix2PixZero((direction.source, direction.target))
    assert editor.resolved(backbone) is direction


VERSION_0_1_0 = """{"model": "menagerie", "image": "scene:7", "digest": "0123456789ab", "source": "a cat",
"targets": ["a dog", "a fox"], "guidance": {"method": "NoiseMap", "text_scale": 10.0, "noise_map_scale": 3.0,
"gradient_scale": 5000.0, "energy": "l2", "level": "end", "during": [0.0, 1.0], "mask": null, "outside": 0.0,
"jacobian": true}, "editor": {"method": "Pix2PixZero", "direction": null, "amount": 0.15}, "steps": 20, "width": 64,
"height": 48, "negative": "a cat", "row": 1, "inversion": {"method": "DDIM"}, "convention": "aligned", "offset": 0,
"dtype": "float32", "version": "0.1.0"}"""


def test_a_recipe_of_version_0_1_0_is_read():
    read = Request.from_json(VERSION_0_1_0)
    # The noise-map step of that version had no bound, and its strength did not count by 50 steps.
    guidance = nmg.NoiseMap(noise_map_scale=7.5, energy="l2", bound=None)
    methods = {"guidance": guidance, "editor": nmg.Pix2PixZero(amount=0.15 * 20 / 50)}
    asked = Request("scene:7", "a cat", ("a dog", "a fox"), "a cat", inversion=nmg.DDIM(), steps=20, **methods)
    made = {"size": (64, 48), "convention": "aligned", "offset": 0, "model": "menagerie", "dtype": "float32"}
    assert read == dataclasses.replace(asked, **made, version="0.1.0", digest="0123456789ab")
    # The editor's habit is not a negative prompt that was asked for, which some guidances refuse.
    assert read.own_negative is None
    assert Request.from_json(read.to_json()) == read


def test_a_recipe_from_before_there_were_inversions_is_read():
    values = json.loads(VERSION_0_1_0)
    assert values.pop("inversion") == {"method": "DDIM"}
    assert Request.from_json(json.dumps(values)) == Request.from_json(VERSION_0_1_0)


def test_a_recipe_of_a_newer_format_is_an_error():
    with pytest.raises(ValueError, match="of format 99, and this version reads up to"):
        Request.from_json(json.dumps(json.loads(REQUEST.to_json()) | {"format": 99}))


# ---------------------------------------------------------------- defaults and checks, once


def test_every_default_is_filled_in_once(backbone):
    request = Request("cat.png", "a red cat").resolved(backbone)
    assert (request.guidance, request.editor) == (nmg.default_guidance(backbone), nmg.PromptToPrompt())
    assert (request.inversion, request.steps, request.convention, request.offset) == (nmg.DDIM(), 50, "aligned", None)
    assert (request.size, request.negative, request.targets) == (backbone.native_size, "", ())
    assert request.resolved(backbone) == request


def test_the_editor_says_what_stands_for_prompts_that_are_not_given(backbone):
    request = Request("cat.png", "a red cat", editor=nmg.Pix2PixZero(("cat", "dog"))).resolved(backbone)
    assert (request.negative, request.targets, request.own_negative) == ("a red cat", ("a red dog",), None)


@pytest.mark.parametrize(
    "asked, refused",
    [
        ({"editor": nmg.Pix2PixZero()}, True),
        ({"editor": nmg.Pix2PixZero(), "negative": ""}, False),
        ({"editor": nmg.Pix2PixZero(), "guidance": nmg.NoiseMap()}, False),
        ({"guidance": nmg.Direct(10.0) + nmg.NoiseMap(bound="rescale"), "negative": "a red cat"}, True),
        ({"guidance": nmg.NoiseMap(bound="rescale", text_scale=0.0)}, True),
        ({}, False),
    ],
    ids=["pix2pix-zero", "negative", "bounded", "a stack", "scale", "plain"],
)
def test_a_correction_is_not_measured_by_a_text_that_adds_nothing(backbone, asked, refused):
    asked = {"guidance": nmg.NoiseMap(bound="rescale"), "targets": ["a blue cat"], "size": (32, 32)} | asked
    request = Request("cat.png", "a red cat", **asked).resolved(backbone)
    with pytest.raises(ValueError, match="which is nothing with negative=") if refused else nullcontext():
        request.check(backbone)


def test_a_part_that_is_left_out_is_not_steered(backbone):
    asked = {"guidance": nmg.NoiseMap(during=(0, 0.3)), "steps": 10, "size": (32, 32)}
    Request("cat.png", "a red cat", **asked, skip=0.2).resolved(backbone).check(backbone)
    with pytest.raises(ValueError, match="none of the 10 steps, of which skip=0.4 leaves out 4, so nothing would be"):
        Request("cat.png", "a red cat", **asked, skip=0.4).resolved(backbone).check(backbone)


PUBLISHED = {
    nmg.PlugAndPlay(): nmg.Direct(7.5),
    nmg.GuideAndRescale(): nmg.Direct(7.5),
    nmg.FlowEdit(): nmg.Direct(13.5),
    nmg.UniEdit(): nmg.Direct(1.0),
    nmg.MasaCtrl(): nmg.NoiseMap(),
}


@pytest.mark.parametrize("editor", PUBLISHED, ids=repr)
def test_an_editor_brings_its_published_text_scale_unless_the_model_has_its_own(build, tmp_path, editor):
    guidance = Request("cat.png", "a red cat", editor=editor).resolved(nmg.Backbone(build())).guidance
    assert guidance == PUBLISHED[editor]
    (tmp_path / "nmg.json").write_text('{"text_scale": 3.0}')
    (pipe := build()).register_to_config(_name_or_path=str(tmp_path))
    own = Request("cat.png", "a red cat", editor=editor).resolved(nmg.Backbone(pipe)).guidance
    assert own == guidance.rescaled(3.0)


def test_a_request_of_a_trajectory_says_what_the_trajectory_says(backbone, trajectory):
    request = Request(trajectory).resolved(backbone)
    assert request.source == trajectory.prompt and request.steps == len(trajectory.steps) and request.offset is None


def test_an_edit_takes_a_request_or_its_fields(backbone, trajectory):
    given = {"targets": ["a blue cat"], "guidance": nmg.CFG(2.0)}
    one, other = (
        nmg.edit(backbone, Request(trajectory, **given), progress=False),
        nmg.edit(backbone, trajectory, **given, progress=False),
    )
    assert np.array_equal(one.latents, other.latents) and one.request == other.request
    with pytest.raises(TypeError, match="a Request and steps are both given"):
        nmg.edit(backbone, Request(trajectory), steps=3)


def test_another_picture_than_the_requests_is_refused(backbone, picture):
    with pytest.raises(ValueError, match="this is not the picture that was edited"):
        nmg.edit(backbone, Request(picture, "a red cat", digest="0123456789ab"), progress=False)


@dataclasses.dataclass(frozen=True)
class Counting(nmg.Guidance):
    """A guidance as an exercise: one class is all that a new one needs."""

    def check(self, backbone, request):
        CHECKS.append(request.prompts)

    def combine(self, run, step, eps):
        null, text = eps.chunk(2)
        return text + 0 * null


@dataclasses.dataclass(frozen=True)
class Shifting(nmg.Editor):
    """An editor as an exercise: the targets drift by `amount` in each step."""

    amount: float = 0.1

    def targets(self, source):
        return (f"{source}, shifted",)

    def blend(self, run, step, x):
        return nmg.rows.with_targets(x[1:] + self.amount, x)


CHECKS = []


def test_a_new_guidance_and_a_new_editor_are_one_class_each(backbone, trajectory, picture):
    CHECKS.clear()
    loads, load = [], nmg.images.load
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(nmg.images, "load", lambda image: loads.append(image) or load(image))
        asked = {"guidance": Counting(), "editor": Shifting(), "steps": 2, "progress": False}
        result = nmg.edit(backbone, picture, trajectory.prompt, **asked)
    assert len(result.pictures) == 1 and result.latents.isfinite().all()
    # Checked once, and the picture loaded once.
    assert [result.request.prompts] == CHECKS and len(loads) == 1
    assert call(result.request).startswith("result = nmg.edit(")


def test_the_network_is_at_most_eight_calls_below_an_edit(backbone, trajectory):
    deepest, forward = [], type(backbone.unet).forward

    def spy(unet, *given, **options):
        frames = [frame.frame.f_globals.get("__name__", "") for frame in inspect.stack(0)]
        names = [frame.function for frame in inspect.stack(0)]
        inside = [name for name in frames[: names.index("edit") + 1] if name.startswith("nmg.")]
        deepest.append(len(inside))
        return forward(unet, *given, **options)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(type(backbone.unet), "forward", spy)
        nmg.edit(backbone, trajectory, targets=["a blue cat"], progress=False)
    assert max(deepest) <= 8


# ---------------------------------------------------------------- files


def test_a_picture_without_a_recipe_is_an_error(tmp_path):
    Image.new("RGB", (8, 8)).save(tmp_path / "plain.png")
    with pytest.raises(ValueError, match="holds no settings"):
        Request.read(tmp_path / "plain.png")
    with pytest.raises(FileNotFoundError, match="no picture"):
        Request.read(tmp_path / "missing.png")
    (tmp_path / "text.png").write_text("no picture")
    with pytest.raises(ValueError, match="can't be read"):
        Request.read(tmp_path / "text.png")


def test_a_recipe_of_another_version_is_an_error():
    with pytest.raises(ValueError, match="no method 'Telepathy'"):
        Request.from_json(REQUEST.to_json().replace('"NoiseMap"', '"Telepathy"'))
    with pytest.raises(ValueError, match="newer"):
        Request.from_json(REQUEST.to_json().replace('"steps"', '"strides"'))


def test_the_digest_tells_pictures_apart():
    black, white = (Image.new("RGB", (8, 8), colour) for colour in ("black", "white"))
    assert digest(black) == digest(black.copy()) != digest(white)
