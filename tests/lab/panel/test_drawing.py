"""What the panel draws about a picture."""

import numpy as np
from PIL import Image

from nmg.lab.panel import drawing


def test_small_pictures_are_enlarged_by_whole_pixels(picture):
    shown = drawing.enlarged(picture)
    assert shown.size == (5 * 48, 5 * 40)
    assert shown.resize(picture.size, Image.Resampling.NEAREST).tobytes() == picture.tobytes()
    large = Image.new("RGB", (512, 384))
    assert drawing.enlarged(large) is large


def test_the_wipe_shows_before_on_the_left_and_after_on_the_right():
    red, blue = (Image.new("RGB", (64, 48), colour) for colour in ("red", "blue"))
    shown = np.asarray(drawing.wiped(red, blue, 0.25))
    assert (shown[:, :15, 0] == 255).all() and (shown[:, 18:, 2] == 255).all()
    assert drawing.wiped(red, blue, 0).tobytes() == blue.tobytes()
    assert drawing.wiped(red, blue, 1).tobytes() == red.tobytes()


def test_the_change_is_where_pictures_differ(picture):
    edited = picture.copy()
    edited.paste((255, 0, 255), (10, 10, 20, 20))
    mask = drawing.change(picture, edited)
    assert mask[10:20, 10:20].mean() > 0.9 and mask.sum() <= 100
    assert np.asarray(drawing.masked(edited, mask))[15, 15].tolist() == [255, 0, 255]
    assert drawing.closeness(picture, picture) == "exact" and drawing.closeness(picture, edited).endswith(" dB")
