"""A picture is described as it is edited: its middle, at the model's own size, by the profile's captioner."""

import subprocess
import sys

import pytest
from PIL import Image

from nmg.lab import blip
from nmg.lab.captioning import describe


@pytest.fixture
def seen(monkeypatch) -> list:
    """What BLIP is given instead of a caption by it."""
    seen: list = []

    def caption(picture, name, device):
        seen.append((picture, name, device.type))
        return "a cat"

    monkeypatch.setattr(blip, "caption", caption)
    return seen


def test_only_what_is_edited_is_described(tiny, seen, tmp_path):
    side = 32
    wide = Image.new("RGB", (3 * side, side), "blue")
    wide.paste("red", (side, 0, 2 * side, side))
    wide.save(tmp_path / "photo.png")
    assert describe(tiny(), tmp_path / "photo.png", "some/blip") == "a cat"
    ((picture, name, device),) = seen
    assert picture.tobytes() == Image.new("RGB", (side, side), "red").tobytes()
    assert (name, device) == ("some/blip", "cpu")
    describe(tiny(), wide, size=(96, 32))
    assert seen[-1][0].size == (96, 32) and seen[-1][1] == blip.BLIP


def test_what_can_not_be_described_is_refused_before_a_model_is_fetched(tiny, picture, tmp_path, seen):
    with pytest.raises(FileNotFoundError, match="there is no picture"):
        describe(tiny(), tmp_path / "nothing.png", "nowhere/nothing")
    with pytest.raises(TypeError, match="pass a loaded StableDiffusionPipeline"):
        describe(object(), picture)
    assert not seen


def test_importing_the_module_imports_neither_transformers_nor_diffusers():
    script = "import sys, nmg.lab.captioning; assert not {'transformers', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", script], check=True)
