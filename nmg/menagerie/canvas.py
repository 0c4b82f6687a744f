"""A supersampled drawing surface in scene units, and the few colour helpers that the renderer needs.

Every scene is 64 units wide and high, whatever its size in pixels. A canvas carries an
origin, a scale and a horizontal direction, so that a figure is drawn once in its own
coordinates and placed, resized or mirrored by the canvas. A stencil is a canvas on which only
some of a figure's parts leave a trace: the mask of those parts.
"""

from __future__ import annotations

import colorsys
import math
from collections.abc import Collection, Sequence
from typing import Any

import numpy as np
from PIL import Image, ImageDraw

Colour = tuple[int, int, int]
Point = tuple[float, float]

UNITS = 64
INK: Colour = (28, 24, 26)
PAPER: Colour = (252, 250, 246)


def mix(first: Colour, second: Colour, amount: float) -> Colour:
    """Blend two colours: `amount` 0 gives the first, 1 the second."""
    red, green, blue = (round(a + (b - a) * amount) for a, b in zip(first, second, strict=True))
    return red, green, blue


def shift(colour: Colour, hue: float = 0.0, value: float = 1.0) -> Colour:
    """Rotate a colour's hue by `hue` turns and multiply its brightness by `value`."""
    h, s, v = colorsys.rgb_to_hsv(*(channel / 255 for channel in colour))
    red, green, blue = (round(255 * c) for c in colorsys.hsv_to_rgb((h + hue) % 1, s, min(1.0, v * value)))
    return red, green, blue


class Canvas:
    """Draws shapes given in scene units on a Pillow image, `image.width / 64` pixels to the unit."""

    def __init__(self, image: Image.Image, x: float = 0.0, y: float = 0.0, scale: float = 1.0, mirrored: bool = False):
        self.image = image
        self.draw = ImageDraw.Draw(image)
        self.pixels = image.width / UNITS
        self.x, self.y, self.scale = x, y, scale
        self.direction = -1 if mirrored else 1
        self.part = "body"

    @classmethod
    def blank(cls, colour: Colour, pixels: int) -> Canvas:
        return cls(Image.new("RGB", (pixels, pixels), colour))

    def paint(self, colour: Colour) -> Any:
        """What a shape of this colour is filled with."""
        return colour

    def point(self, x: float, y: float) -> Point:
        return (self.x + self.direction * x * self.scale) * self.pixels, (self.y + y * self.scale) * self.pixels

    def box(self, x0: float, y0: float, x1: float, y1: float) -> list[float]:
        (a, b), (c, d) = self.point(x0, y0), self.point(x1, y1)
        return [min(a, c), min(b, d), max(a, c), max(b, d)]

    def width(self, units: float) -> int:
        return max(1, round(units * self.scale * self.pixels))

    def rectangle(self, x0: float, y0: float, x1: float, y1: float, fill: Colour, radius: float = 0.0) -> None:
        self.draw.rounded_rectangle(self.box(x0, y0, x1, y1), radius * self.scale * self.pixels, fill=self.paint(fill))

    def ellipse(self, x: float, y: float, rx: float, ry: float, fill: Colour, angle: float = 0.0) -> None:
        if angle == 0.0:
            self.draw.ellipse(self.box(x - rx, y - ry, x + rx, y + ry), fill=self.paint(fill))
            return
        turns = np.linspace(0, 2 * math.pi, 28, endpoint=False)
        c, s = math.cos(angle), math.sin(angle)
        self.polygon(
            [
                (x + rx * math.cos(t) * c - ry * math.sin(t) * s, y + rx * math.cos(t) * s + ry * math.sin(t) * c)
                for t in turns
            ],
            fill,
        )

    def ring(self, x: float, y: float, rx: float, ry: float, width: float, fill: Colour) -> None:
        self.draw.ellipse(self.box(x - rx, y - ry, x + rx, y + ry), outline=self.paint(fill), width=self.width(width))

    def polygon(self, points: Sequence[Point], fill: Colour) -> None:
        self.draw.polygon([self.point(*p) for p in points], fill=self.paint(fill))

    def line(self, points: Sequence[Point], width: float, fill: Colour) -> None:
        """A polyline with round ends."""
        placed = [self.point(*p) for p in points]
        self.draw.line(placed, fill=self.paint(fill), width=self.width(width), joint="curve")
        r = width * self.scale * self.pixels / 2
        for x, y in (placed[0], placed[-1]):
            self.draw.ellipse([x - r, y - r, x + r, y + r], fill=self.paint(fill))

    def arc(
        self, x: float, y: float, rx: float, ry: float, start: float, end: float, width: float, fill: Colour
    ) -> None:
        """Part of an ellipse's outline, from `start` to `end` degrees clockwise from the right."""
        start, end = self._angles(start, end)
        self.draw.arc(
            self.box(x - rx, y - ry, x + rx, y + ry), start, end, fill=self.paint(fill), width=self.width(width)
        )

    def chord(self, x: float, y: float, rx: float, ry: float, start: float, end: float, fill: Colour) -> None:
        start, end = self._angles(start, end)
        self.draw.chord(self.box(x - rx, y - ry, x + rx, y + ry), start, end, fill=self.paint(fill))

    def _angles(self, start: float, end: float) -> tuple[float, float]:
        return (180 - end, 180 - start) if self.direction < 0 else (start, end)

    def gradient(self, top: Colour, bottom: Colour, until: float) -> None:
        """Fill the image with a vertical gradient that ends at height `until`."""
        size = self.image.width
        t = np.clip(np.linspace(0, UNITS, size) / until, 0, 1)[:, None, None]
        rows = np.array(top) * (1 - t) + np.array(bottom) * t
        pixels = np.broadcast_to(rows, (size, size, 3)).astype(np.uint8)
        self.image.paste(Image.fromarray(np.ascontiguousarray(pixels)))


class Stencil(Canvas):
    """A canvas in black on which the parts in `wanted` are white; a part drawn over them is black again."""

    def __init__(self, wanted: Collection[str], pixels: int, x: float, y: float, scale: float, mirrored: bool):
        super().__init__(Image.new("L", (pixels, pixels)), x, y, scale, mirrored)
        self.wanted = wanted

    def paint(self, colour: Colour) -> Any:
        return 255 if self.part in self.wanted else 0
