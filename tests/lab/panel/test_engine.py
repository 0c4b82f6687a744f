"""Only what has changed is computed, every step is told, and a cancelled run leaves nothing behind."""

import dataclasses
import threading

import numpy as np
import pytest

import nmg
from nmg.lab.panel import Cancelled, Desk, Doing, Engine
from nmg.lab.panel.engine import INVERTING, KNOWN, REPLAYING, SAMPLING
from tests import families
from tests.conftest import SOURCE, TARGET
from tests.lab.panel.conftest import PATIENCE, REQUEST, changed

DOG = "a red dog sitting in the forest, front view"


def processors(engine: Engine) -> list[type]:
    return [type(processor) for processor in engine.backbone.unet.attn_processors.values()]


def test_only_what_changed_is_computed_again(engine):
    told: list[Doing] = []
    desk = Desk.of(REQUEST)

    def computed(**changes):
        nonlocal desk
        told.clear()
        desk = desk.turned(**changes)
        engine.make(desk.request, told.append)
        return tuple(dict.fromkeys(doing.what for doing in told))

    assert computed() == (INVERTING, SAMPLING)
    assert computed(target=DOG) == (REPLAYING,)
    assert computed(blend=("cat", "dog")) == (REPLAYING,)
    assert computed(editor="masactrl", start_step=0) == (REPLAYING,)
    assert computed(noise_map_scale=3.0) == (SAMPLING,)
    assert computed(amount=0.3) == (KNOWN,)
    assert computed(guidance="direct") == (SAMPLING,)
    assert computed(steps=3) == (INVERTING, SAMPLING)
    assert computed(source=TARGET) == (INVERTING, SAMPLING)
    assert computed(source=SOURCE, steps=2, target="a cat") == (REPLAYING,)
    before = engine.history
    assert computed(target=DOG) == (KNOWN,) and engine.history is before


def test_the_picture_is_that_of_edit_and_every_step_is_told(engine, tiny, picture):
    told: list[Doing] = []
    made = engine.make(REQUEST, told.append)
    result = nmg.edit(tiny(), picture, SOURCE, [TARGET], steps=2, progress=False)
    assert made.edit.tobytes() == result.pictures[0].tobytes()
    assert made.reconstruction.tobytes() == result.reconstruction.tobytes()
    expected = [(what, i) for what in (INVERTING, SAMPLING) for i in range(3)]
    assert [(doing.what, doing.done) for doing in told] == expected
    previews = [doing.preview for doing in told if doing.preview]
    assert len(previews) == 2 and all(shown.size == engine.picture.size for shown in previews)
    assert made.computed == (INVERTING, SAMPLING) and made.seconds > 0


def test_what_is_interesting_about_a_picture(engine):
    made = engine.make(REQUEST)
    words = [token for token, _ in made.attention]
    assert words == [word.strip(",") for word in SOURCE.split()]
    assert len(made.drift) == 2 and min(made.drift) > 0
    assert made.region is None
    blended = engine.make(changed(blend=("cat", "cat")))
    assert blended.region.shape == engine.backbone.latent_size(engine.picture.size)
    assert [token for token, _ in blended.attention] == words
    assert engine.make(changed(guidance="direct")).drift == (0.0, 0.0)


def test_without_a_target_the_reconstruction_is_the_picture(engine):
    made = engine.make(changed(target=" "))
    assert made.edit is None and made.picture is made.reconstruction
    turned = engine.make(changed(target="", editor=nmg.Pix2PixZero((["a cat"], ["a dog"]))))
    assert turned.edit is not None


def test_another_inversion_and_size(tiny, picture):
    engine = Engine(tiny(), picture, size=(24, 40))
    told: list[Doing] = []
    made = engine.make(changed(guidance=nmg.CFG(5.0), inversion=nmg.EditFriendly()), told.append)
    assert made.picture.size == (24, 40) == told[-1].preview.size
    options = {"inversion": nmg.EditFriendly(), "guidance": nmg.CFG(5.0), "size": (24, 40), "progress": False}
    result = nmg.edit(tiny(), picture, SOURCE, [TARGET], steps=2, **options)
    assert made.picture.tobytes() == result.pictures[0].tobytes()


@pytest.mark.parametrize("phase", [INVERTING, SAMPLING, REPLAYING])
def test_a_cancelled_run_leaves_nothing_behind(phase, tiny, picture):
    engine, told, request = Engine(tiny(), picture), [], changed(steps=3)
    if phase == REPLAYING:
        engine.make(request)
        request = changed(steps=3, target=DOG)
    before, kept = processors(engine), len(engine.history)
    with pytest.raises(Cancelled):
        engine.make(request, told.append, lambda: (told[-1].what, told[-1].done) == (phase, 2))
    assert (told[-1].what, told[-1].done) == (phase, 2)
    assert processors(engine) == before and len(engine.history) == kept
    fresh = Engine(tiny(), picture).make(request)
    again = engine.make(request)
    assert np.abs(np.asarray(again.picture, int) - np.asarray(fresh.picture, int)).max() <= 1


@pytest.mark.parametrize(
    "changes",
    [
        {"blend": ("cat", "elephant")},
        {"weights": {"elephant": 2.0}},
        {"steps": 0},
        {"guidance": "proximal", "negative": "a dog"},
        {"editor": "masactrl", "start_step": 5},
        {"target": 60 * "cat "},
    ],
    ids=str,
)
def test_errors_are_the_words_of_edit(changes, engine, tiny, picture):
    asked = changed(**changes)
    with pytest.raises(ValueError) as said:
        engine.make(asked)
    with pytest.raises(ValueError) as meant:
        options = {"guidance": asked.guidance, "editor": asked.editor, "negative": asked.negative}
        nmg.edit(tiny(), picture, SOURCE, asked.targets, steps=asked.steps, progress=False, **options)
    assert str(said.value) == str(meant.value)


def test_a_panel_and_a_cell_that_share_a_model_do_not_disturb_each_other(engine, tiny, picture):
    alone = Engine(tiny(), picture).make(REQUEST).picture
    thread = threading.Thread(target=engine.make, args=(REQUEST,))
    thread.start()
    result = nmg.edit(tiny(), picture, SOURCE, [TARGET], steps=2, progress=False)
    thread.join(PATIENCE)
    assert engine.history[0].picture.tobytes() == alone.tobytes() == result.pictures[0].tobytes()


@pytest.mark.parametrize(
    "family", [families.sdxl, families.sd3, families.qwen, families.flux], ids=lambda family: family.__name__
)
def test_other_families_are_edited_and_show_words_where_they_have_maps(family, picture):
    pipe = family()
    made = Engine(pipe, picture).make(dataclasses.replace(REQUEST, guidance=nmg.Direct(3.0)))
    assert made.edit.tobytes() != made.reconstruction.tobytes()
    assert bool(made.attention) == nmg.Backbone(pipe).has_word_maps
