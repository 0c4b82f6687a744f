"""All settings of a picture, written into its PNG and read back to make it again."""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image, PngImagePlugin

from nmg import editors, guidance, inversion
from nmg.backbones import Backbone
from nmg.editors import Editor
from nmg.guidance import CFG
from nmg.inversion import DDIM
from nmg.serialize import methods_of, packed, unpacked
from nmg.version import __version__

KEY = "nmg"
"""Keyword of the PNG text chunk."""
METHODS = {
    name: methods_of(module)
    for name, module in {"guidance": guidance, "editor": editors, "inversion": inversion}.items()
}
"""The fields of a recipe that are methods, and the classes that they may be of."""


@dataclass(frozen=True)
class Recipe:
    """Everything that an edited picture depends on.

    Attributes:
        model: hub id, folder, or "menagerie".
        image: where the source picture came from: a path or "scene:…".
        digest: of the source's pixels as the model saw them, so that another picture is noticed.
        source, targets, negative: the prompts.
        row: which row the picture shows: 0 the reconstruction, 1… the targets.
        guidance, editor: the methods with all their settings.
        inversion, steps, width, height, convention, offset: of the inversion.
        dtype: of the network.
        version: of this package.
    """

    model: str
    image: str
    digest: str
    source: str
    targets: tuple[str, ...]
    guidance: CFG
    editor: Editor
    steps: int
    width: int
    height: int
    negative: str = ""
    row: int = 1
    inversion: DDIM = DDIM()
    convention: str = "aligned"
    offset: int | None = None
    dtype: str = "float32"
    version: str = field(default="")

    @classmethod
    def of(
        cls,
        backbone: Backbone,
        picture: Image.Image | None,
        *,
        source: str,
        editor: Editor,
        negative: str | None,
        **settings: Any,
    ) -> Recipe:
        """The recipe of an edit by a loaded model.

        Args:
            picture: the source as the model saw it; None if only its trajectory was given.
            negative: None for the editor's habit.
            settings: the other fields.
        """
        return cls(
            model=backbone.name,
            digest="" if picture is None else digest(picture),
            source=source,
            editor=editor,
            negative=editor.negative(source) if negative is None else negative,
            dtype=str(backbone.unet.dtype).removeprefix("torch."),
            version=__version__,
            **settings,
        )

    def to_json(self) -> str:
        values = {f.name: getattr(self, f.name) for f in dataclasses.fields(self)}
        return json.dumps({**values, **{name: packed(values[name]) for name in METHODS}})

    @classmethod
    def from_json(cls, text: str) -> Recipe:
        """Read a recipe.

        Raises:
            ValueError: for text that is no recipe, or names a method that this version lacks.
        """
        try:
            values = json.loads(text)
            values["targets"] = tuple(values["targets"])
            values.update({name: unpacked(values[name], kinds) for name, kinds in METHODS.items() if name in values})
            return cls(**values)
        except (KeyError, TypeError, json.JSONDecodeError) as error:
            raise ValueError(
                f"the settings can't be read by this version ({error!r}); was the picture made by a newer one?"
            ) from error

    def save(self, picture: Image.Image, path: str | os.PathLike) -> Path:
        """Write a picture as PNG with this recipe in it."""
        path = Path(path)
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt(KEY, self.to_json())
        part = path.with_name(f"{path.name}.part")
        picture.save(part, format="PNG", pnginfo=chunk)
        os.replace(part, path)
        return path

    @classmethod
    def read(cls, path: str | os.PathLike) -> Recipe:
        """The recipe in a PNG.

        Raises:
            FileNotFoundError: without a file at `path`.
            ValueError: for a picture without a recipe.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no picture at {os.fspath(path)!r}; give a PNG that `nmg edit` wrote")
        try:
            with Image.open(path) as picture:
                text = picture.info.get(KEY)
        except OSError as error:
            raise ValueError(
                f"{os.fspath(path)!r} can't be read as a picture ({error}); give a PNG that `nmg edit` wrote"
            ) from error
        if text is None:
            raise ValueError(
                f"{os.fspath(path)!r} holds no settings; only PNGs that `nmg edit` wrote do, and editing or "
                "converting a picture elsewhere drops them"
            )
        return cls.from_json(text)


def digest(picture: Image.Image) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a picture's pixels."""
    return hashlib.sha256(np.asarray(picture.convert("RGB")).tobytes()).hexdigest()[:12]
