"""Menagerie's scenes: named factors, held nuisances, and exact counterfactuals.

A scene is a value: the factors that its caption names and a seed for all that no caption
names (position, size, light, the shape of the trees). Changing one factor holds everything
else, so `scene.edit(colour="blue").render()` is the picture that an ideal edit would return.
"""

from __future__ import annotations

import dataclasses
import difflib
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from PIL import Image

from nmg.menagerie import creatures
from nmg.menagerie.canvas import Canvas, Colour, Stencil, mix, shift
from nmg.menagerie.places import PLACES, Setting
from nmg.menagerie.styles import STYLES

COLOURS: dict[str, Colour] = {
    "red": (214, 48, 42),
    "orange": (240, 140, 40),
    "yellow": (246, 212, 56),
    "green": (66, 166, 72),
    "blue": (52, 104, 214),
    "purple": (138, 66, 178),
    "pink": (244, 142, 182),
    "white": (242, 240, 236),
    "gray": (140, 142, 148),
    "brown": (132, 84, 48),
}
NATURAL = {
    "cat": "gray",
    "dog": "brown",
    "fox": "orange",
    "rabbit": "white",
    "tiger": "orange",
    "bear": "brown",
    "car": "red",
}

FACTORS: dict[str, tuple] = {
    "kind": tuple(NATURAL),
    "colour": tuple(COLOURS),
    "place": tuple(PLACES),
    "mouth": ("plain", "smiling", "frowning"),
    "glasses": (False, True),
    "style": ("plain", *STYLES),
    "pose": ("standing", "sitting", "jumping"),
    "view": ("forward", "left", "right"),
}
"""Every named factor and its values, in the order of the classifier's heads. The view is where the figure faces."""

SIZE = 128
"""Pixels of a picture's side, unless another size is asked for."""
PARTS = ("figure", "head", "place")
"""What a mask can be had of: the whole figure, its head (a car has none), and all that is not figure."""


@dataclass(frozen=True)
class Nuisances:
    """What no caption names, drawn from one seed.

    Lengths are in scene units of 1/64 of the picture, but for `x`, a share of the way that the figure's size leaves it.
    """

    seed: int

    @cached_property
    def values(self) -> dict[str, float]:
        r = np.random.default_rng(self.seed)
        return dict(
            x=r.uniform(-1, 1),
            y=r.uniform(-1.5, 1.5),
            scale=r.uniform(0.7, 1.2),
            hue=r.normal(0, 0.010),
            value=r.uniform(0.93, 1.05),
            light=r.uniform(-1, 1),
            horizon=r.uniform(32, 38),
            place_hue=r.normal(0, 0.012),
            place_value=r.uniform(0.94, 1.04),
        )

    def __getitem__(self, name: str) -> float:
        return float(self.values[name])


@dataclass(frozen=True)
class Scene:
    """One scene of Menagerie.

    Args:
        kind, colour, place, mouth, glasses, style, pose, view: named factors (see `FACTORS`).
        seed: of the nuisances; two scenes of one seed differ only in their factors.

    Raises:
        ValueError: for a factor's value that does not exist.
    """

    kind: str = "cat"
    colour: str = "orange"
    place: str = "forest"
    mouth: str = "plain"
    glasses: bool = False
    style: str = "plain"
    pose: str = "sitting"
    view: str = "forward"
    seed: int = 0
    nuisances: Nuisances = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        for name, values in FACTORS.items():
            if (given := getattr(self, name)) not in values:
                raise ValueError(
                    f"{name}={given!r} is not in Menagerie; {name} is one of {', '.join(map(str, values))}"
                )
        object.__setattr__(self, "nuisances", Nuisances(self.seed))

    @classmethod
    def sample(cls, seed: int, **fixed: Any) -> Scene:
        """Draw a scene from `seed`; factors given as keywords are held at their values."""
        r = np.random.default_rng([seed, 1])
        drawn = {name: values[r.integers(len(values))] for name, values in FACTORS.items()}
        if r.random() < 0.2:
            drawn["colour"] = NATURAL[drawn["kind"]]
        if r.random() < 0.25:
            drawn["style"] = "plain"
        drawn["glasses"] = bool(r.random() < 0.35)
        if unknown := fixed.keys() - FACTORS.keys():
            raise ValueError(_unknown_factor(unknown.pop()))
        return cls(**{**drawn, **fixed}, seed=seed).normalised()

    @property
    def factors(self) -> dict[str, object]:
        return {name: getattr(self, name) for name in FACTORS}

    def normalised(self) -> Scene:
        """The same picture with the factors that a car does not show at their plain values."""
        if self.kind != "car":
            return self
        pose = "jumping" if self.pose == "jumping" else "standing"
        return dataclasses.replace(self, mouth="plain", glasses=False, pose=pose)

    def edit(self, **changes: Any) -> Scene:
        """The exact counterfactual: this scene with some factors changed and everything else held.

        Raises:
            ValueError: for an unknown factor or value.
        """
        if unknown := changes.keys() - FACTORS.keys():
            raise ValueError(_unknown_factor(unknown.pop()))
        return dataclasses.replace(self, **changes).normalised()

    def render(self, size: int = SIZE) -> Image.Image:
        """Draw the scene as an RGB image of `size`×`size` pixels (a multiple of 16, at least 32)."""
        if size % 16 or size < 32:
            raise ValueError(f"size={size} can't be drawn; give a multiple of 16 from 32 on, such as 128 or 512")
        pixels = size * (4 if size <= 128 else 2)
        image = self._draw(pixels)
        if self.style == "plain":
            return image.reduce(pixels // size)
        half = image.reduce(pixels // (2 * size)) if pixels > 2 * size else image
        random = np.random.default_rng([self.seed, 3])
        picture = STYLES[self.style](np.asarray(half, np.float32) / 255, half.width / 64, random)
        return Image.fromarray((np.clip(picture, 0, 1) * 255).round().astype(np.uint8)).reduce(2)

    def _draw(self, pixels: int) -> Image.Image:
        n = self.nuisances
        canvas = Canvas.blank((0, 0, 0), pixels)
        # The sun stands to one side, clear of the figure's head.
        sun_x = 32 + (14 + 10 * abs(n["light"])) * (1 if n["light"] > 0 else -1)
        place_seed = [self.seed, 2, list(PLACES).index(self.place)]
        setting = Setting(
            canvas,
            np.random.default_rng(place_seed),
            n["horizon"],
            self.style == "at night",
            sun_x,
            n["place_hue"],
            n["place_value"],
        )
        PLACES[self.place](setting)

        x, y, scale = self._stand
        ground: Any = canvas.image.getpixel((int(x * canvas.pixels), int(min(63.5, y) * canvas.pixels)))
        reach = (15 if self.view == "forward" else 18) * (0.85 if self.pose == "jumping" else 1) * scale
        canvas.ellipse(x - 3 * n["light"], y, reach, 2.6 * scale, mix(ground, (20, 20, 40), 0.38))
        creatures.draw(Canvas(canvas.image, x, y, scale, mirrored=self.view == "left"), self._look)
        return canvas.image

    @property
    def _stand(self) -> tuple[float, float, float]:
        """Where the figure stands, and its size: the larger, the nearer, and the less it may be off the middle."""
        n = self.nuisances
        scale = n["scale"]
        return 32 + n["x"] * min(12.0, 32 - 23 * scale), 50 + 20 * (scale - 0.7) + n["y"], scale

    @property
    def _look(self) -> creatures.Look:
        n = self.nuisances
        hue = 0.0 if self.colour in ("white", "gray") else n["hue"]
        colour = shift(COLOURS[self.colour], hue, n["value"])
        side = self.view != "forward"
        return creatures.Look(self.kind, colour, self.mouth, self.glasses, self.pose, side)

    def mask(self, part: str = "figure", size: int = SIZE) -> np.ndarray:
        """Mask bool [size, size] of a part of the picture, one of `PARTS`.

        Raises:
            ValueError: for a part that does not exist.
        """
        if part not in PARTS:
            raise ValueError(f"a scene has no part {part!r}; {', '.join(PARTS)} work")
        x, y, scale = self._stand
        wanted = ("head",) if part == "head" else ("body", "head")
        stencil = Stencil(wanted, 4 * size, x, y, scale, self.view == "left")
        creatures.draw(stencil, self._look)
        covered = np.asarray(stencil.image.reduce(4)) > 127
        return ~covered if part == "place" else covered

    def changed(self, other: Scene, size: int = SIZE, threshold: float = 0.04) -> np.ndarray:
        """Mask bool [size, size] of the pixels in which two scenes differ by more than `threshold` of the range."""
        a, b = (np.asarray(scene.render(size), np.float32) / 255 for scene in (self, other))
        return np.abs(a - b).max(-1) > threshold


def _unknown_factor(name: str) -> str:
    close = difflib.get_close_matches(name, FACTORS, 1)
    hint = f"; did you mean {close[0]}?" if close else ""
    return f"Menagerie has no factor {name!r}; its factors are {', '.join(FACTORS)}{hint}"


def parse(text: str) -> Scene:
    """A scene from text such as "7" or "7,kind=cat,colour=red": a seed to draw from, and factors to hold.

    Raises:
        ValueError: for text of another form, an unknown factor or value.
    """
    seed, *pairs = text.split(",")
    try:
        number = int(seed)
        held = dict(pair.split("=") for pair in pairs)
    except ValueError as error:
        raise ValueError(f"{text!r} names no scene; write a seed and factors, such as 7,kind=cat,colour=red") from error
    return Scene.sample(number, **parse_changes(held))


def parse_changes(pairs: dict[str, str]) -> dict[str, object]:
    """Factors given as text, with glasses=yes or no as truth values."""
    truth = {"yes": True, "true": True, "no": False, "false": False}
    return {name: truth.get(value.lower(), value) if name == "glasses" else value for name, value in pairs.items()}
