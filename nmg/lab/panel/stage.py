"""The main picture of the panel: the edit under a line that is dragged, and a mask painted over it.

`Stage` needs anywidget, which brings the page's part (`stage.js`) to JupyterLab, Notebook, VS Code, Colab and Voilà.
`Still` has the same attributes without it, and shows the edit alone.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import traitlets as t

from nmg.lab.panel.kit import classed, w

try:
    import anywidget
except ModuleNotFoundError:
    anywidget = None  # type: ignore[assignment]

HERE = Path(__file__).parent
PICTURES = ("source", "reconstruction", "edit", "truth")
LACKING = (
    "To wipe, to paint a mask and to see previews while a slider is dragged: pip install 'nmg[notebook]' (anywidget)."
)


class Shown(t.HasTraits):
    """What the main picture is told, and tells.

    Attributes:
        source, reconstruction, edit, truth: encoded pictures; empty for one that is not there.
        names: what may stand left of the line.
        against: which of them does.
        showing: what the right side is called.
        captions: texts of the pictures for screen readers, by name.
        measures: a few letters below a small picture, by name.
        size: width and height of the source in pixels, which a mask has too.
        painting, erasing, brush: whether a drag paints or erases a mask, and how wide, as a share of the width.
        on_edit: whether the mask is painted over the edit, or over what stands left of the line.
        wiped: counts how often the mask was taken away.
        held: whether a slider of the panel is held.
    """

    source, reconstruction, edit, truth = (t.Bytes().tag(sync=True) for _ in PICTURES)
    names = t.List(t.Unicode(), ["source", "reconstruction", "truth"]).tag(sync=True)
    against = t.Unicode("source").tag(sync=True)
    showing = t.Unicode("edit").tag(sync=True)
    captions, measures = (t.Dict().tag(sync=True) for _ in range(2))
    size = t.List(t.Int(), [1, 1]).tag(sync=True)
    painting, erasing, on_edit, held = (t.Bool(False).tag(sync=True) for _ in range(4))
    brush = t.Float(0.1).tag(sync=True)
    wiped = t.Int(0).tag(sync=True)


Took = Callable[[str, bytes], object]
"""Called with the name of a file that was dropped, or an empty one for a mask, and the bytes of the picture."""


def stage(took: Took) -> Any:
    """The main picture, as far as the installed packages go."""
    return classed(Still() if anywidget is None else Stage(took), "stage")


def copier(said: Callable[[bool], object]) -> Any:
    """A button that copies its `text`, and calls `said` with whether it could; words in its place without anywidget."""
    return classed(Text() if anywidget is None else Copy(said, label="Copy code"), "copy")


class Text(w.HTML):
    """Words in the place of a button."""

    text = t.Unicode()

    def __init__(self) -> None:
        super().__init__("The code of the picture:")


class Still(w.VBox, Shown):
    """The edit, without a line or a mask."""

    def __init__(self) -> None:
        self._image = w.Image()
        super().__init__([self._image, classed(w.HTML(LACKING), "note")])
        self.observe(lambda change: setattr(self._image, "value", change.new), "edit")


if anywidget is not None:

    class Stage(anywidget.AnyWidget, Shown):
        """The edit right of a line that is dragged, what it is compared with left of it, and a mask over both."""

        _esm = HERE / "stage.js"

        def __init__(self, took: Took) -> None:
            super().__init__()
            self.on_msg(lambda widget, said, buffers: took(said.get("name", ""), bytes(buffers[0])))

    class Copy(anywidget.AnyWidget):
        """A button that puts a text into the clipboard.

        Attributes:
            label: of the button.
            text: what is copied.
        """

        _esm = HERE / "copy.js"
        label, text = (t.Unicode().tag(sync=True) for _ in range(2))

        def __init__(self, said: Callable[[bool], object], **options: Any) -> None:
            super().__init__(**options)
            self.on_msg(lambda widget, answer, buffers: said(answer["copied"]))
