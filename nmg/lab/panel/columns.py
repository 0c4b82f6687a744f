"""The panel's controls: one widget for every row of `nmg.lab.controls` that has a label, and the presets."""

from __future__ import annotations

import html
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nmg.attention import sites
from nmg.editors import Editor, LocalBlend, MasaCtrl
from nmg.lab.controls import CONTROLS, Control
from nmg.lab.panel.controller import Controller, Failed
from nmg.lab.panel.kit import classed, dropdown, heading, note, w, widget_of
from nmg.lab.presets import Preset, changed_words
from nmg.lab.values import Prompt

OWN = "own settings"
CLASSES = {"words": "foreground"}
"""CSS classes of controls, without `nmg-`, that do not follow from their name."""
ALWAYS = ("noise_map_scale", "text_scale")
"""Controls that are disabled, not hidden, where the guidance does not have them."""
UNDER = "0 0 0 134px"
"""Margin of a note below a control."""


def css_class(row: Control) -> str:
    """The CSS class of a control's widget, without `nmg-`."""
    return CLASSES.get(row.name, row.name.replace("_", "-") + "-prompt" * isinstance(row.value, Prompt))


class Columns:
    """Two columns of controls over a controller: prompts and guidance, preset and editor.

    Args:
        controller: whose request the controls show and turn.
        presets: by name.
        turn: called with what is turned, as `Controller.set`.
        say: called with what is wrong with a field.
    """

    def __init__(
        self,
        controller: Controller,
        presets: Mapping[str, Preset],
        turn: Callable[..., object],
        say: Callable[[str], object],
    ):
        self.controller, self.presets, self.turn, self.say = controller, presets, turn, say
        # Sliders may be turned in another thread than that of the cells.
        self._turning, self._here = threading.Lock(), threading.local()
        self.widgets = {row: self._watched(row) for row in CONTROLS if row.label}
        self._fit_ranges()
        self.preset = classed(dropdown("preset", (OWN, *presets)), "preset")
        self.preset.observe(self._chosen, "value")
        self.when, self.remarks = note(margin="0 0 4px 134px"), note(margin="0 0 4px 134px")
        self.scales, self.starts = note(margin=UNDER), note(margin=UNDER)
        self.widget = w.HBox(
            [
                self._column("Prompts and guidance", [], editing=False),
                self._column("Editor", [self.preset, self.when], editing=True),
            ],
            layout=w.Layout(margin="6px 0", flex_flow="row wrap"),
        )

    def _watched(self, row: Control) -> Any:
        widget = widget_of(row)
        widget.observe(lambda change: self._turned(row), "value")
        return classed(widget, css_class(row))

    def _column(self, title: str, rows: list, editing: bool) -> Any:
        """A heading, some rows, and the controls of the editor or of all else, with the notes below them."""
        below = {"target": self.remarks, "noise_map_scale": self.scales, "start_step": self.starts}
        for row, widget in self.widgets.items():
            if editing == (row.name == "editor" or issubclass(row.of[0], (Editor, LocalBlend))):
                rows += [widget, *([below[row.name]] if row.name in below else [])]
        layout = w.Layout(flex="1 1 400px", min_width="0", padding="0 12px 0 0")
        return w.VBox([heading(title), *rows], layout=layout)

    def _fit_ranges(self) -> None:
        """The ranges that depend on the model and on where the scales begin."""
        for row, widget in self.widgets.items():
            if row.name == "start_layer":
                unet = self.controller.engine.backbone.unet
                widget.max = sum(not site.is_cross for site in sites(unet).values()) - 1
            scale = row.value.shown(self.controller.desk.value(row)) if row.name == "noise_map_scale" else None
            if scale is not None:
                widget.max, widget.step = max(widget.max, 3 * scale), 0.5 if scale <= 10 else 1.0

    # ------------------------------------------------------------ from the user

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Widgets that are set inside the block don't count as turned."""
        with self._turning:
            self._here.on = True
            try:
                yield
            finally:
                self._here.on = False

    def _turned(self, row: Control) -> None:
        if getattr(self._here, "on", False):
            return
        try:
            changes = {row.name: row.value.read(self.widgets[row].value)}
            preset = self.presets.get(self.preset.value)
            if row.name in ("source", "target") and preset is not None:
                # A preset may name words of the prompts.
                changes["editor"] = preset.build(*self._prompts(**{row.field: changes[row.name]}))
            self.turn(**changes)
        except (TypeError, ValueError) as error:
            self.say(Failed(error).words)

    def _chosen(self, change: Any) -> None:
        preset = self.presets.get(self.preset.value)
        if preset is not None and not getattr(self._here, "on", False):
            self.turn(editor=preset.build(*self._prompts()))

    def _prompts(self, **changes: Any) -> tuple[str, str]:
        request = self.controller.request
        source, targets = changes.get("source", request.source), changes.get("targets", request.targets)
        return source or "", targets[0] if targets else ""

    # ------------------------------------------------------------ from the request

    def show(self) -> None:
        """Bring the controls to the request."""
        desk = self.controller.desk
        used = desk.in_use()
        with self._quiet():
            for row, widget in self.widgets.items():
                _bring(widget, row.value.shown(self._displayed(row, desk.value(row))))
                if row.name in ALWAYS:
                    widget.disabled = row not in used
                else:
                    widget.layout.display = "" if row in used else "none"
            values = {row.name: desk.value(row) for row in used}
            self.scales.value = _said_scales(values)
            self.starts.value = self._said_start(values)
            self.starts.layout.display = "" if "start_step" in values else "none"
            remarks = "; ".join(self.controller.request.remarks(self.controller.engine.backbone))
            self.remarks.value, self.remarks.layout.display = html.escape(remarks), "" if remarks else "none"
            self._show_preset()

    def _displayed(self, row: Control, value: Any) -> Any:
        """A control's value as its widget has it: a step as its share of the steps, a layer by number."""
        if row.name == "start_step" and isinstance(value, int):
            return value / max(1, self.controller.request.steps or 1)
        if row.name == "start_layer" and value is None:
            return MasaCtrl().first_layer(self.controller.engine.backbone)
        return row.value.read("") if value is None and not hasattr(self.widgets[row], "max") else value

    def _said_start(self, values: Mapping[str, Any]) -> str:
        count, start = self.controller.request.steps or 1, values.get("start_step")
        return "" if start is None else f"from step {MasaCtrl(start).first_step(count)} of {count} on"

    def _show_preset(self) -> None:
        """The preset that the editor is, if it is one; without a target there is no kind of edit."""
        request, prompts = self.controller.request, self._prompts()
        chosen = self.presets.get(self.preset.value)
        fitting = [kind for kind in self.presets.values() if request.targets and kind.fits(*prompts, request.editor)]
        # Several kinds of edit share an editor: the words that change tell which it is.
        words = {word for words in changed_words(*prompts) for word in words}
        fitting.sort(key=lambda preset: (preset is not chosen, words.isdisjoint(preset.words)))
        name = fitting[0].name if fitting else OWN
        self.preset.value = name
        self.when.value = html.escape(self.presets[name].when) if name in self.presets else ""


def _bring(widget: Any, shown: Any) -> None:
    """Set a widget, whose range grows where it must; what it can't show leaves it as it is."""
    if shown is None:
        return
    if hasattr(widget, "max"):
        widget.max, widget.min = max(widget.max, shown), min(widget.min, shown)
    if hasattr(widget, "options") and shown not in widget.options:
        widget.options = (*widget.options, shown)
    widget.value = shown


def _said_scales(values: Mapping[str, Any]) -> str:
    """The product of the scales, in HTML."""
    if "noise_map_scale" not in values:
        return f"{html.escape(values['guidance'])} has no noise-map scale"
    scale, gradient = values["noise_map_scale"], values["gradient_scale"]
    if not isinstance(scale, int | float):
        return "one number for each step, until you turn it"
    product = f"{scale * gradient:,.0f}".replace(",", "\u202f")
    return f"s<sub>N</sub> · s<sub>g</sub> = {scale:g} · {gradient:g} = {product}"
