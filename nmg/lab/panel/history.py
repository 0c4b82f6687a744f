"""The strip of tried settings, and what tells one from another."""

from __future__ import annotations

import html
import textwrap
from collections.abc import Callable, Mapping
from typing import Any

from nmg.lab.controls import Control
from nmg.lab.panel import drawing
from nmg.lab.panel.controller import Controller
from nmg.lab.panel.desk import Desk, differing
from nmg.lab.panel.engine import Tried
from nmg.lab.panel.kit import classed, heading, w
from nmg.lab.presets import changed_words
from nmg.lab.values import Prompt, Weights, Words
from nmg.request import Request

TILES = 12
"""Tried settings in the strip."""


class History:
    """The strip: a click on a picture goes back to it.

    Args:
        controller: of the pictures.
        went: called after going back.
    """

    def __init__(self, controller: Controller, went: Callable[[], object]):
        self.controller, self.went = controller, went
        self._tried: tuple[Tried, ...] = ()
        # Made beforehand, so that no thread makes a widget.
        self._tiles = [self._tile(place) for place in range(TILES)]
        self.strip = classed(w.Box([]), "history")
        self.widget = classed(w.VBox([heading("Tried so far: click to go back"), self.strip]), "tried-box")
        self.widget.layout.display = "none"

    def _tile(self, place: int) -> Any:
        """A picture with words, and over both a button that says them."""
        picture, button = w.HTML(), w.Button()
        button.on_click(lambda button: self._go_back(place))
        return classed(w.VBox([picture, button]), "tried")

    def _go_back(self, place: int) -> None:
        self.controller.go_back(self._tried[place])
        self.went()

    def show(self) -> None:
        """The newest pictures, with the one that is shown marked."""
        history = self.controller.history
        tried = history[-TILES:]
        before = (None, *history)[len(history) - len(tried) :]
        for tile, entry, earlier in zip(self._tiles, tried, before, strict=False):
            picture, button = tile.children
            words = told_apart(entry.request, earlier.request) if earlier else "first"
            picture.value = f"{drawing.img(entry.picture, '', 168)}{html.escape(words)}"
            button.description, button.tooltip = words, described(entry.request)
            (tile.add_class if entry is self.controller.result else tile.remove_class)("nmg-current")
        # What a tile shows is what a click on it goes back to.
        self._tried = tried
        self.strip.children = tuple(self._tiles[: len(tried)])
        self.widget.layout.display = "" if tried else "none"


# ---------------------------------------------------------------- in words


def told_apart(request: Request, other: Request) -> str:
    """What differs from another request, in few words."""
    found = []
    for row, value in differing(request, other).items():
        words = short(row, value)
        if isinstance(row.value, Prompt) and row.name != "negative":
            before = row.value.shown(getattr(other, row.field))
            words = ", ".join(changed_words(before, row.value.shown(value))[1]) or "shorter"
        label = (row.label or row.name.replace("_", " ")).removesuffix(" prompt")
        found.append(f"{label} {textwrap.shorten(words, 24, placeholder='…')}")
    return ", ".join(found[:2]) + ("…" if len(found) > 2 else "") or "as before"


def described(request: Request) -> str:
    """All settings in use that have a control, one a line."""
    desk = Desk.of(request)
    return "\n".join(f"{row.label}: {short(row, desk.value(row))}" for row in desk.in_use() if row.label)


def short(row: Control, value: Any) -> str:
    """A control's value in few letters."""
    if isinstance(value, float):
        return f"{value:g}"
    if value is None or value == ():
        return "none"
    if isinstance(row.value, Prompt):
        return f"“{row.value.shown(value)}”"
    if isinstance(value, Mapping) and isinstance(row.value, Weights):
        return row.value.shown(value) or "none"
    if isinstance(value, tuple | list):
        return (isinstance(row.value, Words) and row.value.shown(value)) or "given"
    return str(value)
