"""The panel without widgets: settings, what is computed again, previews, the thread, and keeping."""

import contextlib
import threading
import time
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

import nmg
from nmg import images
from nmg.lab import cli
from nmg.lab.controls import EDITORS, GUIDANCES
from nmg.lab.panel import (
    Cancelled,
    Controller,
    Doing,
    Engine,
    Failed,
    LatentPreview,
    Origin,
    Settings,
    Worker,
    code,
    looks,
    predicted,
    save,
    texts,
)
from nmg.lab.panel.engine import FOLLOWING, INVERTING, KNOWN, WALKING
from nmg.lab.panel.origin import spelled
from nmg.levels import Step, spread, transfer
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import EXAMPLES
from nmg.request import Request
from tests.conftest import SOURCE, TARGET

IMAGES = Path(__file__).parents[3] / "images"
PATIENCE = 30.0
SETTINGS = Settings(SOURCE, TARGET, steps=2)


@pytest.fixture
def engine(tiny, picture):
    return Engine(tiny(), picture)


def processors(engine: Engine) -> list[type]:
    return [type(processor) for processor in engine.backbone.unet.attn_processors.values()]


# ---------------------------------------------------------------- settings

METHODS = (
    (nmg.NoiseMap(noise_map_scale=3.0, energy="l2", during=(0, 0.5)), nmg.PromptToPrompt(self_replace=(0.2, 0.7))),
    (nmg.NoiseMap(noise_map_scale=(1.0, 2.0)), nmg.PromptToPrompt(None, {"default_": 0.8, "cat": 0.1})),
    (nmg.CFG(2.0), nmg.PromptToPrompt(weights={"cat": 2.0}, local_blend=nmg.LocalBlend(("cat", "cat"), threshold=0.4))),
    (nmg.NullText(5.0, iterations=2) + nmg.NoiseMap(text_scale=5.0), nmg.MasaCtrl(0.2, 3, words=("cat", "cat"))),
    (nmg.ProxNegativePrompt(4.0, quantile=0.5), nmg.Pix2PixZero((("a cat",), ("a dog",)), amount=0.1)),
    (nmg.Direct(3.0), nmg.Editor()),
)


@pytest.mark.parametrize(("guidance", "editor"), METHODS)
def test_settings_bring_back_the_methods_that_they_were_taken_from(guidance, editor):
    settings = SETTINGS.but(guidance=guidance, editor=editor)
    assert (settings.guidance_method, settings.editor_method) == (guidance, editor)
    assert settings.guidance in GUIDANCES and settings.editor in EDITORS


@pytest.mark.parametrize("name", GUIDANCES)
def test_every_guidance_of_the_command_line_has_its_name_here(name):
    settings = SETTINGS.but(guidance=name, text_scale=4.0, noise_map_scale=7.0)
    assert settings.guidance_method.text_scale == 4
    assert SETTINGS.but(guidance=settings.guidance_method).guidance == name
    assert ("noise_map_scale" in settings.controls) == name.endswith("noise-map")


def test_a_control_turns_its_own_setting_alone():
    guidance, editor = METHODS[0]
    settings = SETTINGS.but(guidance=guidance, editor=editor).but(noise_map_scale=5.0, cross_replace=0.3)
    assert settings.guidance_method == nmg.NoiseMap(noise_map_scale=5.0, energy="l2", during=(0, 0.5))
    assert settings.editor_method == nmg.PromptToPrompt(cross_replace=0.3, self_replace=(0.2, 0.7))
    # Another method and back: what was turned is still there.
    there = settings.but(guidance="direct", editor="masactrl", start_layer=1)
    assert there.guidance_method == nmg.Direct(10.0) and there.editor_method == nmg.MasaCtrl(start_layer=1)
    assert there.but(guidance="noise-map").guidance_method == settings.guidance_method
    blend = SETTINGS.but(editor=METHODS[2][1]).but(blend=("red", "blue")).editor_method.local_blend
    assert blend == nmg.LocalBlend(("red", "blue"), threshold=0.4)


def test_what_is_no_setting_is_refused():
    with pytest.raises(TypeError, match="no setting 'noise_scale'; the settings are source prompt|source"):
        SETTINGS.but(noise_scale=3)
    with pytest.raises(ValueError, match="guidance='nmg' is unknown; noise-map, null-text"):
        _ = SETTINGS.but(guidance="nmg").guidance_method


def test_fields_are_read_as_they_are_written():
    for text, value in (("", {}), ("tiger=2, oil painting=0.5", {"tiger": 2.0, "oil painting": 0.5})):
        assert texts.read_weights(text) == value and texts.write_weights(value) == text
    for text, value in (("", ()), ("cat, tiger", ("cat", "tiger")), ("cat, big + tiger", ("cat", ("big", "tiger")))):
        assert texts.read_pair(text) == value and texts.write_words(value) == text
    assert texts.read_pair("cup") == ("cup", "cup")
    assert texts.read_direction(" ") is None
    assert texts.write_words("saved.safetensors") is None
    with pytest.raises(ValueError, match="'tiger' is no word weight; write WORD=FACTOR"):
        texts.read_weights("tiger")


# ---------------------------------------------------------------- presets, origins


def test_a_scene_knows_its_name_and_the_truth_of_a_target():
    _, scene, change = EXAMPLES[0]
    origin = Origin.of(scene.render())
    assert origin.scene == scene and Origin.of(origin.name).scene == scene
    truth = scene.edit(**change).render()
    target = "an orange fox sitting in the forest, front view"
    assert origin.truth(target).tobytes() == truth.tobytes()
    assert origin.truth("an orange fox dancing") is None
    glasses = Scene("dog", glasses=True, seed=3)
    assert Origin.of(spelled(glasses)).scene == glasses


def test_a_given_truth_belongs_to_its_target(picture, tmp_path):
    origin = Origin.of(picture, "a dog", picture)
    assert origin.has_truths and origin.truth("a dog") is not None and origin.truth("a fox") is None
    assert origin.name == ""
    picture.save(tmp_path / "cat.png")
    assert Origin.of(tmp_path / "cat.png").name == str(tmp_path / "cat.png")
    assert not Origin.of(tmp_path / "cat.png").has_truths


# ---------------------------------------------------------------- previews


@pytest.mark.parametrize("stochastic", [False, True])
def test_the_clean_latent_of_a_step_is_solved_for_exactly(stochastic):
    generator = torch.Generator().manual_seed(0)
    clean, noise, residual = (torch.randn(1, 4, 3, 3, generator=generator) for _ in range(3))
    for alpha, alpha_prev in ((0.01, 0.05), (0.3, 0.6), (0.9, 1.0)):
        step, sigma = Step(0, 1, alpha, alpha_prev), spread(alpha, alpha_prev) if stochastic else 0.0
        before = alpha**0.5 * clean + (1 - alpha) ** 0.5 * noise
        after = transfer(before, noise, alpha, alpha_prev, sigma) + (residual if stochastic else 0)
        found = predicted(before, after, step, residual if stochastic else None)
        torch.testing.assert_close(found, clean, atol=2e-5, rtol=1e-4)
    still = Step(0, 1, 0.99, 0.99)
    torch.testing.assert_close(predicted(clean, clean, still), clean / 0.99**0.5)


@pytest.mark.parametrize("channels", [4, 8])
def test_a_linear_encoder_is_seen_through_exactly(channels, picture):
    class Linear:
        mixing = torch.randn(channels, 3, generator=torch.Generator().manual_seed(0))

        def encode(self, pixels):
            return torch.einsum("cp,rphw->rchw", self.mixing, torch.nn.functional.avg_pool2d(pixels, 8)) + 0.3

    encoder, fitted = Linear(), picture.resize((64, 48))
    preview = _fit(encoder, fitted)
    other = Image.fromarray(np.random.default_rng(0).integers(0, 256, (6, 8, 3), np.uint8))
    latents = encoder.encode(images.to_tensor(other.resize((64, 48), Image.Resampling.NEAREST)))
    assert np.abs(np.asarray(preview(latents, (8, 6)), int) - np.asarray(other, int)).max() <= 1


def _fit(encoder, picture) -> LatentPreview:
    """A fit to something that encodes as a backbone does."""
    backbone = object.__new__(nmg.Backbone)
    backbone.encode = encoder.encode
    return LatentPreview.fit(backbone, picture)


def test_the_bundled_models_latents_are_seen_as_their_pictures():
    backbone = nmg.Backbone(nmg.load("menagerie"))
    fitted, other = Scene(seed=1).render(), Scene("dog", "red", "beach", seed=5).render()
    preview = LatentPreview.fit(backbone, fitted)
    latents = backbone.encode(images.to_tensor(other))
    small = latents.shape[-1], latents.shape[-2]
    shown, wanted = (np.asarray(p.resize(small, Image.Resampling.BOX), float) for p in (preview(latents, small), other))
    assert np.corrcoef(shown.ravel(), wanted.ravel())[0, 1] > 0.9


# ---------------------------------------------------------------- what is computed


def test_only_what_changed_is_computed_again(engine):
    told = []

    def computed(**changes):
        nonlocal settings
        told.clear()
        settings = settings.but(**changes)
        engine.make(settings, told.append)
        return tuple(dict.fromkeys(doing.what for doing in told))

    settings = SETTINGS
    assert computed() == (INVERTING, WALKING)
    assert computed(target="a red dog sitting in the forest, front view") == (FOLLOWING,)
    assert computed(self_replace=0.1) == (FOLLOWING,)
    assert computed(blend=("cat", "dog")) == (FOLLOWING,)
    assert computed(editor="masactrl", start_step=0) == (FOLLOWING,)
    assert computed(noise_map_scale=3.0) == (WALKING,)
    assert computed(text_scale=3.0) == (WALKING,)
    assert computed(amount=0.3) == (KNOWN,)
    assert computed(guidance="direct") == (WALKING,)
    assert computed(steps=3) == (INVERTING, WALKING)
    assert computed(source=TARGET) == (INVERTING, WALKING)
    assert computed(source=SOURCE, steps=2, target="a cat") == (FOLLOWING,)
    before = engine.history
    assert computed(target=settings.target) == (KNOWN,) and engine.history is before


def test_the_picture_is_that_of_edit_and_every_step_is_told(engine, tiny, picture):
    told: list[Doing] = []
    made = engine.make(SETTINGS, told.append)
    result = nmg.edit(tiny(), picture, SOURCE, [TARGET], steps=2, progress=False)
    assert made.edit.tobytes() == result.pictures[0].tobytes()
    assert made.reconstruction.tobytes() == result.reconstruction.tobytes()
    assert [(doing.what, doing.done) for doing in told] == [(INVERTING, i) for i in range(3)] + [
        (WALKING, i) for i in range(3)
    ]
    previews = [doing.preview for doing in told if doing.preview]
    assert len(previews) == 2 and all(shown.size == engine.picture.size for shown in previews)
    assert made.computed == (INVERTING, WALKING) and made.seconds > 0


def test_what_is_worth_a_look(engine):
    made = engine.make(SETTINGS)
    words = [token for token, _ in made.looks]
    assert words == ["a", "red", "cat", "sitting", "in", "the", "forest", "front", "view"]
    assert len(made.distances) == 2 and min(made.distances) > 0
    assert made.region is None
    blended = engine.make(SETTINGS.but(blend=("cat", "cat")))
    assert blended.region.shape == engine.backbone.latent_size(engine.picture.size)
    assert blended.looks is not made.looks and [token for token, _ in blended.looks] == words
    assert engine.make(SETTINGS.but(guidance="direct")).distances == (0.0, 0.0)


def test_without_a_target_the_reconstruction_is_the_picture(engine):
    made = engine.make(SETTINGS.but(target=" "))
    assert made.edit is None and made.picture is made.reconstruction
    turned = engine.make(SETTINGS.but(target="", editor=nmg.Pix2PixZero((["a cat"], ["a dog"]))))
    assert turned.edit is not None


def test_another_inversion_and_size(tiny, picture):
    engine = Engine(tiny(), picture, size=(24, 40), inversion=nmg.EditFriendly())
    told: list[Doing] = []
    made = engine.make(SETTINGS.but(guidance=nmg.CFG(5.0)), told.append)
    assert made.picture.size == (24, 40) == told[-1].preview.size
    options = {"inversion": nmg.EditFriendly(), "guidance": nmg.CFG(5.0), "size": (24, 40), "progress": False}
    result = nmg.edit(tiny(), picture, SOURCE, [TARGET], steps=2, **options)
    assert made.picture.tobytes() == result.pictures[0].tobytes()
    assert "inversion=nmg.EditFriendly(text_scale=3.5)" in code(made.settings, engine, Origin.of(picture))


@pytest.mark.parametrize("phase", [INVERTING, WALKING, FOLLOWING])
def test_a_cancelled_run_leaves_nothing_behind(phase, tiny, picture):
    engine, told, settings = Engine(tiny(), picture), [], SETTINGS.but(steps=4)
    if phase == FOLLOWING:
        engine.make(settings)
        settings = settings.but(target="a red dog sitting in the forest, front view")
    before, kept = processors(engine), len(engine.history)
    with pytest.raises(Cancelled):
        engine.make(settings, told.append, lambda: (told[-1].what, told[-1].done) == (phase, 2))
    assert (told[-1].what, told[-1].done) == (phase, 2)
    assert processors(engine) == before and len(engine.history) == kept
    fresh = Engine(tiny(), picture).make(settings)
    again = engine.make(settings)
    assert np.abs(np.asarray(again.picture, int) - np.asarray(fresh.picture, int)).max() <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"blend": ("cat", "elephant")},
        {"weights": {"elephant": 2.0}},
        {"cross_replace": 2.0},
        {"steps": 0},
        {"guidance": "proximal", "negative": "a dog"},
        {"editor": "masactrl", "start_step": 5},
        {"target": 60 * "cat "},
    ],
    ids=str,
)
def test_errors_are_the_words_of_python(changes, engine, tiny, picture):
    settings = SETTINGS.but(**changes)
    with pytest.raises(ValueError) as said:
        engine.make(settings)
    with pytest.raises(ValueError) as meant:
        options = {
            "guidance": settings.guidance_method,
            "editor": settings.editor_method,
            "negative": settings.negative,
        }
        nmg.edit(tiny(), picture, SOURCE, [settings.target], steps=settings.steps, progress=False, **options)
    assert str(said.value) == str(meant.value)


def test_a_panel_and_a_cell_that_share_a_model_do_not_disturb_each_other(engine, tiny, picture):
    alone = Engine(tiny(), picture).make(SETTINGS).picture
    thread = threading.Thread(target=engine.make, args=(SETTINGS,))
    thread.start()
    result = nmg.edit(tiny(), picture, SOURCE, [TARGET], steps=2, progress=False)
    thread.join(PATIENCE)
    assert engine.history[0].picture.tobytes() == alone.tobytes() == result.pictures[0].tobytes()


# ---------------------------------------------------------------- the thread


@pytest.fixture
def controller(engine):
    with contextlib.closing(Controller(engine, SETTINGS)) as controller:
        yield controller


def test_the_newest_request_wins():
    done, begun = [], threading.Event()

    def work(request, stopped):
        begun.set()
        while request == 0 and not stopped():
            time.sleep(0.001)
        done.append((request, stopped()))

    worker = Worker(work)
    worker.submit(0)
    assert begun.wait(PATIENCE)
    for request in range(1, 31):
        worker.submit(request)
    assert worker.wait(PATIENCE) and not worker.busy
    # Some in between may have been quick enough; the last is done and was not stopped.
    assert done[0] == (0, True) and done[-1] == (30, False)
    worker.close()
    with pytest.raises(RuntimeError, match="closed"):
        worker.submit(1)


def test_a_thread_outlives_what_its_work_raises(capsys):
    def work(request, stopped):
        raise KeyError(request)

    with contextlib.closing(Worker(work)) as worker:
        for request in ("first", "second"):
            worker.submit(request)
            assert worker.wait(PATIENCE)
            assert f"KeyError: '{request}'" in capsys.readouterr().err


def test_cancel_drops_what_waits_and_close_ends_the_thread():
    begun, done = threading.Event(), []

    def work(request, stopped):
        begun.set()
        while not stopped():
            time.sleep(0.001)
        done.append(request)

    worker = Worker(work)
    worker.submit(1)
    assert begun.wait(PATIENCE)
    assert not worker.wait(0.01)
    worker.cancel()
    assert worker.wait(PATIENCE) and done == [1]
    worker.submit(2)
    worker.close()
    assert not worker._thread.is_alive() and not worker.busy


def test_thirty_moves_in_a_row_end_at_the_last(controller, tiny, picture):
    for i in range(30):
        controller.set(noise_map_scale=float(i))
    assert controller.wait(PATIENCE)
    assert controller.result.settings.noise_map_scale == 29 and controller.error is None
    fresh = Engine(tiny(), picture).make(controller.settings)
    assert controller.result.picture.tobytes() == fresh.picture.tobytes()


def test_what_is_wrong_is_told_and_the_last_good_picture_stays(engine):
    told = []
    with contextlib.closing(Controller(engine, SETTINGS, told.append)) as controller:
        controller.run()
        assert controller.wait(PATIENCE)
        good = controller.result
        controller.set(cross_replace=7.0)
        assert controller.wait(PATIENCE)
        assert controller.result is good and isinstance(controller.error, ValueError)
        assert isinstance(told[-1], Failed) and told[-1].words.startswith("ValueError: cross_replace=7.0 is no part")
        controller.go_back(good)
        assert controller.wait(PATIENCE)
        assert controller.result is good and controller.error is None and controller.settings == SETTINGS


# ---------------------------------------------------------------- keeping


@pytest.mark.parametrize(("guidance", "editor"), METHODS)
def test_the_code_makes_the_same_picture(guidance, editor, tiny, picture):
    engine = Engine(tiny(), picture)
    settings = SETTINGS.but(guidance=guidance, editor=editor)
    if isinstance(editor, nmg.MasaCtrl):
        settings = settings.but(start_layer=1)
    made = engine.make(settings)
    names = {"pipe": tiny(), "image": picture}
    exec(code(settings, engine, Origin.of(picture)).replace("size=", "progress=False, size="), names)
    assert names["result"].pictures[0].tobytes() == made.picture.tobytes()


def test_the_code_says_what_it_cannot_write(engine, picture):
    mask = Image.new("L", (16, 16))
    with pytest.raises(ValueError, match="a Image can't be written as code; give a file's path"):
        code(SETTINGS.but(guidance=nmg.NoiseMap(mask=mask)), engine, Origin.of(picture))
    negative = SETTINGS.but(negative='a "bad" picture')
    assert 'negative="a \\"bad\\" picture"' in code(negative, engine, Origin.of(picture))


@pytest.mark.parametrize("given", ["scene", "memory", "file"])
def test_a_saved_picture_is_made_again_by_replay(given, tmp_path):
    pipe, scene = nmg.load("menagerie"), Scene("cat", "orange", "forest", seed=7)
    scene.render().save(tmp_path / "cat.png")
    # Not an example's scene: a picture of it in memory is nameless.
    image = {"scene": spelled(scene), "memory": scene.render(), "file": tmp_path / "cat.png"}[given]
    origin = Origin.of(image)
    engine = Engine(pipe, origin.picture)
    settings = Settings("an orange cat sitting in the forest, front view", "a fox", steps=2)
    made = engine.make(settings.but(guidance=nmg.default_guidance(pipe)))
    paths = save(made, engine, origin, tmp_path / "edit")
    names = ["edit.png"] + ["edit-source.png"] * (given == "memory")
    assert [path.name for path in paths] == names
    assert cli.main(["replay", str(paths[0]), "--out", str(tmp_path / "again.png")]) == 0
    assert Image.open(tmp_path / "again.png").tobytes() == made.picture.tobytes()


def test_nothing_is_overwritten(engine, picture, tmp_path):
    made, origin = engine.make(SETTINGS), Origin.of(picture)
    for name in ("edit.png", "edit-2.png", "edit-3.png"):
        path, source = save(made, engine, origin, tmp_path / "edit.png")
        assert path.name == name and Request.read(path).image == str(source)
    reconstruction = engine.make(SETTINGS.but(target=""))
    assert Request.read(save(reconstruction, engine, origin, tmp_path / "r.png")[0]).row == 0
    with pytest.raises(ValueError, match=r"edit.jpg' can't be written; give the path of a .png file"):
        save(made, engine, origin, tmp_path / "edit.jpg")


# ---------------------------------------------------------------- drawing


def test_small_pictures_are_enlarged_by_whole_pixels(picture):
    shown = looks.enlarged(picture)
    assert shown.size == (5 * 48, 5 * 40)
    assert shown.resize(picture.size, Image.Resampling.NEAREST).tobytes() == picture.tobytes()
    large = Image.new("RGB", (512, 384))
    assert looks.enlarged(large) is large


def test_the_wipe_shows_before_on_the_left_and_after_on_the_right():
    red, blue = (Image.new("RGB", (64, 48), colour) for colour in ("red", "blue"))
    shown = np.asarray(looks.wiped(red, blue, 0.25))
    assert (shown[:, :15, 0] == 255).all() and (shown[:, 18:, 2] == 255).all()
    assert looks.wiped(red, blue, 0).tobytes() == blue.tobytes()
    assert looks.wiped(red, blue, 1).tobytes() == red.tobytes()


def test_the_change_is_where_pictures_differ(picture):
    edited = picture.copy()
    edited.paste((255, 0, 255), (10, 10, 20, 20))
    mask = looks.change(picture, edited)
    assert mask[10:20, 10:20].mean() > 0.9 and mask.sum() <= 100
    assert np.asarray(looks.masked(edited, mask))[15, 15].tolist() == [255, 0, 255]
    assert looks.closeness(picture, picture) == "exact" and looks.closeness(picture, edited).endswith(" dB")
