"""What the panel draws about a picture: pictures by PIL, and HTML and SVG in the colours of the page around them."""

from __future__ import annotations

import base64
import html
import io
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from PIL import Image
from torch import Tensor

from nmg.editors.masactrl import foreground
from nmg.lab import figures
from nmg.lab.presets import SMALL_WORDS

SMALL = 128
"""Pixels up to which a picture is shown crisp, each pixel as a square."""
SIDE, TILE = 512, 128
"""Pixels that a small picture is enlarged to, as the main one and as a tile."""
CHANGED = 0.1
"""Share of the range by which a pixel differs that counts as changed: more than what the VAE alone makes of it."""
DIM = (18, 18, 40)


def is_small(picture: Image.Image) -> bool:
    return max(picture.size) <= SMALL


def enlarged(picture: Image.Image, side: int = SIDE) -> Image.Image:
    """A small picture with every pixel as a square of whole pixels, up to `side`; a large one as it is."""
    if not is_small(picture):
        return picture
    factor = max(1, side // max(picture.size))
    return picture.resize((factor * picture.width, factor * picture.height), Image.Resampling.NEAREST)


def encoded(picture: Image.Image, side: int = SIDE) -> bytes:
    """The bytes of a file: a small picture, enlarged, as PNG, a large one as JPEG."""
    buffer, small = io.BytesIO(), is_small(picture)
    picture = enlarged(picture, side)
    if small:
        picture.save(buffer, "PNG", compress_level=3)
    else:
        picture.convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def change(a: Image.Image, b: Image.Image) -> Bool[np.ndarray, "height width"]:
    """Where two pictures of one size differ by more than `CHANGED` of the range, in any channel."""
    first, second = (np.asarray(picture.convert("RGB"), np.float32) / 255 for picture in (a, b))
    return np.abs(first - second).max(-1) > CHANGED


def masked(picture: Image.Image, mask: Bool[np.ndarray, "height width"] | Tensor) -> Image.Image:
    """A picture that is dark outside of a mask, which may be of another size."""
    grey = Image.fromarray(255 * np.asarray(mask).astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, Image.blend(picture, Image.new("RGB", picture.size, DIM), 0.8), grey)


def attention(picture: Image.Image, maps: Sequence[tuple[str, Tensor]], region: Tensor | None = None) -> str:
    """The source picture under the attention map of each telling token, and under the blend's mask if there is one:
    HTML."""
    telling = [(token, values) for token, values in maps if token.lower() not in SMALL_WORDS]
    tiles = [(token, figures.lit(picture, foreground(values))) for token, values in telling]
    if region is not None:
        tiles.append(("blend mask", masked(picture, region)))
    return tiled([(label, f"where “{label}” looks", tile) for label, tile in tiles], 96)


def changes(source: Image.Image, edit: Image.Image, truth: Image.Image | None = None) -> str:
    """What an edit changed of its source; and what it should have changed, where that is known: HTML."""
    tiles = [("changed", "what the edit changed", masked(edit, change(source, edit)))]
    if truth is not None:
        tiles.append(("should change", "what the edit should change", masked(truth, change(source, truth))))
    return tiled(tiles, 200)


def img(picture: Image.Image, alt: str, side: int = TILE) -> str:
    """A picture in HTML, with its text for those who don't see it."""
    if not is_small(picture):
        picture = picture.copy()
        picture.thumbnail((side, side))
    data = encoded(picture, side)
    kind = "png" if data.startswith(b"\x89PNG") else "jpeg"
    return f'<img src="data:image/{kind};base64,{base64.b64encode(data).decode()}" alt="{html.escape(alt)}">'


def tiled(tiles: Sequence[tuple[str, str, Image.Image]], side: int) -> str:
    """Pictures in rows that fit their place, each with its text and above its label.

    Args:
        side: the least width of one, in pixels.
    """
    figures = (
        f"<figure>{img(picture, alt, 2 * side)}<figcaption>{html.escape(label)}</figcaption></figure>"
        for label, alt, picture in tiles
    )
    return f'<div class="nmg-tiles" style="--nmg-tile: {side}px">{"".join(figures)}</div>'


WIDTH, HEIGHT, LEFT, HEAD, FOOT = 640, 240, 40, 30, 24
"""Of the chart, in its own units."""


def drift(curves: Mapping[str, Sequence[float]]) -> str:
    """The distance of the source row from its noise map after each step, a curve each: SVG."""
    top = max((max(curve) for curve in curves.values() if curve), default=0.0) or 1.0
    low, deep = HEIGHT - FOOT, HEIGHT - FOOT - HEAD
    marks = [
        f'<text x="{LEFT - 6}" y="{low + 4}" text-anchor="end">0</text>',
        f'<text x="{LEFT - 6}" y="{HEAD + 4}" text-anchor="end">{top:.2g}</text>',
        f'<text x="{LEFT}" y="{HEIGHT - 6}">step 1</text>',
        f'<text x="{WIDTH}" y="{HEIGHT - 6}" text-anchor="end">{max(map(len, curves.values()), default=1)}</text>',
        f'<path class="nmg-axis" d="M{LEFT} {HEAD}V{low}H{WIDTH}"/>',
    ]
    for i, (name, curve) in enumerate(curves.items()):
        across, x = (WIDTH - LEFT) / max(1, len(curve) - 1), LEFT + 130 * i
        points = " ".join(f"{LEFT + across * j:.1f},{low - deep * y / top:.1f}" for j, y in enumerate(curve))
        kind = f"nmg-curve{' nmg-other' * bool(i)}"
        marks += [
            f'<polyline class="{kind}" points="{points}"/>',
            f'<path class="{kind}" d="M{x} 10h22"/><text x="{x + 28}" y="14">{html.escape(name)}</text>',
        ]
    said = "; ".join(f"{name}: from {curve[0]:.2g} to {curve[-1]:.2g}" for name, curve in curves.items() if curve)
    label = f"distance from the noise map after each step. {said}"
    return (
        f'<svg class="nmg-chart" role="img" aria-label="{html.escape(label)}" viewBox="0 0 {WIDTH} {HEIGHT}">'
        f"{''.join(marks)}</svg>"
    )
