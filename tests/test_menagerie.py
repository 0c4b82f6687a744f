import itertools
import json

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file
from torch.testing import assert_close

from nmg import Backbone, NoiseMap, bench, edit
from nmg.menagerie import FACTORS, Scene, caption, card, evaluate, networks, prompt_pair, train
from nmg.menagerie.canvas import Canvas
from nmg.menagerie.captions import MAX_TOKENS, vocabulary
from nmg.menagerie.places import PLACES, Setting
from nmg.menagerie.scene import COLOURS

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
    x, y, reach = 32 + scene.nuisances["x"], 58 + scene.nuisances["y"], 29 * scene.nuisances["scale"]
    rows, columns = np.nonzero(changed)
    assert changed.any()
    assert columns.min() > x - reach and columns.max() < x + reach
    assert rows.min() > y - 2.2 * reach and rows.max() < y + 4


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
    used = {word for scene in every_kind_of_scene() for word in words(caption(scene))}
    assert used <= set(vocabulary())


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
        ({"view": "side"}, "front", "side"),
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
    classifier, images = networks.FactorClassifier().eval(), torch.randn(2, 3, 64, 64)
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
        assert np.array_equal(bank[index], pixels(Scene.sample(train.TRAIN_SEEDS + index)))


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
