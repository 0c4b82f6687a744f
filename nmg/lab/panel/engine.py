"""Making a picture again and again with changed settings, and computing only what has changed."""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from nmg.backbones import Backbone
from nmg.editors.recorder import AttentionMaps
from nmg.guidance.cache import key_of
from nmg.inversion import DDIM, Inversion, Trajectory, invert
from nmg.lab import figures
from nmg.lab.panel.preview import LatentPreview, predicted
from nmg.lab.panel.settings import Settings
from nmg.lab.panel.worker import Stopped
from nmg.levels import Step
from nmg.request import Request
from nmg.sampling import edit
from nmg.types import Latents

INVERTING = "inverting the picture"
WALKING = "walking the source path and editing"
FOLLOWING = "editing along the walked path"
KNOWN = "from the history"

MOST_TRAJECTORIES = 4
MOST_TRIED = 24
SMALL_NETWORK = 50_000_000
"""Parameters below which torch works with one thread on a CPU: in a thread beside the main one, several of its own take
twice as long for the bundled model."""

Look = tuple[str, Float[Tensor, "height width"]]
"""A token, and where it looks."""


class Cancelled(Exception):
    """A run was ended because nobody waits for it any more."""


@dataclass(frozen=True)
class Doing:
    """What is being computed.

    Attributes:
        what: in words.
        done, count: its steps.
        preview: what the edit will look like, guessed from the latent.
    """

    what: str
    done: int = 0
    count: int = 0
    preview: Image.Image | None = None


@dataclass(frozen=True, eq=False)
class Tried:
    """A picture that was made, and what is worth a look about it.

    Attributes:
        settings: that it was made with.
        reconstruction: the source row's picture.
        edit: the target row's; None where there was no target.
        looks: the tokens of the source prompt, and where each looks.
        region: where the edit could differ from the source, if the editor restricted it (`LocalBlend`).
        distances: mean |source row - noise map| after each step.
        computed: what had to be computed for it, in words.
        seconds: that this took.
    """

    settings: Settings
    reconstruction: Image.Image
    edit: Image.Image | None
    looks: tuple[Look, ...]
    region: Bool[Tensor, "latent_height latent_width"] | None
    distances: tuple[float, ...]
    computed: tuple[str, ...]
    seconds: float

    @property
    def picture(self) -> Image.Image:
        """The edit, or the reconstruction where nothing was edited."""
        return self.reconstruction if self.edit is None else self.edit


Tell = Callable[[Doing], object]


@dataclass
class _Inverted:
    """A trajectory with the source's path as the last edit left it,
    and where the source's words look along that path."""

    trajectory: Trajectory
    looks: tuple[Look, ...] = ()


class Engine:
    """Edits one picture with changing settings.

    The inversion is made anew when the source prompt or the number of steps changes, the source path when its guidance
    changes, and otherwise the target alone. What was made with the same settings before is remembered: after a change
    of the pipeline itself, by a LoRA say, make another engine.

    Engines and cells may use one pipeline at the same time: they take turns at its network calls.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        image: whatever `images.load` reads.
        size: width and height in pixels; the model's own if not given.
        inversion: how the noise is predicted on the way up, `DDIM()` if not given.

    Attributes:
        picture: the source, as the model sees it.
        history: the pictures that were made, the oldest first.
    """

    def __init__(
        self, pipe: Any, image: Any, *, size: tuple[int, int] | None = None, inversion: Inversion | None = None
    ):
        self.backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
        self.picture = self.backbone.prepare(image, size)
        self.inversion = inversion or DDIM()
        self.history: list[Tried] = []
        self._inverted: dict[tuple[str, int], _Inverted] = {}
        self._preview: LatentPreview | None = None
        weights = sum(parameter.numel() for parameter in self.backbone.unet.parameters())
        self._one_thread = self.backbone.device.type == "cpu" and weights < SMALL_NETWORK

    @torch.no_grad()
    def make(self, settings: Settings, tell: Tell | None = None, stopped: Stopped | None = None) -> Tried:
        """The picture of these settings.

        Args:
            tell: called with what is being computed, at its beginning and after each step.
            stopped: asked after each step whether to end.

        Raises:
            Cancelled: if `stopped` says so; nothing is left behind, and the next call works.
            TypeError, ValueError, …: as `nmg.edit` does.
        """
        tell, stopped = tell or (lambda doing: None), stopped or (lambda: False)
        if self._one_thread:
            torch.set_num_threads(1)
        asked = settings.asked
        for known in self.history:
            if known.settings.asked == asked:
                tell(Doing(KNOWN, settings.steps, settings.steps))
                return known
        self.request(settings).check(self.backbone)
        start, computed = time.perf_counter(), []

        def noted(doing: Doing) -> None:
            if doing.what not in computed:
                computed.append(doing.what)
            tell(doing)
            if stopped():
                raise Cancelled

        run = _Run(self, settings, noted)
        made = run.edited(self.inverted(settings, noted), computed, start)
        self.history = [*self.history, made][-MOST_TRIED:]
        return made

    def inverted(self, settings: Settings, tell: Tell) -> _Inverted:
        """The trajectory of these settings, made if it is not known."""
        key = settings.source, settings.steps
        if key not in self._inverted:
            tell(Doing(INVERTING, 0, settings.steps))
            trajectory = invert(
                self.backbone,
                self.picture,
                settings.source,
                steps=settings.steps,
                size=self.picture.size,
                inversion=self.inversion,
                callback=lambda step, x: tell(Doing(INVERTING, step.index + 1, settings.steps)),
                progress=False,
            )
            self._inverted[key] = _Inverted(trajectory)
        # The newest is the last to go.
        inverted = self._inverted[key] = self._inverted.pop(key)
        self._inverted = dict(list(self._inverted.items())[-MOST_TRAJECTORIES:])
        return inverted

    def preview(self, latents: Latents) -> Image.Image:
        """The first row as a picture, by a linear map that is fitted when it is first asked for."""
        if self._preview is None:
            self._preview = LatentPreview.fit(self.backbone, self.picture)
        return self._preview(latents, self.picture.size)

    def request(self, settings: Settings, image: Any = None) -> Request:
        """What some settings ask for, with every default filled in; of the picture, or along its trajectory."""
        methods = settings.guidance_method, settings.editor_method, self.inversion
        asked = (settings.source, tuple(settings.targets()), settings.negative, *methods, settings.steps)
        return Request(image or self.picture, *asked, self.picture.size).resolved(self.backbone).opened()


@dataclass
class _Run:
    """One edit: what is told and kept on its way."""

    engine: Engine
    settings: Settings
    tell: Tell

    def edited(self, inverted: _Inverted, computed: list[str], start: float) -> Tried:
        trajectory, settings = inverted.trajectory, self.settings
        request = self.engine.request(settings, trajectory)
        key = key_of(trajectory, request.guidance, request.negative)
        follows = trajectory.cache is not None and trajectory.cache.key == key
        # Where the source's words look is its path's; a blend's region is the edit's own.
        known = follows and inverted.looks and getattr(request.editor, "local_blend", None) is None
        distances: list[float] = []
        result = edit(
            self.engine.backbone,
            request,
            attention=not known,
            callback=self._callback(FOLLOWING if follows else WALKING, trajectory, distances),
            progress=False,
        )
        if result.attention is not None:
            inverted.looks = _looks(result.attention)
        inverted.trajectory = result.trajectory
        region = None if result.region is None else result.region[-1, 0]
        return Tried(
            settings,
            result.reconstruction,
            result.pictures[0] if result.pictures else None,
            inverted.looks,
            region,
            tuple(distances),
            tuple(computed),
            time.perf_counter() - start,
        )

    def _callback(self, what: str, trajectory: Trajectory, distances: list[float]) -> Callable[[Step, Latents], None]:
        count = len(trajectory.steps)
        self.tell(Doing(what, 0, count))
        strays = figures.straying(trajectory, distances)
        before = [trajectory.start]
        guesses: list[Latents] = []

        def callback(step: Step, latents: Latents) -> None:
            strays(step, latents)
            picture = None
            # The source row is also moved by its guidance, so that its step does not tell its clean latent.
            if len(latents) > 1:
                residuals = trajectory.residuals
                residual = None if residuals is None else residuals[step.index, None].to(latents.device)
                row = latents[1:2]
                guesses[:] = [*guesses[-1:], predicted(before[0].to(row.device), row, step, residual)]
                # A source row that swings about its noise maps shakes the targets, too: two steps even that out.
                picture = self.engine.preview(torch.stack(guesses).mean(0))
                before[0] = row.clone()
            self.tell(Doing(what, step.index + 1, count, picture))

        return callback


def _looks(maps: AttentionMaps) -> tuple[Look, ...]:
    """Where each token of the source prompt looks, mean over the steps; marks without letters are left out."""
    mean, tokens = maps.steps[:, 0].mean(0), maps.tokens[0]
    pieces = [(tokens.prompt[start:end], i) for i, (start, end) in enumerate(tokens.spans)]
    return tuple((piece, mean[..., i].clone()) for piece, i in pieces if any(map(str.isalnum, piece)))
