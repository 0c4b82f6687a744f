"""What the panel draws about a picture, by PIL and numpy alone: no pyplot, so that any thread may draw."""

from __future__ import annotations

import io
import math
from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Bool
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from nmg import images
from nmg.editors.masactrl import foreground
from nmg.lab import figures, metrics

SMALL = 128
"""Pixels up to which a picture is shown crisp, each pixel as a square."""
SIDE, WIPE_SIDE = 256, 384
"""Pixels that a small picture is enlarged to, in the row and under the wipe."""
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


def encoded(picture: Image.Image, format: str) -> bytes:
    """The bytes of a "png" or "jpeg"."""
    buffer = io.BytesIO()
    if format == "png":
        picture.save(buffer, "PNG", compress_level=3)
    else:
        picture.convert("RGB").save(buffer, "JPEG", quality=90)
    return buffer.getvalue()


def wiped(before: Image.Image, after: Image.Image, share: float) -> Image.Image:
    """`before` left of a line at a share of the width, and `after` right of it."""
    shown = after.copy()
    x = round(share * after.width)
    shown.paste(before.crop((0, 0, x, before.height)), (0, 0))
    if 0 < x < after.width:
        ImageDraw.Draw(shown).line([(x, 0), (x, after.height)], fill="white", width=max(1, after.width // 256))
    return shown


def change(a: Image.Image, b: Image.Image) -> Bool[np.ndarray, "height width"]:
    """Where two pictures of one size differ by more than `CHANGED` of the range, in any channel."""
    first, second = (np.asarray(picture.convert("RGB"), np.float32) / 255 for picture in (a, b))
    return np.abs(first - second).max(-1) > CHANGED


def masked(picture: Image.Image, mask: Bool[np.ndarray, "height width"] | Tensor) -> Image.Image:
    """A picture that is dark outside of a mask, which may be of another size."""
    grey = Image.fromarray(255 * np.asarray(mask).astype(np.uint8)).resize(picture.size, Image.Resampling.NEAREST)
    return Image.composite(picture, Image.blend(picture, Image.new("RGB", picture.size, DIM), 0.8), grey)


def attention(
    picture: Image.Image, maps: Sequence[tuple[str, Tensor]], region: Tensor | None = None, side: int = 120
) -> Image.Image:
    """The source picture under the attention map of each token, and under the blend's mask if there is one."""
    tiles = [(token, figures.lit(picture, foreground(values))) for token, values in maps]
    if region is not None:
        tiles.append(("blend mask", masked(picture, region)))
    return tiled(tiles, side)


def changes(source: Image.Image, edit: Image.Image, truth: Image.Image | None = None) -> Image.Image:
    """What an edit changed of its source; and what it should have changed, where that is known."""
    tiles = [("changed", masked(edit, change(source, edit)))]
    if truth is not None:
        tiles.append(("should change", masked(truth, change(source, truth))))
    return tiled([(label, enlarged(tile)) for label, tile in tiles], SIDE)


def drift(curves: Mapping[str, Sequence[float]]) -> Image.Image:
    """The curves of `figures.distances`."""
    figure = figures.distances(dict(curves))
    # Steps are whole.
    figure.axes[0].locator_params(axis="x", integer=True)
    buffer = io.BytesIO()
    figure.savefig(buffer, format="png", dpi=120, pil_kwargs={"compress_level": 1})
    return Image.open(buffer)


def closeness(a: Image.Image, b: Image.Image) -> str:
    """PSNR of two pictures, in words."""
    value = metrics.psnr(images.to_tensor(a), images.to_tensor(b)).item()
    return "exact" if math.isinf(value) else f"{value:.1f} dB"


def tiled(tiles: Sequence[tuple[str, Image.Image]], side: int = 120, columns: int = 8) -> Image.Image:
    """Pictures of one shape in rows, each under its label."""
    gap, head = 6, 20
    height = round(side * tiles[0][1].height / tiles[0][1].width) if tiles else 0
    rows = math.ceil(len(tiles) / columns)
    size = (min(columns, max(1, len(tiles))) * (side + gap) - gap, max(1, rows * (height + head + gap) - gap))
    sheet, font = Image.new("RGB", size, "white"), ImageFont.load_default(13)
    draw = ImageDraw.Draw(sheet)
    for i, (label, tile) in enumerate(tiles):
        x, y = i % columns * (side + gap), i // columns * (height + head + gap)
        draw.text((x + side / 2, y + head / 2), label, fill=(40, 40, 40), font=font, anchor="mm")
        sheet.paste(tile.resize((side, height), Image.Resampling.BICUBIC), (x, y + head))
    return sheet
