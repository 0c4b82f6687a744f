import dataclasses

import numpy as np
import pytest
from PIL import Image

from nmg.lab.bench.groups import gather
from nmg.lab.bench.sheets import _change, _spread, sheet
from tests.lab.bench.made import only, record


def test_a_sheet_shows_the_pictures_of_the_methods_that_are_named(folder):
    group = only(gather(folder))
    everything, one = sheet(group, folder), sheet(group, folder, ["NMG"], columns=2)
    assert len(everything.axes) == 16 and len(one.axes) == 2
    with Image.open(folder / "8.png") as picture:
        np.testing.assert_array_equal(one.axes[0].images[0].get_array(), np.asarray(picture))
    truth = {("colour change", "0"): Image.new("RGB", (16, 16), "lime")}
    assert len(sheet(group, folder, ["NMG"], columns=2, truths=truth).axes) == 3
    assert sheet(group, folder / "elsewhere") is None


def test_a_sheet_prefers_whole_items_and_names_a_picture_that_is_missing(folder):
    found = gather(folder)
    lost = [dataclasses.replace(r, pictures={}) if (r.method, r.item) == ("NMG", found[0].item) else r for r in found]

    def words(figure):
        return [text.get_text() for text in figure.texts]

    one, every = (sheet(only(lost), folder, columns=n) for n in (1, 9))
    assert len(one.axes) == len(only(found).rows) and "no picture" not in words(one)
    assert words(every).count("no picture") == 1


def test_a_sheet_takes_every_task_before_a_second_item():
    items = [("a", "0"), ("a", "1"), ("a", "2"), ("b", "0")]
    assert _spread(items, 3) == [("a", "0"), ("a", "1"), ("b", "0")]


@pytest.mark.parametrize(
    ("source", "target", "change"),
    [
        ("a red cat in the forest", "a blue cat in the forest", "red → blue"),
        ("a cat, asleep", "a cat, asleep, oil painting", "+ oil painting"),
        ("a cat", "a cat", ""),
    ],
)
def test_what_an_edit_changes_is_named(source, target, change):
    assert _change(record(source=source, target=target)) == change
