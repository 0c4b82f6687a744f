"""Making a picture again and again with changed settings, and computing only what has changed."""

from __future__ import annotations

import dataclasses
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Bool, Float
from PIL import Image
from torch import Tensor

from nmg import images
from nmg.backbones import Backbone
from nmg.editors.recorder import AttentionMaps
from nmg.guidance.cache import key_of
from nmg.inversion import Trajectory, rise
from nmg.lab import figures
from nmg.lab.panel.preview import LatentPreview, guessing
from nmg.lab.panel.worker import Stopped
from nmg.levels import Step
from nmg.request import Request
from nmg.sampling import sample
from nmg.types import Latents

INVERTING = "inverting the picture"
SAMPLING = "sampling source and target"
REPLAYING = "sampling the target beside the recorded source"
KNOWN = "from the history"

MOST_TRAJECTORIES = 4
MOST_TRIED = 24
SMALL_NETWORK = 50_000_000
"""Parameters below which torch works with one thread on a CPU: in a thread beside the main one, several of its own take
twice as long for the bundled model."""

WordMap = tuple[str, Float[Tensor, "height width"]]
"""A token and its attention map."""


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
    """A picture that was made, and what is interesting about it.

    Attributes:
        request: that it was made for.
        reconstruction: the source row's picture.
        edit: the target row's; None where there was no target.
        attention: the tokens of the source prompt with their attention maps.
        region: where the edit could differ from the source, if the editor restricted it (`LocalBlend`).
        drift: mean |source row - noise map| after each step.
        ended: `nmg.Edit.drift` and `nmg.Edit.plain_drift`.
        computed: what had to be computed for it, in words.
        seconds: that this took.
    """

    request: Request
    reconstruction: Image.Image
    edit: Image.Image | None
    attention: tuple[WordMap, ...]
    region: Bool[Tensor, "latent_height latent_width"] | None
    drift: tuple[float, ...]
    ended: tuple[float, float | None]
    computed: tuple[str, ...]
    seconds: float

    @property
    def picture(self) -> Image.Image:
        """The edit, or the reconstruction where nothing was edited."""
        return self.reconstruction if self.edit is None else self.edit

    @property
    def drifted(self) -> str:
        """How far the source row ended from the picture, in words."""
        own, plain = self.ended
        than = "" if plain is None else f", {'farther than' if own > plain else 'less than'} plain DDIM's {plain:.2f}"
        return f"the source drifted by {own:.2f}{than}"


Tell = Callable[[Doing], object]


@dataclass
class _Inverted:
    """A trajectory with the source row that the last edit recorded, and the attention maps of the source's words."""

    trajectory: Trajectory
    attention: tuple[WordMap, ...] = ()


class Engine:
    """Edits one picture with changing requests.

    The inversion is made anew when the source prompt or the number of steps changes, the source row when its guidance
    changes, and otherwise the target alone. What was made for the same request before is remembered: after a change
    of the pipeline itself, by a LoRA say, make another engine.

    Engines and cells may use one pipeline at the same time: they take turns at its network calls.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        image: whatever `images.load` reads.
        size: width and height in pixels; the model's own if not given.

    Attributes:
        picture: the source, as the model sees it.
        history: the pictures that were made, the oldest first.
    """

    def __init__(self, pipe: Any, image: Any, *, size: tuple[int, int] | None = None):
        self.backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
        self.picture = self.backbone.prepare(image, size)
        self.history: list[Tried] = []
        self._inverted: dict[tuple[Any, ...], _Inverted] = {}
        self._preview: LatentPreview | None = None
        weights = sum(parameter.numel() for parameter in self.backbone.network.parameters())
        self._one_thread = self.backbone.device.type == "cpu" and weights < SMALL_NETWORK

    @torch.no_grad()
    def make(self, request: Request, tell: Tell | None = None, stopped: Stopped | None = None) -> Tried:
        """The picture of a request; its `image` and `size` are the engine's own.

        Args:
            tell: called with what is being computed, at its beginning and after each step.
            stopped: asked after each step whether to end.

        Raises:
            Cancelled: if `stopped` says so; nothing is left behind, and the next call works.
            TypeError, ValueError, …: as `nmg.edit` does.
        """
        tell = tell or (lambda doing: None)
        request = dataclasses.replace(request, image="", size=self.picture.size)
        for known in self.history:
            if known.request == request:
                tell(Doing(KNOWN, 1, 1))
                return known
        made = self._made(request, tell, stopped or (lambda: False))
        self.history = [*self.history, made][-MOST_TRIED:]
        return made

    @torch.no_grad()
    def sketch(self, request: Request, stopped: Stopped | None = None) -> Image.Image:
        """The picture of a request, of which nothing is told and nothing remembered but the inversion.

        Raises:
            Cancelled, TypeError, ValueError, …: as `make`.
        """
        request = dataclasses.replace(request, image="", size=self.picture.size)
        return self._made(request, lambda doing: None, stopped or (lambda: False)).picture

    def _made(self, request: Request, tell: Tell, stopped: Stopped) -> Tried:
        """The picture of a checked request, and what is interesting about it."""
        if self._one_thread:
            torch.set_num_threads(1)
        full = request.resolved(self.backbone).opened()
        full.check(self.backbone)
        try:
            return _Run(self, full, tell, stopped).made(request)
        finally:
            self.backbone.release()

    def inverted(self, request: Request, tell: Tell) -> _Inverted:
        """The trajectory of a request, made if it is not known."""
        key = request.source, request.steps, request.inversion, request.convention, request.offset
        if key not in self._inverted:
            tell(Doing(INVERTING, 0, request.steps or 0))
            latents = self.backbone.encode(images.to_tensor(self.picture))
            settings: Any = request.source, request.steps, request.convention, request.offset, False, request.inversion
            trajectory = rise(
                self.backbone,
                latents,
                *settings,
                callback=lambda step, x: tell(Doing(INVERTING, step.index + 1, request.steps or 0)),
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


class _Run:
    """One edit of a checked request: what is told and recorded on its way."""

    def __init__(self, engine: Engine, request: Request, tell: Tell, stopped: Stopped):
        self.engine, self.request, self._tell, self._stopped = engine, request, tell, stopped
        self.computed: list[str] = []
        self.drift: list[float] = []

    def tell(self, doing: Doing) -> None:
        if doing.what not in self.computed:
            self.computed.append(doing.what)
        self._tell(doing)
        if self._stopped():
            raise Cancelled

    def made(self, asked: Request) -> Tried:
        """The picture; `asked` is the request before its defaults were filled in."""
        start = time.perf_counter()
        backbone, inverted = self.engine.backbone, self.engine.inverted(self.request, self.tell)
        replayed = self._recorded(inverted.trajectory)
        callback = self._callback(REPLAYING if replayed else SAMPLING, inverted.trajectory)
        # The maps of the source's words are those of its recorded row.
        wanted = backbone.has_word_maps and not (replayed and inverted.attention)
        found = sample(backbone, self.request, inverted.trajectory, callback, attention=wanted)
        pictures = images.to_pil(backbone.decode(found.latents))
        inverted.trajectory = found.trajectory
        if found.attention is not None:
            inverted.attention = _word_maps(found.attention)
        return Tried(
            asked,
            pictures[0],
            pictures[1] if len(pictures) > 1 else None,
            inverted.attention,
            None if found.region is None else found.region[-1, 0],
            tuple(self.drift),
            (found.drift, found.plain_drift),
            tuple(self.computed),
            time.perf_counter() - start,
        )

    def _recorded(self, trajectory: Trajectory) -> bool:
        """Whether an earlier edit recorded the source row of this request."""
        guidance, negative = self.request.guidance, self.request.negative or ""
        cache = None if self.request.skip else trajectory.cache
        return cache is not None and guidance is not None and cache.key == key_of(trajectory, guidance, negative)

    def _callback(self, what: str, trajectory: Trajectory) -> Callable[[Step, Latents], None]:
        count = len(trajectory.steps)
        self.tell(Doing(what, 0, count))
        drift = figures.drift(trajectory, self.drift)
        guess = guessing(trajectory)

        def callback(step: Step, latents: Latents) -> None:
            drift(step, latents)
            # The source row is also moved by its guidance, so that its step does not tell its clean latent.
            clean = guess(step, latents[1:2]) if len(latents) > 1 else None
            self.tell(Doing(what, step.index + 1, count, None if clean is None else self.engine.preview(clean)))

        return callback


def _word_maps(maps: AttentionMaps) -> tuple[WordMap, ...]:
    """The map of each token of the source prompt, mean over the steps; a word of several vectors has one, and marks
    without letters are left out."""
    mean, tokens = maps.steps[:, 0].mean(0), maps.tokens[0]
    places: dict[tuple[int, int], list[int]] = {}
    for i, span in enumerate(tokens.spans):
        places.setdefault(span, []).append(i)
    pieces = [(tokens.prompt[start:end], own) for (start, end), own in places.items()]
    return tuple((piece, mean[..., own].sum(-1)) for piece, own in pieces if any(map(str.isalnum, piece)))
