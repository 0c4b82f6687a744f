"""What suits a model, as its own folder says: a file `nmg.json` beside the weights, which few models have."""

from __future__ import annotations

import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field

from nmg.schema import Form, Number, Share, Text, checked, parsed

BUNDLED = "menagerie"
"""What the bundled model is called."""
BUNDLED_FOLDER = Path(__file__).parents[1] / "menagerie" / "weights"
FILE = "nmg.json"


Part = Annotated[float, Field(gt=0, le=1)]


class _Fields(Form):
    """What the file may say: the fields of `ModelSettings`."""

    name: Text = ""
    profile: Text = ""
    noise_map_scale: Number | None = None
    gradient_scale: Number | None = None
    text_scale: Number | None = None
    embedded_scale: Number | None = None
    jacobian: bool = True
    word_maps: Part = 1
    layout: Part = 1
    blend_threshold: Share | Literal["otsu"] = "otsu"
    words: Annotated[tuple[Text, ...], Field(max_length=10_000)] = ()
    sentences: Any = None
    colours: Any = None
    """Of earlier versions: sentences for edit directions; not used."""


@dataclass(frozen=True)
class ModelSettings:
    """The settings that belong to a model; without a file of its own, those of Stable Diffusion.

    Attributes:
        name: that the model is loaded by, if it has one besides its folder's.
        profile: of examples, presets and captions: "photographs", or the world that it was trained on.
        noise_map_scale, gradient_scale, text_scale: of noise map guidance; its defaults where they are None.
        embedded_scale: the guidance that a guidance-distilled network is told in the text half (see `nmg.Guidance`).
        jacobian: whether noise map guidance takes its gradient through the network, if nothing else is asked for.
        word_maps: share of the latent's side at which words' attention maps are read
            (Stable Diffusion: 16×16 of 64×64).
        layout: share of the latent's side up to which self-attention holds the layout
            (Stable Diffusion: 32×32 of 64×64).
        blend_threshold: share of an attention map's maximum from which a local blend takes a position for a word's
            place, or "otsu" (see `nmg.LocalBlend`).
        words: all that the model has ever read, if they are few; empty for a model that knows any prompt.
    """

    name: str = ""
    profile: str = "photographs"
    noise_map_scale: float | None = None
    gradient_scale: float | None = None
    text_scale: float | None = None
    embedded_scale: float | None = None
    jacobian: bool = True
    word_maps: float = 0.25
    layout: float = 0.5
    blend_threshold: float | str = 0.3
    words: tuple[str, ...] = ()

    @property
    def scales(self) -> dict[str, Any]:
        """The scales that the model has of its own, by name; and `jacobian`, where no gradient should go through it."""
        names = ("noise_map_scale", "gradient_scale", "text_scale")
        own = {name: value for name in names if (value := getattr(self, name)) is not None}
        return own if self.jacobian else own | {"jacobian": False}

    def unknown_words(self, prompts: Iterable[str]) -> str | None:
        """What to say about words of prompts that the model has never read; None if there are none."""
        read = [word for prompt in prompts for word in re.findall(r"\w+", prompt.lower())]
        unknown = list(dict.fromkeys(word for word in read if word not in self.words))
        if not (self.words and unknown):
            return None
        known = ", ".join(word for word in self.words if word.isalpha())
        return (
            f"the model {self.name!r} does not know {', '.join(map(repr, unknown))} and will ignore or misread it; it "
            f"knows {known}"
        )

    @classmethod
    def read(cls, name: str, **family: Any) -> ModelSettings:
        """The settings of a model by the bundled one's name, a folder or a hub id.

        Args:
            family: what suits the model's family, where its own folder says nothing else.

        Raises:
            ValueError: for a file that can't be read, or says what is unknown here.
        """
        path = file_of(name)
        if not path.is_file():
            return cls(**family)
        try:
            said = checked(parsed(path.read_text(encoding="utf-8")), _Fields)
        except (OSError, ValueError) as error:
            raise ValueError(f"the model's settings in {str(path)!r} can't be read by this version: {error}") from error
        own = said.model_dump(exclude_unset=True, exclude={"sentences", "colours"})
        return cls(**family | own)


def file_of(name: str) -> Path:
    """Where the settings of a model are, by the bundled one's name, a folder or a hub id; few models have the file."""
    return (BUNDLED_FOLDER if name == BUNDLED else Path(name)) / FILE
