"""The panel's controls: one widget for every row of `nmg.lab.controls` that has a label, and the preset."""

from __future__ import annotations

import html
import math
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from nmg.attention import sites
from nmg.editors import Editor, FlowEdit, LocalBlend, MasaCtrl, Pix2PixZero
from nmg.guidance import NoiseMap
from nmg.lab.controls import CONTROLS, Control, parts
from nmg.lab.kinds import kind_of
from nmg.lab.panel.controller import Controller, Failed
from nmg.lab.panel.kit import classed, dropdown, heading, note, say, w, widget_of
from nmg.lab.presets import Preset
from nmg.lab.values import Number, Prompt

AUTOMATIC, OWN = "automatic", "own settings"
PRESET = "an editor with its numbers for a kind of edit; automatic: for the difference of the prompts"
CLASSES = {"words": "foreground"}
"""CSS classes of controls, without `nmg-`, that do not follow from their name."""
ALWAYS = ("noise_map_scale", "text_scale")
"""Controls that are disabled, not hidden, where the guidance does not have them."""


def css_class(row: Control) -> str:
    """The CSS class of a control's widget, without `nmg-`."""
    return CLASSES.get(row.name, row.name.replace("_", "-") + "-prompt" * isinstance(row.value, Prompt))


class Knobs:
    """The column of controls over a controller: prompts, preset, editor and guidance.

    Args:
        controller: whose request the controls show and turn.
        presets: by name.
        turn: called with what is turned, as `Controller.set`.
        complain: called with what is wrong with a field.
        held: tells whether a slider is dragged; None where nobody knows, so that only the last value of a drag is told.
        automatic: whether the preset follows the difference of the prompts, as it does where the editor is already its.
    """

    def __init__(
        self,
        controller: Controller,
        presets: Mapping[str, Preset],
        turn: Callable[..., object],
        complain: Callable[[str], object],
        held: Callable[[], bool] | None = None,
        automatic: bool = False,
    ):
        self.controller, self.presets, self.turn, self.complain = controller, presets, turn, complain
        self._held = held or (lambda: False)
        # Sliders may be turned in another thread than that of the cells.
        self._turning, self._here = threading.Lock(), threading.local()
        self.widgets = {row: self._watched(row, held is not None) for row in CONTROLS if row.label}
        self._fit_ranges()
        self.preset = classed(dropdown("preset", (AUTOMATIC, *presets, OWN), PRESET), "preset")
        self.preset.observe(self._chosen, "value")
        self.when, self.remarks, self.scales, self.starts = note(), note("warning"), note(), note()
        suited = self._suited(*self._prompts())
        own = suited is not None and suited.fits(*self._prompts(), controller.request.editor)
        self.automatic = automatic or own
        self.widget = classed(w.VBox(self._rows()), "controls")

    def _watched(self, row: Control, follows: bool) -> Any:
        widget = widget_of(row, follows)
        widget.observe(lambda change: self._turned(row), "value")
        return classed(widget, css_class(row))

    def _rows(self) -> list:
        """Prompts, the editor with its controls, and all else, with the notes below them."""
        below = {"target": self.remarks, "noise_map_scale": self.scales, "start_step": self.starts}
        groups: dict[str, list] = {"prompts": [], "edit": [self.preset, self.when], "guidance": []}
        for row, widget in self.widgets.items():
            prompt = row.name in ("source", "target")
            group = "prompts" if prompt else "edit" if row.name == "editor" or _of_editor(row) else "guidance"
            groups[group] += [widget, *([below[row.name]] if row.name in below else [])]
        edit, guidance = heading("What the target takes from the source"), heading("What keeps the source")
        return [*groups["prompts"], edit, *groups["edit"], guidance, *groups["guidance"]]

    def _fit_ranges(self) -> None:
        """The ranges that depend on the model and on where the scales begin."""
        for row, widget in self.widgets.items():
            if row.name == "start_layer":
                unet = self.controller.engine.backbone.network
                widget.max = sum(not site.is_cross for site in sites(unet).values()) - 1
            shown = self._displayed(row, self.controller.desk.value(row)) if row.name == "noise_map_scale" else None
            scale = row.value.shown(shown) if shown is not None else None
            if scale is not None:
                # What is stronger, a bound cuts off. A key moves it by some percent.
                widget.max = max(widget.max, scale)
                widget.step = max(widget.step, 10.0 ** (math.ceil(math.log10(max(scale, 1))) - 2))

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
        if row.name == "editor" or _of_editor(row):
            self.automatic = False
        try:
            value = row.value.read(self.widgets[row].value)
            self.turn(sketch=self._held() and isinstance(row.value, Number), **{row.name: value})
        except (TypeError, ValueError) as error:
            self.complain(Failed(error).words)

    def _chosen(self, change: Any) -> None:
        if getattr(self._here, "on", False):
            return
        self.automatic = self.preset.value == AUTOMATIC
        preset = self._suited(*self._prompts()) if self.automatic else self.presets.get(self.preset.value)
        self.turn(**({} if preset is None else {"editor": preset.build(*self._prompts())}))

    # ------------------------------------------------------------ the preset

    def completed(self, changes: Mapping[str, Any]) -> dict[str, Any]:
        """Changes with the editor of the preset, where the prompts change and no editor is given."""
        if "editor" in changes or not {"source", "target"} & changes.keys():
            return dict(changes)
        targets = changes.get("target", self.controller.request.targets)
        targets = (targets,) if isinstance(targets, str) else targets
        prompts = self._prompts(source=changes.get("source", self.controller.request.source), targets=targets)
        # A preset may name words of the prompts.
        preset = self._suited(*prompts) if self.automatic else self.presets.get(self.preset.value)
        return dict(changes) | ({} if preset is None else {"editor": preset.build(*prompts)})

    def _suited(self, source: str, target: str) -> Preset | None:
        """The preset of the kind of edit that the prompts ask for."""
        return self.presets.get(kind_of(source, target) or "") if target else None

    def _show_preset(self) -> None:
        """The preset that the editor is, if it is one."""
        prompts, request = self._prompts(), self.controller.request
        suited = self._suited(*prompts)
        self.automatic = self.automatic and (suited is None or suited.fits(*prompts, request.editor))
        # One that was chosen stays; several kinds of edit share an editor.
        first = {self.preset.value: 0, suited.name if suited else "": 1}
        fitting = [name for name, preset in self.presets.items() if preset.fits(*prompts, request.editor)]
        found = min(fitting, key=lambda name: first.get(name, 2), default="")
        if self.automatic:
            found = suited.name if suited else ""
        named = f"{AUTOMATIC}: {suited.name}" if suited else AUTOMATIC
        self.preset.options = [(named, AUTOMATIC), *((name, name) for name in (*self.presets, OWN))]
        self.preset.value = AUTOMATIC if self.automatic else found or OWN
        say(self.when, html.escape(self.presets[found].when) if found else "")

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
                shown = row.value.shown(self._displayed(row, desk.value(row)))
                # A bound cuts off what is stronger than its own strength.
                _bring(widget, shown, room=1 if row.name == "noise_map_scale" else 2)
                if row.name in ALWAYS:
                    widget.disabled = row not in used
                else:
                    widget.layout.display = "" if row in used and self._means(row) else "none"
            values = {row.name: desk.value(row) for row in used}
            if "noise_map_scale" in values:
                values["noise_map_scale"] = self._strength()
            say(self.scales, _said_scales(values))
            say(self.starts, self._said_start(values))
            remarks = "; ".join(self.controller.request.remarks(self.controller.engine.backbone))
            say(self.remarks, html.escape(remarks))
            self._show_preset()

    def _means(self, row: Control) -> bool:
        """Whether a control means something to the model."""
        return row.name != "embedded_scale" or self.controller.engine.backbone.is_told_guidance

    def _displayed(self, row: Control, value: Any) -> Any:
        """A control's value as its widget has it: a step as its share of the steps, a layer by number, the strength of
        what is put on its map at the end of its range."""
        if row.name == "noise_map_scale" and self._lands():
            return self.widgets[row].max
        if row.name == "noise_map_scale" and value is None:
            return row.value.shown(self._strength())
        if row.name == "start_step" and isinstance(value, int):
            return value / max(1, self.controller.request.steps or 1)
        if row.name == "start_layer" and value is None:
            return MasaCtrl().first_layer(self.controller.engine.backbone)
        if row.name == "amount" and value is None:
            return Pix2PixZero().amount_for(self.controller.engine.backbone)
        if row.name == "source_scale" and value is None:
            return FlowEdit().scale_for(self.controller.engine.backbone)
        if row.name == "embedded_scale" and value is None:
            return self.controller.engine.backbone.settings.embedded_scale
        return row.value.read("") if value is None and not hasattr(self.widgets[row], "max") else value

    def _lands(self) -> bool:
        """Whether the source row is put on its noise maps."""
        return any(isinstance(part, NoiseMap) and part.lands for part in parts(self.controller.request.guidance))

    def _strength(self) -> Any:
        """s_N as it acts; None for a guidance without one."""
        found = (part.scale for part in parts(self.controller.request.guidance) if isinstance(part, NoiseMap))
        return next(found, None)

    def _said_start(self, values: Mapping[str, Any]) -> str:
        count, start = self.controller.request.steps or 1, values.get("start_step")
        return "" if start is None else f"from step {MasaCtrl(start).first_step(count)} of {count} on"


def _of_editor(row: Control) -> bool:
    return issubclass(row.of[0], (Editor, LocalBlend))


def _bring(widget: Any, shown: Any, room: int) -> None:
    """Set a widget, whose range grows where it must, to `room` times the value, so that it can be turned both ways;
    what it can't show leaves it as it is."""
    if shown is None:
        return
    if hasattr(widget, "max"):
        widget.max = room * shown if shown > widget.max else widget.max
        widget.min = min(widget.min, shown)
    if hasattr(widget, "options") and shown not in widget.options:
        widget.options = (*widget.options, shown)
    widget.value = shown


def _said_scales(values: Mapping[str, Any]) -> str:
    """The product of the scales, in HTML."""
    if "noise_map_scale" not in values:
        return f"{html.escape(values['guidance'])} has no noise-map scale"
    if values["bound"] == "map":
        return "the source is put on its noise maps; turn the scale down to let it go"
    scale, gradient = values["noise_map_scale"], values["gradient_scale"]
    if not isinstance(scale, int | float):
        return "one number for each step, until you turn it"
    product = f"{scale * gradient:,.0f}".replace(",", "\u202f")
    return f"s<sub>N</sub> · s<sub>g</sub> = {scale:g} · {gradient:g} = {product}"
