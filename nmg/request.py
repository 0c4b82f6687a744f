"""A request: one value that says all that an edited picture depends on.

The arguments of `nmg.edit`, the settings in a PNG and a command line become this value. `resolved` fills in every
default, once; `check` raises for all that can be wrong, once. It is written as JSON and into a PNG.
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import numpy as np
from PIL import Image, PngImagePlugin
from pydantic import Field

from nmg import editors, guidance, identity, images, inversion
from nmg.backbones import Backbone
from nmg.editors import Editor, PromptToPrompt
from nmg.editors.pix2pix_zero import AMOUNT
from nmg.files import keep
from nmg.guidance import Direct, Guidance, ProxNegativePrompt, default_guidance
from nmg.guidance.noise_map import PAPERS
from nmg.inversion import CONVENTIONS, DDIM, Trajectory
from nmg.inversion.run import check
from nmg.run import PUBLISHED_STEPS, skipped
from nmg.schema import MOST, Count, Form, Share, Text, Whole, checked, parsed
from nmg.serialize import methods_of, packed, unpacked
from nmg.version import __version__

AGAIN = (
    "invert again, or, if you know them to be the same, take dataclasses.replace(trajectory, "
    "network=nmg.Identity.of(pipe, trajectory.prompt))"
)
"""What to do with a trajectory of another network."""
KEY = "nmg"
"""Keyword of the PNG text chunk."""
FORMAT = 2
"""Version of the JSON. Version 0.1.0 of the package wrote none: its recipes are read as format 1."""
METHODS = {
    name: methods_of(module)
    for name, module in {"guidance": guidance, "editor": editors, "inversion": inversion}.items()
}
"""The fields that hold methods, and the classes that they may be of."""


Side = Annotated[int, Field(ge=images.SMALLEST, le=4096)]
"""Pixels of a side that settings in a file may ask for."""


class _Fields(Form):
    """The settings in a file: the fields of a `Request`."""

    image: Text = ""
    source: Text | None = None
    targets: Annotated[tuple[Text, ...], Field(max_length=32)] = ()
    negative: Text | None = None
    guidance: dict[str, Any] | None = None
    editor: dict[str, Any] | None = None
    inversion: dict[str, Any] | None = None
    steps: Annotated[int, Field(ge=1, le=MOST)] | None = None
    size: tuple[Side, Side] | None = None
    convention: Text | None = None
    offset: Whole | None = None
    skip: Share | None = None
    model: Text = ""
    dtype: Literal["", "float16", "bfloat16", "float32", "float64"] = ""
    version: Text = ""
    digest: Annotated[str, Field(pattern="^([0-9a-f]{12})?$")] = ""
    row: Count = 1


@dataclass(frozen=True)
class Request:
    """What is asked for. A field that is left out has the default that is said here, which `resolved` fills in.

    Attributes:
        image: a picture in memory, its path or another name of it, or a `Trajectory`.
        source: what the picture shows; a trajectory's own prompt.
        targets: what the edited pictures should show; the editor's where none is given.
        negative: the prompt of the null half; the editor's habit.
        guidance: `default_guidance(pipe)`, or `Direct` for an editor that reads the source off its noise maps, at the
            model's own text scale, or else the editor's.
        editor: `PromptToPrompt()`.
        inversion, steps, convention, offset: of the inversion: the editor's habit (`DDIM()`, as a rule), 50, "aligned",
            and the scheduler's `steps_offset` (None); a trajectory's own.
        skip: share of the steps, the noisiest, that is left out; the editor's habit, as a rule 0.
        size: width and height in pixels; the model's own, or the trajectory's.
        model, dtype, version: the model, its precision and the package that made the picture.
        digest: of the source's pixels as the model saw them. Another picture has another.
        row: which row a picture shows: 0 the reconstruction, 1… the targets.
    """

    image: Any = ""
    source: Any = None
    targets: Sequence[str] = ()
    negative: Any = None
    guidance: Any = None
    editor: Any = None
    inversion: Any = None
    steps: Any = None
    size: Any = None
    convention: Any = None
    offset: int | None = None
    skip: Any = None
    model: str = ""
    dtype: str = ""
    version: str = ""
    digest: str = ""
    row: int = 1

    def __post_init__(self) -> None:
        if isinstance(self.targets, str):
            raise TypeError(f"targets is one string; give a list of prompts, targets=[{self.targets!r}]")
        object.__setattr__(self, "targets", tuple(self.targets))

    # ------------------------------------------------------------ defaults and checks, once

    def resolved(self, backbone: Backbone) -> Request:
        """The same request with every default filled in, for a loaded model.

        Raises:
            ValueError: for a trajectory of another model, or an option that is not the trajectory's.
        """
        own = self._along(self.image, backbone) if isinstance(self.image, Trajectory) else {"source": self.source}
        editor = PromptToPrompt() if self.editor is None else self.editor
        source = own["source"] or ""
        defaults = {
            **{
                "steps": 50,
                "inversion": editor.inversion(),
                "convention": "aligned",
                "editor": editor,
            },
            **({} if self.size or "size" in own else {"size": backbone.native_size}),
            "guidance": suiting(editor, backbone),
            "negative": editor.negative(source),
            "skip": editor.skip,
            **own,
        }
        open_ = {name: value for name, value in defaults.items() if getattr(self, name) is None}
        dtype = str(backbone.network.dtype).removeprefix("torch.")
        made_by: dict[str, Any] = {"model": backbone.name, "dtype": dtype, "version": __version__}
        return dataclasses.replace(self, targets=self.targets or editor.targets(source), **open_, **made_by)

    def _along(self, trajectory: Trajectory, backbone: Backbone) -> dict[str, Any]:
        """What a trajectory says of a request, which may not say otherwise."""
        _fits(trajectory, backbone)
        height, width = (n * backbone.pixels_per_latent for n in trajectory.latent_size)
        own: dict[str, Any] = {
            "source": trajectory.prompt,
            "steps": len(trajectory.steps),
            "size": (width, height),
            "inversion": trajectory.inversion,
            "convention": trajectory.convention,
            "offset": trajectory.steps[-1].timestep,
        }
        for name, value in own.items():
            given = getattr(self, name)
            if given is not None and given != value:
                raise ValueError(f"{name}={given!r} is not the trajectory's {value!r}; leave it out, or invert again")
        usual = backbone.steps(own["steps"], trajectory.latent_size) == trajectory.steps
        return own | {"offset": None if usual else own["offset"]}

    def opened(self) -> Request:
        """The same request with the files that its methods name read."""
        return dataclasses.replace(self, guidance=self.guidance.opened(), editor=self.editor.opened())

    def check(self, backbone: Backbone) -> None:
        """Raise for all that can be wrong with a resolved request, before anything is computed.

        Raises:
            TypeError, ValueError: with what was given and what works.
        """
        if self.source is None:
            raise ValueError('source is missing; say what the picture shows, such as source="a photo of a cat"')
        if any(isinstance(prompt, str) and not prompt.strip() for prompt in self.targets):
            raise ValueError(
                "a target prompt is empty, which asks for no edit; say what the edited picture should show"
            )
        backbone.check([*self.prompts, self.negative or ""])
        down = backbone.steps(self.steps, backbone.latent_size(self.size), self.offset)
        check(self.inversion, self.convention)
        skipped(self.skip, self.steps)
        CONVENTIONS[self.convention](down, backbone.scheduler)
        if not (self.inversion.joined or self.editor.takes_drawn):
            raise ValueError(
                f"{type(self.editor).__name__} reads the source's attention at the target's noise, and the noise maps "
                f"of {type(self.inversion).__name__} have another noise at every level; use FlowEdit, Editor() with a "
                "skip, or another inversion"
            )
        self.editor.check(backbone, self)
        self.guidance.check(backbone, self)
        if (told := self.guidance.embedded_scale) is not None and not backbone.is_told_guidance:
            raise ValueError(
                f"embedded_scale={told:g} is told to a network that embeds its guidance, as FLUX.1 dev does, and this "
                f"{type(backbone.network).__name__} does not; leave it out"
            )
        # Last, since it asks the network.
        if isinstance(made := self.image, Trajectory):
            identity.check(backbone, made.prompt, made.network, made.model, "the trajectory", AGAIN)

    def remarks(self, backbone: Backbone) -> list[str]:
        """What is not wrong with a request, but to be said before it is computed."""
        editor = PromptToPrompt() if self.editor is None else self.editor
        said = backbone.remarks([*self.prompts, self.own_negative or ""]) + editor.remarks(backbone, self)
        said += self.guidance.remarks(self) if self.guidance else []
        if backbone.DISTILLED and self.guidance and (scale := self.guidance.text_scale) != 1:
            said.append(
                f"text_scale={scale:g} is classifier-free guidance, which this network was distilled to do without; "
                "text_scale=1 follows the text alone, at half the cost"
            )
        if self.source in self.targets and not editor.edits_alone:
            said.append(f"the target prompt {self.source!r} is the source's, so that its picture is not edited")
        return said

    @property
    def prompts(self) -> tuple[str, ...]:
        """The source prompt, then one per target."""
        return self.source or "", *self.targets

    @property
    def own_negative(self) -> str | None:
        """The negative prompt, where it is another than the editor's habit."""
        habit = (self.editor or PromptToPrompt()).negative(self.source or "")
        return None if self.negative == habit else self.negative

    # ------------------------------------------------------------ JSON and PNG

    def to_json(self) -> str:
        """All fields. A picture in memory and a trajectory have no name: their `image` is empty."""
        values = {entry.name: getattr(self, entry.name) for entry in dataclasses.fields(self)}
        values |= {name: packed(value) for name in METHODS if (value := values[name]) is not None}
        named = isinstance(self.image, str | os.PathLike)
        return json.dumps({"format": FORMAT, **values, "image": os.fspath(self.image) if named else ""})

    @classmethod
    def from_json(cls, text: str) -> Request:
        """Read what `to_json` wrote, here or in version 0.1.0.

        Raises:
            ValueError: for text that is no request, or names a method that this version lacks.
        """
        try:
            values = parsed(text)
            values = _from_version_0_1(values) if (form := values.pop("format", 1)) == 1 else values
            if form > FORMAT:
                raise ValueError(f"they are of format {form}, and this version reads up to {FORMAT}: update nmg")
            values = dict(checked(values, _Fields))
            named = {name: value for name in METHODS if (value := values[name]) is not None}
            methods = {name: unpacked(value, METHODS[name]) for name, value in named.items()}
            if values["row"] > max(1, len(values["targets"])):
                raise ValueError(f"row: there is no target {values['row']}")
            return cls(**values | methods)
        except (AttributeError, KeyError, TypeError, ArithmeticError, ValueError) as error:
            raise ValueError(
                f"the settings can't be read by this version ({error}); is the picture damaged, or a newer one's?"
            ) from error

    def save(self, picture: Image.Image, path: str | os.PathLike, over: bool = True) -> Path:
        """Write a picture as PNG with this request in it.

        Args:
            over: whether a file at `path` is replaced; if not, the next free number is added to the name.

        Returns:
            Where it lies.
        """
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt(KEY, self.to_json())
        return keep(Path(path), lambda part: picture.save(part, format="PNG", pnginfo=chunk), over)

    @classmethod
    def read(cls, path: str | os.PathLike) -> Request:
        """The request in a PNG.

        Raises:
            FileNotFoundError: without a file at `path`.
            ValueError: for a picture without a request.
        """
        if not os.path.isfile(path):
            raise FileNotFoundError(f"there is no picture at {os.fspath(path)!r}; give a PNG that `nmg edit` wrote")
        text = images.decoded(path, repr(os.fspath(path))).info.get(KEY)
        if not isinstance(text, str):
            raise ValueError(
                f"{os.fspath(path)!r} holds no settings; only PNGs that `nmg edit` wrote do, and editing or "
                "converting a picture elsewhere drops them"
            )
        return cls.from_json(text)


def scales(editor: Editor, pipe: Any) -> dict[str, Any]:
    """The scales of an editor's guidance where none are given: the model's own, or else the editor's. What a network is
    told of its guidance is the editor's, where it has a scale for that."""
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    habits = {"text_scale": editor.text_scale} | backbone.settings.scales
    habits |= {"embedded_scale": editor.embedded_scale} if backbone.is_told_guidance else {}
    return {name: value for name, value in habits.items() if value is not None}


def suiting(editor: Editor, backbone: Backbone, fast: bool = False) -> Guidance:
    """The guidance of an editor where none is given, by `NoiseMap.fast()` if `fast` and it is noise-map guidance."""
    usual = default_guidance(backbone, fast=fast, **scales(editor, backbone))
    return Direct(usual.text_scale, embedded_scale=usual.embedded_scale) if editor.suits == "direct" else usual


def _fits(trajectory: Trajectory, backbone: Backbone) -> None:
    """Raise for a trajectory whose parts don't belong together, or of another model."""
    trajectory.check()
    channels = backbone.channels
    if trajectory.maps.shape[1] != channels:
        raise ValueError(
            f"the trajectory's maps have {trajectory.maps.shape[1]} channels and the network takes {channels}; "
            "invert again with this pipeline"
        )
    backbone.check([trajectory.prompt])


def _from_version_0_1(values: dict[str, Any]) -> dict[str, Any]:
    """A recipe of version 0.1.0 in today's form: its noise-map steps had no bound, and what acts in each step did not
    count by 50 steps."""
    for method in (values["guidance"], *values["guidance"].get("parts", ()), values["editor"]):
        _count_by_50(method, PUBLISHED_STEPS / values["steps"])
    return {
        **{"inversion": packed(DDIM()), "convention": "aligned", "offset": None, "negative": "", "row": 1},
        **{name: value for name, value in values.items() if name not in ("width", "height")},
        "size": (values["width"], values["height"]),
    }


def _count_by_50(method: dict[str, Any], longer: float) -> None:
    """Change the settings of a method that acted in each step, each `longer` than one of 50, to act as they did."""
    if method["method"] == "NoiseMap":
        scale = method.get("noise_map_scale", PAPERS)
        method["noise_map_scale"] = [s * longer for s in scale] if isinstance(scale, list) else scale * longer
        method.setdefault("bound", None)
    if method["method"] == "ProxNegativePrompt":
        method["rate"] = 1 - (1 - method.get("rate", ProxNegativePrompt.rate)) ** (1 / longer)
    if method["method"] == "Pix2PixZero":
        method["amount"] = method.get("amount", AMOUNT) / longer


def digest(picture: Image.Image) -> str:
    """Twelve hexadecimal digits of the SHA-256 of a picture's pixels."""
    return hashlib.sha256(np.asarray(picture.convert("RGB")).tobytes()).hexdigest()[:12]
