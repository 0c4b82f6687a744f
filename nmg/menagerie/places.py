"""The six places of Menagerie: backgrounds drawn from a place, a light and held nuisances.

A place draws the same random numbers by day and by night, so that only the light changes
when a scene is moved to the night.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from nmg.menagerie.canvas import PAPER, UNITS, Canvas, Colour, mix, shift

MOON: Colour = (255, 250, 205)
SUN: Colour = (255, 236, 140)
LAMP: Colour = (255, 226, 120)


@dataclass
class Setting:
    """What a place is drawn with: the canvas, its random numbers, the horizon, and the light."""

    canvas: Canvas
    random: np.random.Generator
    horizon: float
    night: bool
    sun_x: float
    hue: float
    value: float

    def colour(self, red: int, green: int, blue: int) -> Colour:
        return shift((red, green, blue), self.hue, self.value)

    def uniform(self, low: float, high: float) -> float:
        return float(self.random.uniform(low, high))

    def sky(self, top: tuple[int, int, int], bottom: tuple[int, int, int]) -> None:
        self.canvas.gradient(self.colour(*top), self.colour(*bottom), self.horizon)
        stars = [(self.uniform(2, 62), self.uniform(2, self.horizon - 10)) for _ in range(7)]
        if self.night:
            for x, y in stars:
                self.canvas.ellipse(x, y, 0.9, 0.9, MOON)
        self.canvas.ellipse(self.sun_x, self.uniform(8, 12), 4.6, 4.6, MOON if self.night else SUN)

    def ground(self, colour: Colour, start: float = 0.0) -> None:
        self.canvas.rectangle(-1, self.horizon + start, UNITS + 1, UNITS + 1, colour)

    def pine(self, x: float, y: float, height: float, needles: Colour, snow: bool = False) -> None:
        self.canvas.rectangle(x - 0.9, y - height * 0.2, x + 0.9, y, self.colour(92, 64, 44))
        for tier in range(3):
            base, width = y - height * (0.15 + 0.26 * tier), height * 0.32 * (1 - 0.22 * tier)
            peak = (x, base - height * 0.42)
            self.canvas.polygon([(x - width, base), (x + width, base), peak], mix(needles, PAPER, 0.06 * tier))
            if snow:
                drift = base - height * 0.2
                self.canvas.polygon([(x - width * 0.55, drift), (x + width * 0.55, drift), peak], (246, 250, 255))


def forest(s: Setting) -> None:
    s.sky((150, 205, 228), (208, 234, 208))
    for i in range(8):
        s.canvas.ellipse(i * 9 + s.uniform(-2, 2), s.horizon - 2, 7, 7 + s.uniform(-1.5, 1.5), s.colour(104, 158, 104))
    s.ground(s.colour(92, 156, 70))
    for middle in (6, 17, 47, 58):
        x, y, height, pine = (
            middle + s.uniform(-4, 4),
            s.horizon + s.uniform(1, 4),
            s.uniform(22, 31),
            s.uniform(0, 1) < 0.6,
        )
        if pine:
            s.pine(x, y, height, s.colour(34, 100, 56))
        else:
            s.canvas.rectangle(x - 1.2, y - 13, x + 1.2, y, s.colour(98, 68, 44))
            for dx, dy in ((-3.4, 1), (3.4, 1), (0, -3)):
                s.canvas.ellipse(x + dx, y - 14 + dy, height * 0.22, height * 0.2, s.colour(52, 130, 58))
    for _ in range(7):
        x, y = s.uniform(0, 64), s.uniform(s.horizon + 6, 63)
        s.canvas.polygon([(x - 1.6, y), (x + 1.6, y), (x, y - 3)], s.colour(64, 126, 52))


def desert(s: Setting) -> None:
    s.sky((120, 188, 232), (252, 226, 180))
    x, width = s.uniform(8, 56), s.uniform(9, 13)
    peak = (x, s.horizon + 1 - width)
    s.canvas.polygon([(x - width, s.horizon + 1), (x + width, s.horizon + 1), peak], s.colour(216, 170, 100))
    s.canvas.polygon([peak, (x + width, s.horizon + 1), (x + width * 0.35, s.horizon + 1)], s.colour(182, 136, 80))
    s.ground(s.colour(236, 196, 120))
    s.canvas.ellipse(s.uniform(5, 25), s.horizon + 6, 26, 7, s.colour(228, 184, 106))
    s.canvas.ellipse(s.uniform(40, 60), s.horizon + 6, 24, 6, s.colour(244, 208, 138))
    s.ground(s.colour(241, 204, 130), 8)
    for left, right in ((4, 13), (51, 60)):
        x, y, height = s.uniform(left, right), s.horizon + s.uniform(4, 8), s.uniform(14, 18)
        green = s.colour(64, 138, 78)
        s.canvas.line([(x, y), (x, y - height)], 3.6, green)
        s.canvas.line([(x, y - height * 0.35), (x - 4.2, y - height * 0.38), (x - 4.2, y - height * 0.7)], 2.2, green)
        s.canvas.line([(x, y - height * 0.5), (x + 4.2, y - height * 0.53), (x + 4.2, y - height * 0.85)], 2.2, green)


def beach(s: Setting) -> None:
    s.sky((74, 166, 238), (192, 230, 248))
    for _ in range(2):
        x, y = s.uniform(6, 58), s.uniform(6, 16)
        for dx in (-3.2, 0, 3.2):
            s.canvas.ellipse(x + dx, y, 3.8, 2.2, (250, 252, 255))
    s.ground(s.colour(34, 124, 198), -5)
    for _ in range(4):
        x, y, width = s.uniform(0, 58), s.uniform(s.horizon - 3, s.horizon + 3), s.uniform(5, 9)
        s.canvas.line([(x, y), (x + width, y)], 0.8, s.colour(130, 192, 232))
    phase = s.uniform(0, 6)
    shore = [(x, s.horizon + 7 + 1.3 * math.sin(x * 0.25 + phase)) for x in np.linspace(-1, 65, 14)]
    s.ground(s.colour(248, 226, 168), 6)
    s.canvas.polygon([(-1, s.horizon + 3), *shore, (65, s.horizon + 3)], s.colour(228, 246, 250))
    s.canvas.polygon(
        [(-1, s.horizon + 2), *((x, y - 1.8) for x, y in shore), (65, s.horizon + 2)], s.colour(64, 164, 216)
    )
    left = s.uniform(0, 1) < 0.5
    x, y, lean = (s.uniform(3, 10) if left else s.uniform(54, 61)), s.horizon + 12, (3 if left else -3)
    s.canvas.line([(x, y), (x + lean * 0.5, y - 12), (x + lean, y - 22)], 2.2, s.colour(142, 100, 60))
    for angle in (-2.9, -2.2, -1.2, -0.3, 0.3, 3.3):
        middle = (x + lean + 5 * math.cos(angle), y - 22 + 4 * math.sin(angle))
        tip = (x + lean + 9 * math.cos(angle), y - 20 + 5 * math.sin(angle))
        s.canvas.line([(x + lean, y - 22), middle, tip], 1.9, s.colour(46, 148, 74))


def snow(s: Setting) -> None:
    s.sky((160, 194, 228), (228, 238, 248))
    for i in range(3):
        x, width, height = 8 + i * 24 + s.uniform(-6, 6), s.uniform(15, 20), s.uniform(17, 24)
        foot, peak = s.horizon + 2, (x, s.horizon - height)
        s.canvas.polygon([(x - width, foot), (x + width, foot), peak], s.colour(136, 154, 188))
        s.canvas.polygon(
            [
                (x - width * 0.4, foot - height * 0.65),
                (x - width * 0.1, foot - height * 0.55),
                (x + width * 0.12, foot - height * 0.68),
                (x + width * 0.4, foot - height * 0.65),
                peak,
            ],
            (250, 252, 255),
        )
    s.ground(s.colour(238, 244, 252))
    s.canvas.ellipse(s.uniform(5, 25), s.horizon + 6, 24, 5, s.colour(224, 234, 248))
    for x in (5, 19, 45, 59):
        s.pine(x + s.uniform(-4, 4), s.horizon + s.uniform(2, 6), s.uniform(14, 20), s.colour(52, 106, 94), snow=True)
    for _ in range(9):
        s.canvas.ellipse(s.uniform(0, 64), s.uniform(0, 64), 0.9, 0.9, (255, 255, 255))


def city(s: Setting) -> None:
    s.sky((142, 174, 208), (228, 224, 214))
    walls = ((152, 112, 102), (122, 130, 148), (178, 162, 138), (106, 118, 126), (162, 130, 112))
    panes = LAMP if s.night else s.colour(210, 228, 240)
    x = -3.0
    while x < UNITS:
        width, height = s.uniform(10, 14), s.uniform(16, 31)
        top, foot = s.horizon + 6 - height, s.horizon + 8
        s.canvas.rectangle(x, top, x + width, foot, s.colour(*walls[s.random.integers(len(walls))]))
        for y in np.arange(top + 2.5, s.horizon + 3, 5):
            for pane in np.arange(x + 1.8, x + width - 2.5, 4):
                if s.uniform(0, 1) < 0.85:
                    s.canvas.rectangle(pane, y, pane + 2, y + 2.6, panes)
        x += width + s.uniform(0, 1)
    s.ground(s.colour(178, 176, 172), 8)
    s.ground(s.colour(94, 96, 102), 12)
    offset = s.uniform(0, 12)
    for i in range(6):
        s.canvas.rectangle(i * 14 - offset, s.horizon + 18.6, i * 14 - offset + 7, s.horizon + 20.6, (240, 232, 190))


def room(s: Setting) -> None:
    walls = ((222, 196, 168), (186, 206, 190), (196, 196, 222), (232, 214, 180))
    wall = s.colour(*walls[s.random.integers(4)])
    floor = s.horizon + 8
    s.canvas.gradient(wall, wall, UNITS)
    for i in range(1, 8):
        s.canvas.rectangle(i * 8, 0, i * 8 + 0.9, floor, mix(wall, PAPER, 0.3))
    window = s.uniform(3, 12) if s.uniform(0, 1) < 0.5 else s.uniform(38, 44)
    s.canvas.rectangle(window - 1.5, 4.5, window + 17.5, 24, PAPER)
    s.canvas.rectangle(window, 6, window + 16, 22.5, (40, 52, 100) if s.night else (142, 204, 242))
    s.canvas.ellipse(window + 11, 11, 2.8, 2.8, MOON if s.night else (240, 248, 250))
    s.canvas.rectangle(window + 7.4, 6, window + 8.6, 23, PAPER)
    s.canvas.rectangle(window, 13.8, window + 16, 15, PAPER)
    x = window + 27 if window < 32 else window - 20
    s.canvas.rectangle(x - 5.4, 7.5, x + 5.4, 20.5, s.colour(112, 74, 46))
    s.canvas.rectangle(
        x - 3.8, 9.2, x + 3.8, 18.8, ((214, 90, 80), (90, 150, 200), (120, 180, 110))[s.random.integers(3)]
    )
    s.canvas.ellipse(x, 14.6, 2.4, 2.4, (250, 230, 150))
    s.canvas.rectangle(-1, floor, 65, 65, s.colour(180, 130, 84))
    s.canvas.rectangle(-1, floor - 1.4, 65, floor + 0.6, (246, 238, 226))
    for i in range(3):
        s.canvas.rectangle(-1, floor + 5 + i * 7, 65, floor + 5.8 + i * 7, s.colour(150, 104, 64))
    rugs = ((170, 64, 70), (64, 110, 150), (80, 130, 90))
    s.canvas.ellipse(32 + s.uniform(-6, 6), 60, 26, 6, s.colour(*rugs[s.random.integers(3)]))


PLACES: dict[str, Callable[[Setting], None]] = {
    "forest": forest,
    "desert": desert,
    "beach": beach,
    "snow": snow,
    "city": city,
    "room": room,
}
