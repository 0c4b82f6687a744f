"""Where a picture comes from: how a recipe names it, and what an ideal edit of it would show."""

from __future__ import annotations

import functools
import itertools
import os
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image, ImageChops

from nmg import images
from nmg.menagerie.captions import caption
from nmg.menagerie.scene import FACTORS, Scene, parse
from nmg.menagerie.tasks import EXAMPLES

PREFIX = "scene:"
MOST_CHANGES = 2
"""Factors that the truth of a target prompt may change."""


@dataclass(frozen=True)
class Origin:
    """A source picture and where it comes from.

    Attributes:
        picture: what was given, loaded.
        name: a whole path, "scene:…", or empty for a picture in memory.
        scene: the scene of the bundled world that it shows, if it is one.
        target, given: a target prompt, and its exact counterfactual where one was given.
    """

    picture: Image.Image
    name: str = ""
    scene: Scene | None = None
    target: str = ""
    given: Image.Image | None = None

    @classmethod
    def of(cls, image: Any, target: str = "", truth: Any = None) -> Origin:
        """The origin of a picture.

        Args:
            image: whatever `images.load` reads, "scene:SEED,kind=cat,…", or a `Scene`.
            target, truth: a target prompt and what its ideal edit would show.

        Raises:
            TypeError, ValueError, FileNotFoundError: as `images.load` and `scene.parse` do.
        """
        if isinstance(image, str) and image.startswith(PREFIX):
            image = parse(image.removeprefix(PREFIX))
        given = None if truth is None else images.load(truth)
        name = str(Path(image).resolve()) if isinstance(image, str | os.PathLike) else ""
        scene = image if isinstance(image, Scene) else None
        picture = images.load(image) if scene is None else scene.render()
        scene = scene or _drawn(picture)
        return cls(picture, name if scene is None else spelled(scene), scene, target, given)

    @property
    def has_truths(self) -> bool:
        return self.scene is not None or self.given is not None

    def truth(self, target: str) -> Image.Image | None:
        """What the ideal edit for a target prompt shows; None where nobody knows."""
        if self.given is not None and target == self.target:
            return self.given
        return None if self.scene is None else _counterfactual(self.scene, target)


def spelled(scene: Scene) -> str:
    """A scene as `nmg` commands take it."""
    values = {name: ("no", "yes")[value] if isinstance(value, bool) else value for name, value in scene.factors.items()}
    return f"{PREFIX}{','.join([str(scene.seed), *(f'{name}={value}' for name, value in values.items())])}"


def _drawn(picture: Image.Image) -> Scene | None:
    """The scene of an example that is exactly this picture."""
    for _, scene, _ in EXAMPLES:
        shown = scene.render()
        if shown.size == picture.size and ImageChops.difference(shown, picture).getbbox() is None:
            return scene
    return None


@functools.lru_cache(maxsize=64)
def _counterfactual(scene: Scene, target: str) -> Image.Image | None:
    """The scene with the fewest factors changed whose caption is the target prompt."""
    for count in range(MOST_CHANGES + 1):
        for names in itertools.combinations(FACTORS, count):
            for values in itertools.product(*(FACTORS[name] for name in names)):
                other = scene.edit(**dict(zip(names, values, strict=True)))
                if caption(other) == target.strip():
                    return other.render()
    return None
