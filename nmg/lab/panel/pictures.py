"""The panel's pictures: the main one, and tabs with what is drawn about an edit."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Mapping, Sequence
from typing import Any

from PIL import Image

from nmg.lab.figures import closeness
from nmg.lab.panel import drawing
from nmg.lab.panel.engine import Engine, Tried
from nmg.lab.panel.history import told_apart
from nmg.lab.panel.kit import classed, note, w
from nmg.lab.panel.origin import Origin
from nmg.request import Request

EVERY = 0.12
"""Seconds between two previews."""
DRAWN = ("change", "words", "distances")
WORDS = "Bright: where each word of the source prompt looks, in the mean over the steps."


class Pictures:
    """The main picture, and the tabs below it.

    Args:
        stage: the main picture (see `nmg.lab.panel.stage`).
        tabs: further tabs, by title.
    """

    def __init__(self, stage: Any, tabs: Mapping[str, Any]):
        self.stage = stage
        self.tried: Tried | None = None
        self._drawn_at = 0.0
        self._curves: dict[str, tuple[float, ...]] = {}
        self.drawn = {name: classed(w.HTML(""), name) for name in DRAWN}
        self.changed, self.words, drift = (note() for _ in range(3))
        drift.value = "How far the source row is from its noise map after each step: what the edit inherits."
        own = {
            "Change": w.VBox([self.changed, self.drawn["change"]]),
            "Words": w.VBox([self.words, self.drawn["words"]]),
            "Drift": w.VBox([drift, self.drawn["distances"]]),
        }
        shown = {**own, **tabs}
        self.tabs = classed(w.Tab(list(shown.values()), titles=tuple(shown)), "tabs")

    # ------------------------------------------------------------ the main picture

    def open(self, engine: Engine, origin: Origin, request: Request) -> None:
        """Another source, before anything is made of it."""
        self.engine, self.origin, self.tried, self._curves = engine, origin, None, {}
        picture = drawing.encoded(engine.picture)
        with self.stage.hold_sync():
            self.stage.size, self.stage.wiped = list(engine.picture.size), self.stage.wiped + 1
            self.stage.source, self.stage.reconstruction, self.stage.edit = picture, b"", picture
            self.stage.against, self.stage.showing, self.stage.measures = "source", "nothing made yet", {}
        self.changed.value = self.words.value = ""
        for widget in self.drawn.values():
            widget.value = ""
        self._show_truth(request)

    def show(self, tried: Tried, history: Sequence[Tried]) -> None:
        """A picture that was made, with all that is drawn about it."""
        self.tried = tried
        source = self.engine.picture
        self.stage.reconstruction = drawing.encoded(tried.reconstruction)
        self.stage.measures = {"reconstruction": closeness(tried.reconstruction, source)}
        self.show_edit()
        self._show_truth(tried.request)
        self._show_change(tried)
        self.drawn["words"].value = drawing.attention(source, tried.attention, tried.region)
        self.words.value = WORDS if tried.attention else "This model's words have no attention maps of their own."
        self._show_drift(tried, history)

    def show_edit(self) -> None:
        """The last good edit; a preview that led nowhere goes."""
        self._drawn_at = 0.0
        if self.tried is not None:
            edited = self.tried.edit is not None
            self._put(self.tried.picture, "edit" if edited else "no target: the reconstruction")

    def preview(self, picture: Image.Image, words: str = "preview") -> None:
        """What the edit will look like, unless the last preview is a moment old."""
        now = time.monotonic()
        if now - self._drawn_at > EVERY:
            self._drawn_at = now
            self._put(picture, words)

    def _put(self, picture: Image.Image, words: str) -> None:
        self.stage.showing, self.stage.edit = words, drawing.encoded(picture)

    def _show_truth(self, request: Request) -> None:
        truth, target = self.truth(request), ", ".join(request.targets)
        self.stage.truth = b"" if truth is None else drawing.encoded(truth)
        self.stage.captions = {
            "source": f"source: {request.source or 'not described yet'}",
            "reconstruction": f"reconstruction of the source: {request.source}",
            "edit": f"edit: {target}" if target else "reconstruction, since there is no target prompt",
            "truth": f"what the ideal edit shows: {target}",
        }

    def truth(self, request: Request) -> Image.Image | None:
        """What the ideal edit shows, as the model sees it."""
        truth = self.origin.truth(request.targets[0] if request.targets else "")
        return None if truth is None else self.engine.backbone.prepare(truth, self.engine.picture.size)

    # ------------------------------------------------------------ the tabs

    def _show_change(self, tried: Tried) -> None:
        source = self.engine.picture
        self.drawn["change"].value = drawing.changes(source, tried.picture, self.truth(tried.request))
        share, limit = drawing.change(source, tried.picture).mean(), drawing.CHANGED
        self.changed.value = f"Bright: the {share:.0%} of the pixels that differ from the source by over {limit:.0%}."

    def _show_drift(self, tried: Tried, history: Sequence[Tried]) -> None:
        """The drift of the source row; beside it another one for comparison, the newest that there is."""
        curves = {"this picture": tried.drift}
        if others := [other for other in history if other.drift != tried.drift]:
            label = told_apart(others[-1].request, tried.request)
            curves[textwrap.shorten(label, 40, placeholder="…")] = others[-1].drift
        if curves != self._curves:
            self._curves = curves
            self.drawn["distances"].value = drawing.drift(curves)
