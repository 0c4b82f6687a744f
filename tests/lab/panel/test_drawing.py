"""What the panel draws about a picture."""

import base64
import io
import re

import numpy as np
from PIL import Image

from nmg.lab.panel import drawing


def test_small_pictures_are_enlarged_by_whole_pixels(picture):
    shown = drawing.enlarged(picture, 256)
    assert shown.size == (5 * 48, 5 * 40)
    assert shown.resize(picture.size, Image.Resampling.NEAREST).tobytes() == picture.tobytes()
    large = Image.new("RGB", (512, 384))
    assert drawing.enlarged(large) is large
    assert drawing.encoded(large).startswith(b"\xff\xd8") and drawing.encoded(picture).startswith(b"\x89PNG")


def test_the_change_is_where_pictures_differ(picture):
    edited = picture.copy()
    edited.paste((255, 0, 255), (10, 10, 20, 20))
    mask = drawing.change(picture, edited)
    assert mask[10:20, 10:20].mean() > 0.9 and mask.sum() <= 100
    assert np.asarray(drawing.masked(edited, mask))[15, 15].tolist() == [255, 0, 255]


def test_pictures_in_html_have_texts_and_no_more_pixels_than_they_need(picture):
    tag = drawing.img(Image.new("RGB", (900, 600)), 'a "cat" & <dog>', 100)
    assert 'alt="a &quot;cat&quot; &amp; &lt;dog&gt;"' in tag
    data = base64.b64decode(re.search(r"base64,([^\"]+)", tag)[1])
    assert Image.open(io.BytesIO(data)).size == (100, 67)
    tiles = drawing.changes(picture, picture, picture)
    assert tiles.count("<figure>") == 2 and "<figcaption>should change</figcaption>" in tiles


def test_the_drift_is_drawn_to_its_largest_value():
    chart = drawing.drift({"this picture": (0.5, 2.0, 1.0), "text <3>": (1.0, 1.0)})
    points = re.search(r'points="([^"]+)"', chart)[1].split()
    heights = [float(point.split(",")[1]) for point in points]
    low, top = drawing.HEIGHT - drawing.FOOT, drawing.HEAD
    assert heights == [low - 0.25 * (low - top), top, low - 0.5 * (low - top)]
    assert "text &lt;3&gt;" in chart and "this picture: from 0.5 to 1" in chart and "<3>" not in chart
