"""The panel's pictures: source, reconstruction, edit and truth, and what is drawn about an edit."""

from __future__ import annotations

import textwrap
import time
from collections.abc import Sequence
from typing import Any

from PIL import Image

from nmg.lab.panel import drawing
from nmg.lab.panel.engine import Engine, Tried
from nmg.lab.panel.history import told_apart
from nmg.lab.panel.kit import classed, note, put, put_png, w
from nmg.lab.panel.origin import Origin
from nmg.request import Request

EVERY = 0.12
"""Seconds between two previews."""
DRAWN = ("wiped", "change", "words", "distances")


class Pictures:
    """A row of pictures, and tabs with a wipe, the change, the attention maps and the drift.

    Args:
        engine: of the source.
        origin: knows the truth of a target.
        keeping: the widget of the last tab.
    """

    def __init__(self, engine: Engine, origin: Origin, keeping: Any):
        self.engine, self.origin = engine, origin
        self.small = drawing.is_small(engine.picture)
        self.tried: Tried | None = None
        self._drawn_at = 0.0
        self._curves: dict[str, tuple[float, ...]] = {}
        names = ("source", "reconstruction", "edit", *(("truth",) if origin.has_truths else ()))
        self.images = {name: classed(w.Image(), name) for name in (*names, *DRAWN)}
        for image in self.images.values():
            image.layout = w.Layout(max_width="100%", object_fit="contain")
        self.captions = {name: classed(w.HTML(name), "caption") for name in names}
        self.row = self._build_row()
        self.tabs = self._build_tabs(keeping)

    def _build_row(self) -> Any:
        side = f"{drawing.SIDE}px" if len(self.captions) > 3 or self.small else "340px"
        self.columns = {}
        for name, caption in self.captions.items():
            self.images[name].layout.width = side
            layout = w.Layout(width=side, margin="0 8px 0 0")
            self.columns[name] = w.VBox([caption, self.images[name]], layout=layout)
        return w.HBox(list(self.columns.values()), layout=w.Layout(flex_flow="row wrap"))

    def _build_tabs(self, keeping: Any) -> Any:
        self.wipe = classed(w.FloatSlider(value=0.5, min=0, max=1, step=0.01, readout=False, description=""), "wipe")
        self.wipe.layout = w.Layout(width=f"{drawing.WIPE_SIDE}px")
        self.wipe.observe(lambda change: self._show_wipe(), "value")
        self.changed = note()
        tabs = {
            "Before | after": w.VBox([self.images["wiped"], self.wipe]),
            "Change": w.VBox([self.images["change"], self.changed]),
            "Words": self.images["words"],
            "Distance": self.images["distances"],
            "Keep": keeping,
        }
        return w.Tab(list(tabs.values()), titles=tuple(tabs))

    # ------------------------------------------------------------ the row

    def begin(self, request: Request) -> None:
        """The source, and grey in the place of what is not there yet."""
        grey = Image.new("RGB", self.engine.picture.size, (128, 128, 128))
        for name in self.captions:
            self._put(name, self.engine.picture if name == "source" else grey)
        self._show_truth(request)

    def show(self, tried: Tried, history: Sequence[Tried]) -> None:
        """A picture that was made, with all that is drawn about it."""
        self.tried = tried
        source = self.engine.picture
        self._put("reconstruction", tried.reconstruction)
        close = drawing.closeness(tried.reconstruction, source)
        self.captions["reconstruction"].value = f"reconstruction ({close})"
        self.show_edit()
        self._show_truth(tried.request)
        self._show_wipe()
        self._show_change(tried)
        put_png(self.images["words"], drawing.attention(source, tried.attention, tried.region))
        self._show_drift(tried, history)

    def show_edit(self) -> None:
        """The last good edit; a preview that led nowhere goes."""
        self._drawn_at = 0.0
        if self.tried is not None:
            self._put("edit", self.tried.picture)
        edited = self.tried is None or self.tried.edit is not None
        self.captions["edit"].value = "edit" if edited else "no target: the reconstruction"

    def preview(self, picture: Image.Image) -> None:
        """What the edit will look like, unless the last preview is a moment old."""
        now = time.monotonic()
        if now - self._drawn_at > EVERY:
            self._drawn_at = now
            self._put("edit", picture)
            self.captions["edit"].value = "edit <i>(preview)</i>"

    def _put(self, name: str, picture: Image.Image) -> None:
        put(self.images[name], picture, self.small)

    def _show_truth(self, request: Request) -> None:
        if "truth" in self.images:
            truth = self.truth(request)
            self.columns["truth"].layout.display = "none" if truth is None else ""
            if truth is not None:
                self._put("truth", truth)

    def truth(self, request: Request) -> Image.Image | None:
        """What the ideal edit shows, as the model sees it."""
        truth = self.origin.truth(request.targets[0] if request.targets else "")
        return None if truth is None else self.engine.backbone.prepare(truth, self.engine.picture.size)

    # ------------------------------------------------------------ the tabs

    def _show_wipe(self) -> None:
        """The source left of the slider and the edit right of it."""
        if self.tried is not None:
            shown = (self.engine.picture, self.tried.picture)
            before, after = (drawing.enlarged(picture, drawing.WIPE_SIDE) for picture in shown)
            wiped, format = drawing.wiped(before, after, self.wipe.value), "png" if self.small else "jpeg"
            image = self.images["wiped"]
            image.format, image.value = format, drawing.encoded(wiped, format)
            image.layout.width = f"{drawing.WIPE_SIDE}px"

    def _show_change(self, tried: Tried) -> None:
        source = self.engine.picture
        put_png(self.images["change"], drawing.changes(source, tried.picture, self.truth(tried.request)))
        share, limit = drawing.change(source, tried.picture).mean(), drawing.CHANGED
        self.changed.value = f"{share:.0%} of the pixels differ from the source by more than {limit:.0%} of the range"

    def _show_drift(self, tried: Tried, history: Sequence[Tried]) -> None:
        """The drift of the source row; beside it another one for comparison, the newest that there is."""
        curves = {"this picture": tried.drift}
        if others := [other for other in history if other.drift != tried.drift]:
            label = told_apart(others[-1].request, tried.request)
            curves[textwrap.shorten(label, 40, placeholder="…")] = others[-1].drift
        if curves != self._curves:
            self._curves = curves
            put_png(self.images["distances"], drawing.drift(curves))
