"""`nmg edit --gif`: the sampling of an edit as a moving picture."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from PIL import Image

from nmg import images
from nmg.backbones import Backbone
from nmg.files import keep
from nmg.lab.panel.drawing import enlarged
from nmg.lab.panel.preview import guessing
from nmg.levels import Step
from nmg.sampling import Edit
from nmg.types import Latents

FRAMES = 25
"""At most; what is between is left out."""
SIDE = 384
"""Pixels that a small picture is enlarged to."""
EACH, LAST = 120, 1500
"""Milliseconds of a frame, and of the last."""


class Film:
    """Keeps the latents of every step, as the callback of an edit."""

    def __init__(self) -> None:
        self.steps: list[tuple[Step, Latents]] = []

    def __call__(self, step: Step, latents: Latents) -> None:
        self.steps.append((step, latents.detach().clone().cpu()))

    def frames(self, pipe: Any, result: Edit) -> list[Image.Image]:
        """The source beside the clean picture that the first target's steps went towards, one by one; without a target,
        that of the source row."""
        backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
        row = min(1, len(self.steps[0][1]) - 1)
        guess = guessing(result.trajectory)
        cleans = [guess(step, latents[row : row + 1]) for step, latents in self.steps]
        every = max(1, -(-len(cleans) // FRAMES))
        shown = [clean for i, clean in enumerate(cleans) if (len(cleans) - 1 - i) % every == 0]
        source = backbone.decode(result.trajectory.maps[:1])
        (left,) = images.to_pil(source) if result.source is None else (result.source,)
        last = [*result.pictures, result.reconstruction][0]
        pictures = [images.to_pil(backbone.decode(clean.to(backbone.device)))[0] for clean in shown[:-1]]
        return [_pair(left, picture) for picture in (*pictures, last)]

    def save(self, pipe: Any, result: Edit, path: Path, over: bool) -> Path:
        """Write the film as a GIF; where a file lies there, under the next free number, unless it may be replaced."""
        first, *rest = self.frames(pipe, result)
        options: dict[str, Any] = {"format": "GIF", "save_all": True, "append_images": rest, "loop": 0}
        options["duration"] = [*[EACH] * len(rest), LAST]
        return keep(path, lambda part: first.save(part, **options), over)


def _pair(left: Image.Image, right: Image.Image) -> Image.Image:
    """Two pictures side by side, small ones enlarged."""
    left, right = (enlarged(picture, SIDE) for picture in (left, right))
    sheet = Image.new("RGB", (2 * left.width + 4, left.height), "white")
    sheet.paste(left, (0, 0))
    sheet.paste(right, (left.width + 4, 0))
    return sheet
