"""The panel's status: what is being computed, how far, what went wrong; and how a picture is kept."""

from __future__ import annotations

import html
from collections.abc import Callable
from typing import Any

from nmg.lab.panel.controller import Failed
from nmg.lab.panel.engine import Doing
from nmg.lab.panel.kit import classed, w
from nmg.lab.panel.stage import copier


class Status:
    """Progress, the buttons that open a picture, cancel and run, and words, above the last error.

    Args:
        cancel, run: called by the buttons.
        opened: called with the name and the bytes of a picture that was chosen from disk.
    """

    def __init__(
        self,
        cancel: Callable[[], object],
        run: Callable[[], object],
        opened: Callable[[str, bytes], object],
    ):
        self.what = ""
        self.words = classed(w.HTML(""), "status")
        self.progress = classed(w.IntProgress(value=0, max=1), "progress")
        self.upload = classed(w.FileUpload(accept="image/*", description="Open…", icon=""), "upload")
        self.upload.tooltip = "another picture from disk; it may also be dropped on the one above"
        self.cancel = classed(w.Button(description="Cancel", disabled=True), "cancel")
        again = classed(w.Button(description="Run"), "run")
        for button in (self.upload, self.cancel, again):
            button.layout = w.Layout(width="92px")
        self.error = classed(w.HTML("", layout=w.Layout(display="none")), "error")
        self.cancel.on_click(lambda button: cancel())
        again.on_click(lambda button: run())
        self.upload.observe(lambda change: self._chosen(opened), "value")
        buttons = classed(w.HBox([self.upload, again, self.cancel]), "buttons")
        self.widget = classed(w.VBox([self.progress, buttons, self.words, self.error]), "status-box")

    def _chosen(self, opened: Callable[[str, bytes], object]) -> None:
        for file in self.upload.value:
            opened(file["name"], bytes(file["content"]))

    def doing(self, doing: Doing) -> None:
        """What is being computed."""
        step = f": step {doing.done} of {doing.count}" if doing.done else ""
        self.what, self.words.value = doing.what, html.escape(f"{doing.what}{step}")
        self.progress.max, self.progress.value = max(1, doing.count), doing.done
        self.progress.layout.visibility = "visible"
        self.cancel.disabled = False
        if doing.done <= 1:
            self.say("")

    def idle(self, words: str, made: bool = True) -> None:
        """Nothing is being computed any more."""
        self.words.value, self.cancel.disabled = html.escape(words), True
        self.progress.layout.visibility = "hidden"
        if not made:
            self.progress.value = 0

    def say(self, error: str) -> None:
        """What went wrong; nothing for an empty text."""
        self.error.value, self.error.layout.display = html.escape(error), "" if error else "none"


class Keeping:
    """Buttons that copy the picture's code and save it.

    Args:
        code: gives the code.
        save: writes the picture to a path and gives the paths of all that it wrote.
    """

    def __init__(self, code: Callable[[], str], save: Callable[[str], list]):
        self._code, self._save = code, save
        self.copy = copier(self._said)
        self.copied, self.saved = classed(w.HTML(""), "copied", "note"), classed(w.HTML(""), "saved", "note")
        self.code = classed(w.Textarea(layout=w.Layout(width="auto")), "code")
        self.path = classed(w.Text("edit.png", placeholder="edit.png", description="as"), "save-path")
        self.path.style.description_width = "20px"
        keep = classed(w.Button(description="Save", layout=w.Layout(width="92px")), "save")
        keep.on_click(lambda button: self._keep())
        rows = (classed(w.HBox(row), "buttons") for row in ([keep, self.path, self.saved], [self.copy, self.copied]))
        self.widget: Any = w.VBox([*rows, self.code])

    def refresh(self) -> None:
        """The code of another picture."""
        try:
            self.code.value = self.copy.text = self._code()
            self.code.rows, self.copied.value = self.code.value.count("\n") + 2, ""
        except (TypeError, ValueError) as error:
            self.code.value = self.copy.text = ""
            self.copied.value = _wrong(error)

    def _said(self, copied: bool) -> None:
        self.copied.value = "copied" if copied else "the page may not use the clipboard: copy the text below"

    def _keep(self) -> None:
        try:
            written = self._save(self.path.value)
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            self.saved.value = _wrong(error)
            return
        self.saved.value = "wrote " + " and ".join(html.escape(str(path)) for path in written)


def _wrong(error: Exception) -> str:
    return f'<span class="nmg-error">{html.escape(Failed(error).words)}</span>'
