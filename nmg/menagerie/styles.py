"""Global styles of Menagerie: a finished drawing at night, as an oil painting or as a pencil sketch.

Each style maps a float picture [height, width, 3] in 0…1, already at twice its final size, to
another of the same shape. Lengths are in scene units times `unit`, the pixels of one unit.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from PIL import Image, ImageFilter

from nmg.menagerie.places import LAMP, MOON

Picture = np.ndarray


def _filtered(picture: Picture, pillow_filter: ImageFilter.Filter) -> Picture:
    image = Image.fromarray((picture * 255).astype(np.uint8)).filter(pillow_filter)
    return np.asarray(image, np.float32) / 255


def _noise(random: np.random.Generator, cells: tuple[int, int], size: int) -> Picture:
    """Smooth noise in 0…1: `cells` random values, resized to a square of `size` pixels."""
    coarse = Image.fromarray((random.random(cells) * 255).astype(np.uint8))
    return np.asarray(coarse.resize((size, size), Image.Resampling.BICUBIC), np.float32) / 255


def night(picture: Picture, unit: float, random: np.random.Generator) -> Picture:
    """Dim and blue, but for the moon, the stars and the lit windows."""
    grey = picture.mean(-1, keepdims=True)
    dimmed = (0.9 * picture + 0.1 * grey) * np.array([0.42, 0.47, 0.74]) + np.array([0.01, 0.02, 0.06])
    glow = np.zeros_like(grey)
    for lamp in (MOON, LAMP):
        distance = np.abs(picture - np.array(lamp) / 255).max(-1, keepdims=True)
        glow += np.clip(1 - distance * 4.5, 0, 1)
    return dimmed + (picture - dimmed) * np.clip(1.6 * glow, 0, 1)


def oil_painting(picture: Picture, unit: float, random: np.random.Generator) -> Picture:
    """Short strokes that swirl, warm and saturated colours."""
    size = picture.shape[0]
    angle = _noise(random, (12, 12), size) * 9
    rows, columns = np.mgrid[0:size, 0:size]
    rows = np.clip(rows + np.sin(angle) * 0.55 * unit, 0, size - 1).astype(int)
    columns = np.clip(columns + np.cos(angle) * 0.55 * unit, 0, size - 1).astype(int)
    strokes = _filtered(picture[rows, columns], ImageFilter.MedianFilter(max(3, int(1.6 * unit) | 1)))
    grey = strokes.mean(-1, keepdims=True)
    warm = (grey + (strokes - grey) * 1.35) * np.array([1.04, 0.98, 0.80])
    bristles = _noise(random, (22, 9), size)[..., None] - 0.5
    return warm + bristles * 0.16


def pencil_sketch(picture: Picture, unit: float, random: np.random.Generator) -> Picture:
    """Grey edges and shade on cream paper, with a breath of the colour left."""
    grey = picture.mean(-1)
    blurred = _filtered(np.repeat(grey[..., None], 3, -1), ImageFilter.GaussianBlur(1.1 * unit))[..., 0]
    edges = np.clip(grey / (blurred + 0.004), 0, 1) ** 2.6
    paper = edges * (0.80 + 0.2 * grey) - 0.12 * np.clip(0.55 - grey, 0, 1)
    tint = (picture - grey[..., None]) * 0.24
    return paper[..., None] * np.array([0.98, 0.965, 0.93]) + tint


STYLES: dict[str, Callable[[Picture, float, np.random.Generator], Picture]] = {
    "oil painting": oil_painting,
    "pencil sketch": pencil_sketch,
    "at night": night,
}
