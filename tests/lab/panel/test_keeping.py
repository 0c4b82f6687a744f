"""A picture is kept as the call that makes it, and as a PNG that is made again."""

import pytest
from PIL import Image

import nmg
from nmg.lab import cli
from nmg.lab.panel import Engine, Origin, code, save
from nmg.lab.panel.origin import spelled
from nmg.lab.profile import MENAGERIE
from nmg.menagerie import Scene, caption
from nmg.request import Request
from tests.lab.panel.conftest import METHODS, REQUEST, changed


@pytest.mark.parametrize(("guidance", "editor"), METHODS)
def test_the_code_makes_the_same_picture(guidance, editor, engine, tiny, picture):
    request = changed(guidance=guidance, editor=editor)
    made = engine.make(request)
    names = {"pipe": tiny(), "image": picture}
    exec(code(request, engine, Origin.of(picture)).replace("size=", "progress=False, size="), names)
    assert names["result"].pictures[0].tobytes() == made.picture.tobytes()


def test_the_code_says_what_was_turned_and_what_it_can_not_write(engine, picture):
    origin = Origin.of(picture)
    written = code(changed(negative='a "bad" picture', inversion=nmg.EditFriendly()), engine, origin)
    assert 'negative="a \\"bad\\" picture"' in written and "inversion=nmg.EditFriendly(text_scale=3.5)" in written
    for shown in ("gradient_scale=5000.0", "cross_replace=0.8", f"size={engine.picture.size}"):
        assert shown in written.replace("\n", " ") or shown.split(", ")[0] in written
    masked = code(changed(guidance=nmg.NoiseMap(mask=Image.new("L", (16, 16)))), engine, origin)
    assert 'mask="guard.png"' in masked and "# guard.png: the mask, as the panel saves it" in masked


@pytest.mark.parametrize("given", ["scene", "memory", "file"])
def test_a_saved_picture_is_made_again_by_replay(given, tmp_path):
    pipe, scene = nmg.load("menagerie"), Scene("cat", "orange", "forest", seed=7)
    scene.render().save(tmp_path / "cat.png")
    # Not an example's scene: a picture of it in memory is nameless.
    image = {"scene": spelled(scene), "memory": scene.render(), "file": tmp_path / "cat.png"}[given]
    origin = Origin.of(image)
    engine = Engine(pipe, origin.picture)
    asked = Request("", caption(scene), ("a fox",), None, MENAGERIE.guidance(), nmg.PromptToPrompt(), None, 1)
    made = engine.make(asked)
    paths = save(made, engine, origin, tmp_path / "edit")
    names = ["edit.png"] + ["edit-source.png"] * (given == "memory")
    assert [path.name for path in paths] == names
    assert cli.main(["replay", str(paths[0]), "--out", str(tmp_path / "again.png")]) == 0
    assert Image.open(tmp_path / "again.png").tobytes() == made.picture.tobytes()


def test_nothing_is_overwritten(engine, picture, tmp_path):
    made, origin = engine.make(REQUEST), Origin.of(picture)
    for name in ("edit.png", "edit-2.png"):
        path, source = save(made, engine, origin, tmp_path / "edit.png")
        assert path.name == name and Request.read(path).image == str(source)
    reconstruction = engine.make(changed(target=""))
    assert Request.read(save(reconstruction, engine, origin, tmp_path / "r.png")[0]).row == 0
    with pytest.raises(ValueError, match=r"edit.jpg' can't be written; give the path of a .png file"):
        save(made, engine, origin, tmp_path / "edit.jpg")
