"""The tab in which a mask is painted over the main picture, and what it is used for."""

from __future__ import annotations

import io
from collections.abc import Callable
from typing import Any

from PIL import Image

from nmg import masks
from nmg.lab.controls import CONTROLS, Control
from nmg.lab.panel.controller import Controller
from nmg.lab.panel.kit import classed, dropdown, note, w
from nmg.lab.panel.stage import LACKING
from nmg.lab.values import File

USES = tuple(row for row in CONTROLS if isinstance(row.value, File) and "mask" in row.field)
"""The controls that take a mask."""
NOTHING = "nothing yet"
HOW = (
    "Drag over the picture to paint. By keyboard: the arrows move the brush, with shift they paint, space paints a "
    "dot. The mask is shown while this tab is open."
)


class MaskTab:
    """Brush, file, and use of the mask.

    Args:
        controller: whose request has the mask.
        stage: the main picture, which is painted on.
        turn: called with what is turned, as `Controller.set`.
    """

    def __init__(self, controller: Controller, stage: Any, turn: Callable[..., object]):
        self.controller, self.stage, self.turn = controller, stage, turn
        self.mask: Image.Image | None = None
        self._used: Control | None = None
        self.use = classed(dropdown("use it for", (NOTHING, *(_words(row) for row in USES))), "mask-use")
        self.use.layout.max_width = "420px"
        self.brush = w.FloatSlider(value=0.1, min=0.01, max=0.4, step=0.01, description="brush", readout_format=".0%")
        self.erase = classed(w.Checkbox(description="erase", indent=False, layout=w.Layout(width="auto")), "erase")
        clear = classed(w.Button(description="Clear", layout=w.Layout(width="80px")), "clear")
        for name, widget in (("brush", self.brush), ("erasing", self.erase)):
            widget.observe(lambda change, name=name: setattr(stage, name, change.new), "value")
        clear.on_click(lambda button: self.take(None))
        self.use.observe(lambda change: self._apply(), "value")
        self.said = note()
        how = note()
        how.value = HOW if hasattr(stage, "_esm") else LACKING
        tools = classed(w.HBox([classed(self.brush, "brush"), self.erase, clear]), "buttons")
        self.widget = w.VBox([how, tools, self.use, self.said])

    def take(self, data: bytes | None) -> None:
        """A mask as the page painted it, a PNG that is transparent outside of it; none clears it."""
        picture = None if data is None else masks.picture(Image.open(io.BytesIO(data)).getchannel("A"))
        self.mask = None if picture is None or picture.getbbox() is None else picture
        if data is None:
            self.stage.wiped += 1
        self._apply()

    def forget(self) -> dict[str, None]:
        """Drop the mask of a picture that is closed, and give the changes that take it out of the request."""
        changes = {self._used.name: None} if self._used else {}
        self.mask = self._used = None
        self.use.value = NOTHING
        return changes

    def _apply(self) -> None:
        """Give the mask to the control that it is used for, and take it from the one before."""
        used = next((row for row in USES if _words(row) == self.use.value), None)
        rows = {row.name: row for row in self.controller.desk.in_use()}
        changes: dict[str, Any] = {} if self._used in (None, used) else {self._used.name: None}
        self.said.value = ""
        if used is not None:
            if used.name not in rows:
                self.said.value = f"{_owner(used)} takes this mask, and is not in use: choose it above."
            changes[used.name] = self.mask
        before = self._used
        self._used, self.stage.on_edit = used, used is not None and used.name.startswith("target")
        if changes and (self.mask is not None or before is not None):
            self.turn(**changes)


def _words(row: Control) -> str:
    return row.help.split(",")[0].removeprefix("mask of ")


def _owner(row: Control) -> str:
    return row.of[0].__name__
