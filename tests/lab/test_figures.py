import pytest
import torch
from PIL import Image

from nmg import Edit, Editor, Request, Step, Trajectory
from nmg.lab import figures
from nmg.lab.examples import Example
from nmg.levels import diffusion


def saved(figure, tmp_path):
    figures.save(figure, tmp_path / "figure.png")
    with Image.open(tmp_path / "figure.png") as picture:
        return picture.convert("RGB")


def test_a_sheet_shows_every_picture(tmp_path):
    colours = ["red", "lime", "blue"]
    cells = [
        [Image.new("RGB", (32, 32), colour) for colour in colours],
        [None, *(Image.new("RGB", (32, 32), "black"),) * 2],
    ]
    picture = saved(figures.sheet(cells, colours, ["first", "second\nrow"], [["a"] * 3] * 2, "title"), tmp_path)
    counts = {tuple(colour): count for count, colour in picture.getcolors(1 << 24)}
    for colour in ((255, 0, 0), (0, 255, 0), (0, 0, 255), (0, 0, 0)):
        assert counts.get(colour, 0) > 10_000


def test_rows_of_different_lengths_are_an_error():
    with pytest.raises(ValueError, match="one per column"):
        figures.sheet([[None]], ["a", "b"])


def test_curves_and_attention_are_drawn(tmp_path):
    curve = saved(figures.distances({"one": [0.0, 1.0, 2.0], "two": [2.0, 1.0, 0.0]}), tmp_path)
    assert len(curve.getcolors(1 << 24)) > 50
    maps = torch.zeros(2, 4, 4)
    maps[0, :, 0] = maps[1, :, 3] = 1
    laid = saved(figures.attention(Image.new("RGB", (64, 64), "white"), maps, ["left", "right"]), tmp_path)
    assert laid.width > laid.height


def test_an_edit_stands_beside_its_truth(tmp_path):
    black = Image.new("RGB", (64, 64))
    trajectory = Trajectory(
        torch.zeros(2, 4, 8, 8),
        (diffusion(1.0), diffusion(0.5)),
        (Step(0, 1, diffusion(0.5), diffusion(1.0)),),
        "a",
        "none",
    )
    pictures = {"source": black, "reconstruction": black, "pictures": [black]}
    found = {
        "latents": torch.zeros(2, 4, 8, 8),
        "trajectory": trajectory,
        "drift": 0.0,
        "plain_drift": None,
        "replayed": False,
    }
    result = Edit(**pictures, **found, request=Request())
    with_truth = figures.edited(Example(black, "a", "b", Editor(), black), result)
    without = figures.edited(Example(black, "a", "b", Editor()), result)
    assert with_truth.get_figwidth() > without.get_figwidth()
    shown = figures.show(without)
    assert shown.data[:2] == b"\xff\xd8"
