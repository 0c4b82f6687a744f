"""The figures of Menagerie: six animals and a car, front and side, in three poses.

A figure is drawn in its own coordinates: the origin is the ground below its middle, y grows
downwards, and the side view looks to the right (a mirrored canvas turns it to the left). Heads are
large, so that a face can be read in a small picture.
"""

from __future__ import annotations

from dataclasses import dataclass

from nmg.menagerie.canvas import INK, PAPER, Canvas, Colour, mix

PINK: Colour = (246, 164, 176)
FRAME: Colour = (26, 24, 64)


@dataclass(frozen=True)
class Look:
    """One figure's visible factors and the shades of its colour."""

    kind: str
    colour: Colour
    mouth: str
    glasses: bool
    pose: str
    side: bool

    @property
    def dark(self) -> Colour:
        return mix(self.colour, INK, 0.34)

    @property
    def light(self) -> Colour:
        return mix(self.colour, PAPER, 0.62) if sum(self.colour) < 640 else (232, 222, 214)

    @property
    def paw(self) -> Colour:
        return INK if self.kind == "fox" else self.light


def draw(canvas: Canvas, look: Look) -> None:
    """Draw the figure on `canvas`, whose origin is its place on the ground."""
    if look.kind == "car":
        (_car_side if look.side else _car_front)(canvas, look)
    else:
        (_body_side if look.side else _body_front)(canvas, look)


def _leg(c: Canvas, x0: float, y0: float, x1: float, y1: float, width: float, colour: Colour, paw: Colour) -> None:
    c.line([(x0, y0), (x1, y1)], width, colour)
    c.ellipse(x1, y1, width * 0.64, width * 0.5, paw)


def _stripes(c: Canvas, look: Look, bars: list[tuple[float, float, float, float]]) -> None:
    """Tiger stripes: triangles at (x, y) with half width and height."""
    if look.kind == "tiger":
        for x, y, width, height in bars:
            c.polygon([(x - width - 0.5, y), (x + width + 0.5, y), (x, y + height)], INK)


def _tail(c: Canvas, look: Look, x: float, y: float, d: float) -> None:
    if look.kind == "rabbit":
        c.ellipse(x + d * 1.5, y, 3.6, 3.4, PAPER if sum(look.colour) < 640 else (226, 222, 220))
    elif look.kind == "bear":
        c.ellipse(x + d, y, 2.6, 2.4, look.dark)
    elif look.kind == "dog":
        c.line([(x, y), (x + d * 4, y - 3), (x + d * 5.4, y - 8)], 3.2, look.dark)
    elif look.kind == "fox":
        c.ellipse(x + d * 6, y - 4, 8.4, 4.6, look.colour, angle=-0.7 * d)
        c.ellipse(x + d * 10.4, y - 7.8, 3.6, 3.4, PAPER)
    else:
        curve = [(x, y), (x + d * 5, y - 1), (x + d * 8, y - 5), (x + d * 7.4, y - 11), (x + d * 9, y - 14)]
        c.line(curve, 3.2, look.colour)
        c.ellipse(*curve[-1], 1.8, 1.8, INK if look.kind == "tiger" else look.dark)


def _body_front(c: Canvas, look: Look) -> None:
    colour, dark, light, paw = look.colour, look.dark, look.light, look.paw
    if look.pose == "standing":
        _tail(c, look, 6, -9, 1)
        for e in (-1, 1):
            _leg(c, e * 7.4, -11, e * 8, -2, 5, dark, paw)
        c.ellipse(0, -13, 10.4, 9.6, colour)
        c.ellipse(0, -11.4, 6, 7, light)
        _stripes(c, look, [(-9, -17, 0.6, 4), (9, -17, 0.6, 4)])
        for e in (-1, 1):
            _leg(c, e * 4, -9, e * 4.2, -1.6, 5.2, colour, paw)
        _head(c, look, 0, -27)
    elif look.pose == "sitting":
        _tail(c, look, 10, -5, 1)
        for e in (-1, 1):
            c.ellipse(e * 8.6, -5.4, 5.6, 5.6, colour)
            c.ellipse(e * 9.4, -2, 4.4, 2.4, paw)
        c.ellipse(0, -9.4, 10, 9.6, colour)
        c.ellipse(0, -8.6, 5.6, 7.4, light)
        _stripes(c, look, [(-8.8, -12, 0.6, 4), (8.8, -12, 0.6, 4)])
        for e in (-1, 1):
            _leg(c, e * 3, -9, e * 3.2, -1.6, 4.6, colour, paw)
        _head(c, look, 0, -23)
    else:
        up = -9
        _tail(c, look, 8, up - 5, 1)
        for e in (-1, 1):
            _leg(c, e * 6, up - 5, e * 11, up + 2, 5, colour, paw)
            _leg(c, e * 7, up - 14, e * 15.4, up - 17.4, 4.8, colour, paw)
        c.ellipse(0, up - 9.4, 9.4, 9.6, colour)
        c.ellipse(0, up - 8, 5.4, 6.8, light)
        _stripes(c, look, [(-8.2, up - 12, 0.6, 4), (8.2, up - 12, 0.6, 4)])
        _head(c, look, 0, up - 22.5)


def _body_side(c: Canvas, look: Look) -> None:
    colour, dark, light, paw = look.colour, look.dark, look.light, look.paw
    if look.pose == "standing":
        _tail(c, look, -15, -17, -1)
        _leg(c, -8, -12, -8.5, -2, 4.8, dark, paw)
        _leg(c, 10, -12, 10.5, -2, 4.8, dark, paw)
        c.ellipse(-1, -15.5, 16, 8.4, colour)
        c.ellipse(-1, -11.6, 11, 3.8, light)
        _stripes(c, look, [(-11, -21.5, 0.5, 6), (-6, -23.4, 0.5, 6.4), (-1, -23.8, 0.5, 6.2)])
        _leg(c, -12, -12, -12.5, -1.6, 5.2, colour, paw)
        _leg(c, 6, -12, 6, -1.6, 5.2, colour, paw)
        _head(c, look, 11, -25)
    elif look.pose == "sitting":
        _tail(c, look, -11, -5, -1)
        c.ellipse(-1, -12, 8.2, 12.5, colour, angle=0.42)
        c.ellipse(-6, -7, 8, 7.2, colour)
        c.ellipse(-5.6, -6.2, 5.2, 4.8, dark)
        c.ellipse(-4, -1.7, 5.4, 2.4, paw)
        _stripes(c, look, [(-9.4, -17.5, 0.6, 5), (-5.6, -21, 0.6, 5)])
        _leg(c, 4, -14, 4, -1.8, 4.6, dark, paw)
        _leg(c, 6.4, -14, 7, -1.8, 4.8, colour, paw)
        c.ellipse(5, -15, 4, 5, light)
        _head(c, look, 6, -27)
    else:
        up = -8
        _tail(c, look, -13, up - 6, -1)
        _leg(c, -8, up - 7, -16, up + 1.5, 4.8, dark, paw)
        _leg(c, 7, up - 13, 16.5, up - 9, 4.8, dark, paw)
        c.ellipse(-1, up - 11, 15.5, 8.2, colour, angle=-0.36)
        c.ellipse(0, up - 7.8, 10, 3.4, light, angle=-0.36)
        _stripes(c, look, [(-11, up - 13.5, 0.6, 5.6), (-6.4, up - 16.8, 0.6, 6), (-2, up - 18.8, 0.6, 5.6)])
        _leg(c, -11, up - 5, -17.5, up - 3.5, 5, colour, paw)
        _leg(c, 5, up - 11, 13, up - 4.5, 5, colour, paw)
        _head(c, look, 10.5, up - 22)


def _ears(c: Canvas, look: Look, x: float, y: float) -> None:
    for e in (-1, 0.25) if look.side else (-1, 1):
        if look.kind == "cat":
            c.polygon([(x + e * 12, y - 3), (x + e * 3, y - 9), (x + e * 11.2, y - 18)], look.colour)
            c.polygon([(x + e * 10.4, y - 6), (x + e * 5.6, y - 9), (x + e * 10, y - 14.5)], PINK)
        elif look.kind == "fox":
            c.polygon([(x + e * 13, y - 2), (x + e * 2.5, y - 8), (x + e * 10.5, y - 20)], look.colour)
            c.polygon([(x + e * 11.6, y - 12), (x + e * 7.6, y - 13.8), (x + e * 10.5, y - 20)], INK)
        elif look.kind == "rabbit":
            c.ellipse(x + e * 5.4, y - 15.4, 3.8, 8.6, look.colour, angle=e * 0.14)
            c.ellipse(x + e * 5.4, y - 15, 1.9, 6.2, PINK, angle=e * 0.14)
        elif look.kind in ("tiger", "bear"):
            c.ellipse(x + e * 9.4, y - 9, 5, 5, look.colour if look.kind == "bear" else look.dark)
            c.ellipse(x + e * 9.4, y - 8.6, 2.7, 2.7, look.light)


def _coat(c: Canvas, look: Look, x: float, y: float, turn: float) -> None:
    """What tells the kinds apart on the face: muzzle, stripes, drooping ears."""
    if look.kind == "fox" and look.side:
        c.polygon([(x - 1, y + 1), (x + 12.6, y - 2), (x + 15.5, y + 5), (x + 5, y + 11)], PAPER)
    elif look.kind == "fox":
        c.polygon(
            [
                (x - 12.6, y + 2),
                (x - 4, y + 1),
                (x, y - 3),
                (x + 4, y + 1),
                (x + 12.6, y + 2),
                (x + 5, y + 10.4),
                (x, y + 11.4),
                (x - 5, y + 10.4),
            ],
            PAPER,
        )
    elif look.kind in ("dog", "bear", "tiger"):
        c.ellipse(x + turn * 1.2, y + 5, 7, 5.6, look.light)
    else:
        for e in (-1, 1):
            c.ellipse(x + turn * 1.2 + e * 2.7, y + 5.2, 3.7, 3.2, look.light)
    if look.kind == "tiger":
        for dx in (-4, 0, 4):
            c.polygon(
                [
                    (x + dx - 1.3, y - 11 + abs(dx) * 0.25),
                    (x + dx + 1.3, y - 11 + abs(dx) * 0.25),
                    (x + dx * 0.7, y - 5.2),
                ],
                INK,
            )
        for e in (-1,) if look.side else (-1, 1):
            for dy in (-1, 3.4):
                c.polygon([(x + e * 13, y + dy - 1.3), (x + e * 12.6, y + dy + 1.6), (x + e * 7.6, y + dy + 0.4)], INK)
    elif look.kind == "rabbit":
        for e in (-1, 1):
            c.ellipse(x + turn + e * 9, y + 4, 2.4, 1.7, PINK)
    elif look.kind == "dog":
        for e in (-1,) if look.side else (-1, 1):
            c.ellipse(x + e * 12.2, y - 0.5, 4.4, 9.6, look.dark, angle=-e * 0.22)


def _head(c: Canvas, look: Look, x: float, y: float) -> None:
    c.part = "head"
    turn = 3.2 if look.side else 0.0
    _ears(c, look, x, y)
    c.ellipse(x, y, 13, 11.2, look.colour)
    _coat(c, look, x, y, turn)
    eyes, nose = x + turn, x + turn * 1.5

    for e in (-1, 1):
        c.ellipse(eyes + e * 5.1, y - 1.6, 2.9, 3.3, PAPER)
        c.ellipse(eyes + e * 5.1 + (0.7 if look.side else 0), y - 1.3, 1.9, 2.4, INK)
        c.ellipse(eyes + e * 5.1 - 0.6, y - 2.3, 0.8, 0.8, PAPER)
    if look.kind in ("dog", "bear", "fox"):
        c.ellipse(nose + (2.4 if look.kind == "fox" and look.side else 0), y + 2.6, 2.5, 1.8, INK)
    else:
        c.polygon([(nose - 2.1, y + 1.8), (nose + 2.1, y + 1.8), (nose, y + 4.2)], (226, 96, 116))
    _mouth(c, look.mouth, eyes, nose, y + 5.6)
    if look.glasses:
        for e in (-1, 1):
            c.ring(eyes + e * 5.1, y - 1.6, 4.6, 4.6, 1.5, FRAME)
        c.line([(eyes - 1.2, y - 2), (eyes + 1.2, y - 2)], 1.4, FRAME)
        c.line([(eyes - 9.4, y - 2.2), (x - 12.4, y - 3)], 1.3, FRAME)
        if not look.side:
            c.line([(eyes + 9.4, y - 2.2), (x + 12.4, y - 3)], 1.3, FRAME)


def _mouth(c: Canvas, mouth: str, eyes: float, x: float, y: float) -> None:
    if mouth == "smiling":
        c.chord(x, y - 0.2, 5, 5, 4, 176, (124, 24, 36))
        c.chord(x, y + 2.3, 2.6, 2.3, 10, 170, (242, 106, 116))
    elif mouth == "frowning":
        c.arc(x, y + 4.4, 4.4, 3.8, 196, 344, 1.7, INK)
        for e in (-1, 1):
            c.line([(eyes + e * 8.2, y - 13), (eyes + e * 2.4, y - 10)], 1.8, INK)
    else:
        c.line([(x - 2.4, y + 1.6), (x + 2.4, y + 1.6)], 1.3, INK)


def _car_front(c: Canvas, look: Look) -> None:
    up = -9 if look.pose == "jumping" else 0
    for e in (-1, 1):
        c.rectangle(e * 13 - 3.4, up - 7, e * 13 + 3.4, up, INK, radius=1.4)
    c.polygon([(-12.5, up - 16), (-9, up - 27), (9, up - 27), (12.5, up - 16)], look.dark)
    c.polygon([(-10.2, up - 16.5), (-7.6, up - 25.2), (7.6, up - 25.2), (10.2, up - 16.5)], (188, 222, 242))
    c.rectangle(-17, up - 17.5, 17, up - 4, look.colour, radius=3.4)
    for e in (-1, 1):
        c.ellipse(e * 12, up - 12, 3.1, 3.1, (255, 246, 190))
    c.rectangle(-6, up - 13.6, 6, up - 9.2, INK, radius=1)
    c.rectangle(-17, up - 6.6, 17, up - 4.4, (192, 194, 198))


def _car_side(c: Canvas, look: Look) -> None:
    up = -9 if look.pose == "jumping" else 0
    glass = (188, 222, 242)
    c.polygon([(-13.5, up - 14), (-8.4, up - 25.4), (6.4, up - 25.4), (13.5, up - 14)], look.colour)
    c.polygon([(-10.4, up - 15), (-6.8, up - 23), (-1.2, up - 23), (-1.2, up - 15)], glass)
    c.polygon([(1.2, up - 15), (1.2, up - 23), (5, up - 23), (10, up - 15)], glass)
    c.rectangle(-21, up - 16, 21, up - 5, look.colour, radius=3.6)
    c.rectangle(-20.4, up - 7.6, 20.4, up - 5.2, look.dark)
    c.ellipse(19.4, up - 11.6, 2.1, 2.3, (255, 246, 190))
    c.rectangle(-21, up - 13, -18.8, up - 10, (170, 20, 24))
    for x in (-11.5, 11.5):
        c.ellipse(x, up - 5, 5.5, 5.2, INK)
        c.ellipse(x, up - 5, 2.5, 2.5, (200, 202, 206))
