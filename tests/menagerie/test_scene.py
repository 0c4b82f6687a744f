import itertools

import numpy as np
import pytest
import torch
from PIL import Image
from torch.testing import assert_close

from nmg.menagerie import FACTORS, Scene, caption, networks, prompt_pair
from nmg.menagerie.canvas import Canvas
from nmg.menagerie.captions import MAX_TOKENS, WORDS_OF, vocabulary
from nmg.menagerie.places import PLACES, Setting
from nmg.menagerie.scene import COLOURS, SIZE

SEEDS = range(12)


def pixels(scene, size=64):
    return np.asarray(scene.render(size)).astype(int)


# ---------------------------------------------------------------- scenes


@pytest.mark.parametrize("style", FACTORS["style"])
def test_a_seed_is_a_picture(style):
    first, again, other = (Scene.sample(seed, style=style) for seed in (3, 3, 4))
    assert first == again and first != other
    assert np.array_equal(pixels(first), pixels(again)) and not np.array_equal(pixels(first), pixels(other))


@pytest.mark.parametrize("size", [32, 64, 128, 512])
def test_a_scene_is_the_same_at_every_size(size):
    scene = Scene.sample(1, style="plain")
    image = scene.render(size)
    assert image.mode == "RGB" and image.size == (size, size)
    shrunk = np.asarray(image.resize((32, 32), Image.Resampling.BOX)).astype(int)
    assert np.abs(shrunk - pixels(scene, 32)).mean() < 6


@pytest.mark.parametrize("size", [0, 16, 50, -64])
def test_a_size_that_can_not_be_drawn_is_refused(size):
    with pytest.raises(ValueError, match="multiple of 16 from 32 on"):
        Scene().render(size)


@pytest.mark.parametrize("values", itertools.product(FACTORS["kind"], FACTORS["pose"], FACTORS["view"]), ids=" ".join)
def test_every_figure_is_seen_against_every_colour(values):
    kind, pose, view = values
    scene = Scene(kind=kind, pose=pose, view=view, colour="red").normalised()
    assert scene.changed(scene.edit(colour="blue")).mean() > 0.03


@pytest.mark.parametrize("seed", SEEDS)
def test_an_edit_of_colour_changes_the_figure_and_nothing_else(seed):
    scene = Scene.sample(seed, style="plain", colour="red")
    changed = scene.changed(scene.edit(colour="blue"), threshold=0)
    assert changed.any() and not changed[~grown(scene.mask("figure"))].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_an_edit_of_place_holds_the_figure(seed):
    scene = Scene.sample(seed, style="plain", colour="red", place="room")
    figure = scene.changed(scene.edit(colour="blue"), 128)
    inside = figure & np.roll(figure, 2, 0) & np.roll(figure, -2, 0) & np.roll(figure, 2, 1) & np.roll(figure, -2, 1)
    moved = scene.changed(scene.edit(place="beach"), 128)
    assert inside.any() and moved[~figure].mean() > 0.5
    assert moved[inside].mean() < 0.01


@pytest.mark.parametrize("name", ["mouth", "glasses"])
def test_an_edit_of_the_face_is_small(name):
    scene = Scene(kind="cat", mouth="plain", glasses=False)
    changed = scene.changed(scene.edit(**{name: {"mouth": "smiling", "glasses": True}[name]}))
    assert 0 < changed.mean() < 0.06


@pytest.mark.parametrize("factor", FACTORS)
def test_an_edit_can_be_seen_and_taken_back(factor):
    scene = Scene(kind="cat", colour="red", seed=5)
    value = next(value for value in FACTORS[factor] if value != getattr(scene, factor))
    changed = scene.edit(**{factor: value})
    assert scene.changed(changed).any()
    assert changed.edit(**{factor: getattr(scene, factor)}) == scene
    assert not scene.changed(scene, threshold=0).any()


def test_factors_that_are_held_leave_the_others_as_they_were():
    free, held = Scene.sample(9), Scene.sample(9, place="city")
    assert {**free.factors, "place": "city"} == held.factors and held.seed == 9


@pytest.mark.parametrize("place", PLACES)
def test_night_draws_the_same_layout_as_day(place):
    states = []
    for night in (False, True):
        random = np.random.default_rng(0)
        PLACES[place](Setting(Canvas.blank((0, 0, 0), 64), random, 35, night, 20, 0, 1))
        states.append(random.bit_generator.state)
    assert states[0] == states[1]


@pytest.mark.parametrize("place", PLACES)
def test_night_is_darker_than_day(place):
    scene = Scene(place=place)
    assert pixels(scene.edit(style="at night")).mean() < 0.8 * pixels(scene).mean()


def test_a_car_has_no_face_and_does_not_sit():
    car = Scene(kind="car", mouth="smiling", glasses=True, pose="sitting")
    assert car.normalised() == Scene(kind="car", mouth="plain", glasses=False, pose="standing")
    assert np.array_equal(pixels(car), pixels(car.normalised()))
    assert Scene(kind="cat", mouth="smiling").edit(kind="car").mouth == "plain"
    assert Scene.sample(2, kind="car", mouth="smiling").mouth == "plain"
    assert Scene(kind="car", pose="jumping").normalised().pose == "jumping"


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"color": "blue"}, "no factor 'color'.*did you mean colour?"),
        ({"xyz": 1}, "its factors are kind, colour, place"),
        ({"colour": "mauve"}, "colour='mauve' is not in Menagerie; colour is one of red, orange"),
        ({"kind": "zebra"}, "kind is one of cat, dog"),
        ({"pose": None}, "pose is one of standing"),
    ],
    ids=str,
)
def test_what_is_not_in_menagerie_is_refused(changes, message, unchecked):
    with pytest.raises(ValueError, match=message):
        Scene().edit(**changes)
    with pytest.raises(ValueError, match=message):
        Scene.sample(0, **changes)


# ---------------------------------------------------------------- masks of parts


def grown(mask, by=3):
    """A mask and the pixels around it."""
    for axis in (0, 1):
        mask = mask | np.any([np.roll(mask, shift, axis) for shift in range(-by, by + 1)], 0)
    return mask


@pytest.mark.parametrize("seed", SEEDS)
def test_the_figure_is_what_a_colour_changes(seed):
    scene = Scene.sample(seed, style="plain", colour="red", kind="cat")
    changed, figure = scene.changed(scene.edit(colour="blue")), scene.mask("figure")
    assert changed[figure].mean() > 0.4 and not changed[~grown(figure)].any()


@pytest.mark.parametrize("seed", SEEDS)
def test_the_head_is_part_of_the_figure_and_holds_the_face(seed):
    scene = Scene.sample(seed, style="plain", kind="cat", mouth="plain")
    head, figure = scene.mask("head"), scene.mask("figure")
    assert head.any() and (head & ~figure).sum() == 0 and head.sum() < figure.sum()
    face = scene.changed(scene.edit(mouth="smiling"))
    assert face.any() and not face[~grown(head)].any()


def test_the_place_is_all_but_the_figure_and_a_car_has_no_head():
    scene = Scene(kind="car", pose="standing", view="left")
    assert np.array_equal(scene.mask("place"), ~scene.mask("figure"))
    assert scene.mask("figure").any() and not scene.mask("head").any()
    assert scene.mask("figure", 64).shape == (64, 64)
    with pytest.raises(ValueError, match="no part 'tail'; figure, head, place work"):
        scene.mask("tail")


@pytest.mark.parametrize("kind", FACTORS["kind"])
@pytest.mark.parametrize("pose", FACTORS["pose"])
def test_left_and_right_are_mirrored(kind, pose):
    left = Scene(kind=kind, pose=pose, view="left", seed=3).normalised()
    right = left.edit(view="right")
    columns = [np.nonzero(scene.mask("figure"))[1].mean() for scene in (left, right)]
    assert left.mask("figure").sum() == pytest.approx(right.mask("figure").sum(), rel=0.03)
    assert left.changed(right).any() and columns[0] != columns[1]


@pytest.mark.parametrize("seed", range(40))
def test_figures_stay_in_the_picture_and_differ_in_place_and_size(seed):
    mask = Scene.sample(seed).mask("figure")
    rows, columns = np.nonzero(mask)
    assert 0.02 < mask.mean() < 0.45
    assert columns.max() - columns.min() > 12 and rows.max() < 127


def test_a_mean_mask_of_other_scenes_tells_little():
    masks = np.stack([Scene.sample(seed).mask("figure", 32) for seed in range(60)])
    found = []
    for i, mask in enumerate(masks):
        mean = np.delete(masks, i, 0).mean(0)
        cut = mean >= np.sort(mean.ravel())[-mask.sum()]
        found.append((cut & mask).sum() / (cut | mask).sum())
    assert np.mean(found) < 0.55


# ---------------------------------------------------------------- captions


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory):
    return networks.build_tokenizer(tmp_path_factory.mktemp("tokenizer"))


def every_kind_of_scene():
    """One scene for each combination of the factors that change a caption's length."""
    names = ("kind", "mouth", "glasses", "style", "pose")
    for values in itertools.product(*(FACTORS[name] for name in names)):
        yield Scene(**dict(zip(names, values, strict=True)), place="beach").normalised()


def test_every_caption_fits_the_text_encoder(tokenizer):
    random = np.random.default_rng(0)
    captions = [caption(scene, r) for scene in every_kind_of_scene() for r in (None, random)]
    lengths = [len(ids) for ids in tokenizer(captions).input_ids]
    assert max(lengths) <= MAX_TOKENS == tokenizer.model_max_length
    assert all(length == len(words(text)) + 2 for text, length in zip(captions, lengths, strict=True))


def words(text):
    return text.replace(",", " ,").split()


def test_every_word_of_a_caption_is_one_token(tokenizer):
    assert all(len(tokenizer(word).input_ids) == 3 for word in vocabulary())
    random = np.random.default_rng(0)
    scenes = [Scene.sample(seed) for seed in range(4000)]
    used = {word for scene in scenes for r in (None, random) for word in words(caption(scene, r))}
    assert used == set(vocabulary())


def test_a_third_of_the_training_captions_are_short_and_any_factor_may_be_left_out():
    random = np.random.default_rng(0)
    scene = Scene("cat", "red", "forest", "smiling", True, "oil painting", "sitting", "left")
    drawn = [words(caption(scene, random)) for _ in range(600)]
    assert 0.2 < np.mean([len(text) <= 9 for text in drawn]) < 0.5
    for word in ("red", "forest", "glasses", "oil"):
        assert 0.2 < np.mean([word in text for text in drawn]) < 0.95
    assert all("cat" in text for text in drawn)


@pytest.mark.parametrize("part", ["figure", "head", "place"])
def test_words_that_name_a_part_are_known(part):
    assert set(WORDS_OF[part]) <= set(vocabulary())


def test_other_words_are_spelt(tokenizer):
    assert tokenizer.convert_ids_to_tokens(tokenizer("zebra").input_ids)[-2].endswith("</w>")
    assert tokenizer.unk_token_id not in tokenizer("zebra café 7").input_ids[1:-1]


def test_equal_factors_have_equal_captions_and_others_different_ones():
    scenes = [Scene.sample(seed) for seed in range(300)]
    assert caption(scenes[0]) == caption(Scene(**scenes[0].factors, seed=999))
    by_caption = {caption(scene): scene.factors for scene in scenes}
    assert len(by_caption) == len({str(scene.factors) for scene in scenes})


def test_random_captions_vary_and_are_drawn_from_their_generator():
    scene = Scene(mouth="smiling", glasses=True, style="oil painting")
    drawn = [[caption(scene, random) for _ in range(30)] for random in map(np.random.default_rng, (0, 0))]
    assert drawn[0] == drawn[1] and len(set(drawn[0])) > 5


@pytest.mark.parametrize(
    ("changes", "old", "new"),
    [
        ({"colour": "blue"}, "red", "blue"),
        ({"kind": "dog"}, "cat", "dog"),
        ({"place": "desert"}, "forest", "desert"),
        ({"pose": "jumping"}, "sitting", "jumping"),
        ({"view": "left"}, "forward", "left"),
        ({"colour": "blue", "kind": "fox"}, "red cat", "blue fox"),
    ],
    ids=str,
)
def test_prompts_of_an_edit_differ_in_the_changed_words_alone(changes, old, new):
    source, target = prompt_pair(Scene(kind="cat", colour="red"), **changes)
    assert target == source.replace(old, new) != source


@pytest.mark.parametrize(
    ("changes", "added"),
    [
        ({"style": "at night"}, ", at night"),
        ({"style": "oil painting"}, ", oil painting"),
        ({"mouth": "smiling"}, "smiling "),
        ({"glasses": True}, "wearing glasses "),
    ],
    ids=str,
)
def test_prompts_of_an_edit_that_adds_differ_in_the_added_words_alone(changes, added):
    source, target = prompt_pair(Scene(kind="cat", colour="red"), **changes)
    assert added in target and target.replace(added, "", 1) == source


# ---------------------------------------------------------------- networks


def test_the_classifier_has_a_head_for_every_factor_and_survives_its_file(tmp_path):
    torch.manual_seed(0)
    classifier, images = networks.FactorClassifier().eval(), torch.randn(2, 3, SIZE, SIZE)
    assert {name: logits.shape[1] for name, logits in classifier(images).items()} == {
        n: len(v) for n, v in FACTORS.items()
    }
    assert all(read[name] in FACTORS[name] for read in classifier.read(images) for name in FACTORS)
    classifier.save(tmp_path / "classifier.safetensors")
    loaded = networks.FactorClassifier.load(tmp_path / "classifier.safetensors")
    for name, logits in classifier(images).items():
        assert_close(loaded(images)[name], logits, rtol=1e-2, atol=1e-2)


def test_targets_are_the_indices_of_the_factors():
    scene = Scene(kind="dog", colour="blue")
    found = networks.targets([scene])
    assert found["kind"].tolist() == [1] and found["colour"].tolist() == [list(COLOURS).index("blue")]
    assert found["glasses"].tolist() == [0]
