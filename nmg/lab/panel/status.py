"""The panel's status: what is being computed, how far, what went wrong; and how a picture is kept."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from nmg.lab.panel.controller import Failed
from nmg.lab.panel.engine import Doing
from nmg.lab.panel.kit import classed, w


class Status:
    """A line with progress, Cancel, Run and words, above the last error.

    Args:
        cancel, run: called by the buttons.
    """

    def __init__(self, cancel: Callable[[], object], run: Callable[[], object]):
        self.what = ""
        self.words = classed(w.HTML("", layout=w.Layout(flex="1 1 auto")), "status")
        self.progress = classed(w.IntProgress(value=0, max=1, layout=w.Layout(flex="0 1 260px")), "progress")
        fixed = {"width": "80px", "flex": "0 0 auto"}
        self.cancel = classed(w.Button(description="Cancel", disabled=True, layout=w.Layout(**fixed)), "cancel")
        again = classed(w.Button(description="Run", layout=w.Layout(**fixed)), "run")
        self.error = classed(w.HTML("", layout=w.Layout(display="none")), "error")
        self.cancel.on_click(lambda button: cancel())
        again.on_click(lambda button: run())
        line = w.HBox([self.progress, self.cancel, again, self.words], layout=w.Layout(align_items="center"))
        self.widget = w.VBox([line, self.error])

    def doing(self, doing: Doing) -> None:
        """What is being computed."""
        step = f": step {doing.done} of {doing.count}" if doing.done else ""
        self.what, self.words.value = doing.what, html.escape(f"{doing.what}{step}")
        self.progress.max, self.progress.value = max(1, doing.count), doing.done
        self.cancel.disabled = False
        if doing.done <= 1:
            self.say("")

    def idle(self, words: str, made: bool = True) -> None:
        """Nothing is being computed any more."""
        self.words.value, self.cancel.disabled = html.escape(words), True
        if not made:
            self.progress.value = 0

    def say(self, error: str) -> None:
        """What went wrong; nothing for an empty text."""
        self.error.value, self.error.layout.display = html.escape(error), "" if error else "none"


class Keeping:
    """Buttons that save the picture and write its code.

    Args:
        code: gives the code.
        save: writes the picture to a path and gives the paths of all that it wrote.
        say: called with what went wrong with the code.
    """

    def __init__(self, code: Callable[[], str], save: Callable[[str], list], say: Callable[[str], object]):
        self._code, self._save, self._say = code, save, say
        button = classed(w.Button(description="Copy as code", layout=w.Layout(width="130px")), "code-button")
        self.code = classed(w.Textarea(rows=14, layout=w.Layout(width="auto", display="none")), "code")
        self.path = classed(w.Text("edit.png", placeholder="edit.png"), "save-path")
        keep = classed(w.Button(description="Save", layout=w.Layout(width="130px")), "save")
        self.saved = classed(w.HTML(""), "saved", "note")
        button.on_click(lambda button: self._show_code())
        keep.on_click(lambda button: self._keep())
        self.widget: Any = w.VBox([w.HBox([keep, self.path]), self.saved, button, self.code])

    def refresh(self) -> None:
        """The code of another picture, if it is shown."""
        if self.code.layout.display != "none":
            self._show_code()

    def _show_code(self) -> None:
        try:
            self.code.value, self.code.layout.display = self._code(), ""
        except (TypeError, ValueError) as error:
            self._say(Failed(error).words)

    def _keep(self) -> None:
        try:
            written = self._save(self.path.value)
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            self.saved.value = f'<span class="nmg-error">{html.escape(Failed(error).words)}</span>'
            return
        self.saved.value = "wrote " + " and ".join(html.escape(str(path)) for path in written)
