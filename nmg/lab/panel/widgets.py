"""The interactive panel in a notebook: turn the guidance scales and see what becomes of the edit.

    from nmg.lab.panel import widgets

    widgets.panel(pipe, "photo.jpg", "a cat on a table", "a tiger on a table")

Needs ipywidgets (`pip install 'nmg[notebook]'`). All that it shows can be had without: see `nmg.lab.panel`.
"""

from __future__ import annotations

import html
import textwrap
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

from PIL import Image

try:
    import ipywidgets as w
except ImportError as error:
    raise ImportError(
        "the panel needs ipywidgets; pip install 'nmg[notebook]', or use nmg.lab.panel without widgets"
    ) from error

from nmg.attention import sites
from nmg.backbones import Backbone
from nmg.editors import Editor, MasaCtrl
from nmg.guidance import Guidance, default_guidance
from nmg.inversion import Inversion
from nmg.lab.controls import EDITORS, GUIDANCES
from nmg.lab.examples import Example
from nmg.lab.panel import looks, texts
from nmg.lab.panel.controller import Controller, Ended, Event, Failed, Made
from nmg.lab.panel.engine import KNOWN, Doing, Engine, Tried
from nmg.lab.panel.keeping import code, save
from nmg.lab.panel.origin import Origin
from nmg.lab.panel.settings import LABELS, Settings
from nmg.lab.presets import Preset, changed_words
from nmg.lab.profile import profile_of
from nmg.menagerie.captions import caption

TILES = 12
"""Tried settings in the strip."""
EVERY = 0.12
"""Seconds between two previews."""
OWN = "own settings"
CLASSES = {
    "source": "source-prompt",
    "target": "target-prompt",
    "negative": "negative-prompt",
    "words": "foreground",
}
"""CSS classes of controls, without `nmg-`, that are not their setting's name."""

STYLE = """<style>
.nmg-panel { --nmg-line: var(--jp-border-color2, #ddd); }
.nmg-panel img { border-radius: 3px; }
.nmg-small img:not(.nmg-words):not(.nmg-distances) { image-rendering: pixelated; }
.nmg-panel .nmg-caption { line-height: 1.3; font-size: 12px; }
.nmg-panel .nmg-heading { font-weight: 600; margin-top: 2px; border-bottom: 1px solid var(--nmg-line); }
.nmg-panel .nmg-note { opacity: 0.8; }
.nmg-panel .nmg-note .widget-html-content { font-size: 12px; line-height: 1.35; }
.nmg-panel .nmg-error { color: var(--jp-error-color1, #b00020); line-height: 1.4; white-space: pre-wrap; }
.nmg-panel .nmg-code textarea { font-family: var(--jp-code-font-family, monospace); font-size: 12px; }
.nmg-panel .nmg-tried { position: relative; }
.nmg-panel .nmg-tried button { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; padding: 88px 2px 0;
  background: transparent; font-size: 11px; line-height: 13px; white-space: normal; }
.nmg-panel .nmg-tried button:hover { box-shadow: inset 0 0 0 2px var(--jp-brand-color1, #1976d2); }
.nmg-panel .nmg-tried.nmg-current button { box-shadow: inset 0 0 0 2px var(--jp-brand-color1, #1976d2); }
</style>"""


def panel(
    pipe: Any,
    image: Any,
    source: str | None = None,
    target: str | None = None,
    *,
    guidance: Guidance | None = None,
    editor: Editor | None = None,
    steps: int = 50,
    negative: str | None = None,
    size: tuple[int, int] | None = None,
    inversion: Inversion | None = None,
    truth: Any = None,
    presets: Mapping[str, Preset] | None = None,
    start: bool = True,
) -> Panel:
    """Open the panel over a picture; as the last line of a cell it is shown.

    Every control is also an argument of `nmg.edit`: "copy as code" writes the call. Cells and panels may use one
    pipeline at the same time: they take turns at its network calls.

    Args:
        pipe: a loaded Stable Diffusion pipeline, or a `Backbone`.
        image: whatever `images.load` reads; "scene:SEED,kind=cat,…" of the bundled world; or an `Example` of
            `nmg.lab.examples`, which brings the prompts, the editor and the truth.
        source: what the picture shows; a scene brings its caption.
        target: what the edit should show; none for the reconstruction alone.
        guidance: how the source row is kept on its path; `nmg.default_guidance(pipe)` if not given.
        editor: what the target takes from the source; the example's, or `PromptToPrompt()`, if not given.
        steps: DDIM steps.
        negative: prompt of the null half; the editor's habit if not given.
        size: width and height in pixels; the model's own if not given.
        inversion: how the noise is predicted on the way up; `DDIM()` if not given.
        truth: a picture of the ideal edit for `target`.
        presets: by name; those that suit the model if not given (see `nmg.lab.profile`).
        start: whether to make the first picture at once.

    Raises:
        TypeError, ValueError, FileNotFoundError: for a picture or size that can't be used. What is wrong with the
            settings is said in the panel.
    """

    if isinstance(image, Example):
        example, image = image, image.image
        target = example.target if target is None else target
        truth = example.truth if truth is None and target == example.target else truth
        source, editor = source or example.source, editor or example.editor
    origin = Origin.of(image, target or "", truth)
    if source is None and origin.scene is not None:
        source = caption(origin.scene)
    if source is None:
        raise ValueError('source is missing; say what the picture shows, such as source="a photo of a cat"')
    engine = Engine(pipe, origin.picture, size=size, inversion=inversion)
    settings = Settings(source, target or "", steps, negative).but(guidance=guidance or default_guidance(pipe))
    settings = settings if editor is None else settings.but(editor=editor)
    made = Panel(engine, origin, settings, profile_of(engine.backbone).presets() if presets is None else presets)
    if start:
        made.run()
    return made


# ---------------------------------------------------------------- controls


@dataclass(frozen=True)
class Control:
    """A widget that turns one setting.

    Attributes:
        name: of the setting.
        widget: has a `value`.
        read: the widget's value to the setting's.
        shown: the setting's value to the widget's; None for one that the widget can't show,
            which stays until it is turned.
    """

    name: str
    widget: Any
    read: Callable[[Any], Any] = lambda value: value
    shown: Callable[[Any], Any] = lambda value: value

    def show(self, value: Any) -> None:
        shown = self.shown(value)
        if shown is None:
            return
        if hasattr(self.widget, "max") and shown > self.widget.max:
            self.widget.max = shown
        if hasattr(self.widget, "min") and shown < self.widget.min:
            self.widget.min = shown
        if hasattr(self.widget, "options") and shown not in self.widget.options:
            self.widget.options = (*self.widget.options, shown)
        self.widget.value = shown


WIDE = {"width": "auto", "margin": "2px 0"}


def _look(name: str) -> dict[str, Any]:
    return {
        "description": LABELS[name],
        "style": {"description_width": "130px"},
        "layout": w.Layout(**WIDE),
        "continuous_update": False,
    }


def _classed(widget: Any, *names: str) -> Any:
    for name in names:
        widget.add_class(f"nmg-{name}")
    return widget


def _number(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else None


def _slider(name: str, low: float, high: float, step: float) -> Control:
    whole = all(isinstance(value, int) for value in (low, high, step))
    kind = w.IntSlider if whole else w.FloatSlider
    options = {} if whole else {"readout_format": ".2f" if step < 0.5 else ".1f"}
    return Control(name, kind(min=low, max=high, step=step, **_look(name), **options), shown=int if whole else _number)


def _text(name: str, example: str, kind: Any = None, read: Any = str, shown: Any = str) -> Control:
    return Control(name, (kind or w.Text)(placeholder=example, **_look(name)), read, shown)


def _choice(name: str, options: tuple[str, ...]) -> Control:
    look = {key: value for key, value in _look(name).items() if key != "continuous_update"}
    return Control(name, w.Dropdown(options=options, **look))


def _controls(settings: Settings, backbone: Backbone) -> dict[str, Control]:
    """Every control by its setting."""
    layers = sum(not site.is_cross for site in sites(backbone.unet).values())
    scale = _number(settings.noise_map_scale) or 10.0
    made = (
        _text("source", "what the picture shows", lambda **look: w.Textarea(rows=2, **look)),
        _text("target", "what the edit should show", lambda **look: w.Textarea(rows=2, **look)),
        _text(
            "negative", "the editor's habit", read=lambda text: text.strip() or None, shown=lambda value: value or ""
        ),
        _slider("steps", 1, max(100, settings.steps), 1),
        _choice("guidance", tuple(GUIDANCES)),
        _slider("noise_map_scale", 0.0, max(30.0, 3 * scale), 0.5 if scale <= 10 else 1.0),
        _slider("text_scale", 0.0, 20.0, 0.25),
        _choice("editor", tuple(EDITORS)),
        _slider("cross_replace", 0.0, 1.0, 0.05),
        _slider("self_replace", 0.0, 1.0, 0.05),
        _text("blend", "cat, tiger: the source's, the target's", read=texts.read_pair, shown=texts.write_words),
        _text("weights", "tiger=2, snow=0.5", read=texts.read_weights, shown=texts.write_weights),
        _slider("start_step", 0.0, 0.98, 0.02),
        _slider("start_layer", 0, layers - 1, 1),
        _text(
            "words",
            "cat, cat: the source's, the target's",
            read=lambda text: texts.read_pair(text) or None,
            shown=texts.write_words,
        ),
        _text("direction", "cat, dog: from, to", read=texts.read_direction, shown=texts.write_words),
        _slider("amount", 0.0, 0.5, 0.01),
    )
    return {control.name: control for control in made}


# ---------------------------------------------------------------- the panel


class Panel(w.VBox):
    """The panel: controls over a `Controller`, and the pictures that it makes.

    Attributes:
        controller: what computes; `settings`, `result`, `history` and `error` are its own.
    """

    def __init__(self, engine: Engine, origin: Origin, settings: Settings, presets: Mapping[str, Preset]):
        super().__init__(layout=w.Layout(width="100%", max_width="1100px", padding="4px"))
        self.add_class("nmg-panel")
        if looks.is_small(engine.picture):
            self.add_class("nmg-small")
        self._origin, self._presets = origin, presets
        # Sliders may be turned in another thread than that of the cells.
        self._turning, self._set_here = threading.Lock(), threading.local()
        self._doing, self._drawn_at = "", 0.0
        self._curves: dict[str, tuple[float, ...]] = {}
        self._tried: tuple[Tried, ...] = ()
        self.controller = Controller(engine, settings, self._told)
        self._controls = _controls(settings, engine.backbone)
        self._build()
        self._show_settings()
        self._show_pictures(None)

    # ------------------------------------------------------------ for cells and tests

    @property
    def settings(self) -> Settings:
        return self.controller.settings

    @property
    def result(self) -> Tried | None:
        """The picture that is shown, with what it was made with; None before the first."""
        return self.controller.result

    @property
    def history(self) -> tuple[Tried, ...]:
        return self.controller.history

    @property
    def error(self) -> Exception | None:
        return self.controller.error

    def set(self, **changes: Any) -> None:
        """Change settings, as the controls do; see `Settings` for their names.
        `guidance` and `editor` may be methods."""
        self.controller.set(**changes)
        self._show_settings()

    def run(self) -> None:
        """Make the picture of the settings as they are."""
        self.set()

    def cancel(self) -> None:
        """Give up what is being made, within one step."""
        self.controller.cancel()

    def wait(self, timeout: float | None = None) -> bool:
        """Wait until nothing is being made; False if it still is after `timeout` seconds."""
        return self.controller.wait(timeout)

    def code(self) -> str:
        """The call that makes the picture that is shown."""
        settings = self.settings if self.result is None else self.result.settings
        return code(settings, self.controller.engine, self._origin)

    def save(self, path: Any) -> list:
        """Write the picture that is shown, with its recipe; see `nmg.lab.panel.save`.

        Raises:
            RuntimeError: before the first picture.
        """
        if self.result is None:
            raise RuntimeError("there is no picture yet; wait for it")
        return save(self.result, self.controller.engine, self._origin, path)

    def close(self) -> None:
        """Give up what is being made, end the thread and remove the panel."""
        if hasattr(self, "controller"):
            self.controller.close()
        super().close()

    # ------------------------------------------------------------ building

    def _build(self) -> None:
        self._pictures = {name: w.Image(layout=w.Layout(width="auto")) for name in ("source", "reconstruction", "edit")}
        if self._origin.has_truths:
            self._pictures["truth"] = w.Image()
        self._wiped, self._change, self._words, self._distances = (w.Image() for _ in range(4))
        shown = {**self._pictures, "wiped": self._wiped, "change": self._change}
        shown |= {"words": self._words, "distances": self._distances}
        for name, image in shown.items():
            _classed(image, name)
            image.layout = w.Layout(max_width="100%", object_fit="contain")
        self._captions = {name: _classed(w.HTML(name), "caption") for name in self._pictures}
        self.children = (
            w.HTML(STYLE, layout=w.Layout(display="none")),
            self._build_row(),
            self._build_status(),
            w.HBox(
                [self._build_guidance(), self._build_editor()], layout=w.Layout(margin="6px 0", flex_flow="row wrap")
            ),
            self._build_looks(),
            self._build_history(),
        )

    def _build_row(self) -> Any:
        """Source | reconstruction | edit | truth."""
        side = f"{looks.SIDE}px" if len(self._pictures) > 3 or self._small else "340px"
        columns = []
        for name, image in self._pictures.items():
            image.layout.width = side
            columns.append(w.VBox([self._captions[name], image], layout=w.Layout(width=side, margin="0 8px 0 0")))
        self._columns = dict(zip(self._pictures, columns, strict=True))
        return w.HBox(columns, layout=w.Layout(flex_flow="row wrap"))

    def _build_status(self) -> Any:
        self._status = _classed(w.HTML("", layout=w.Layout(flex="1 1 auto")), "status")
        self._progress = _classed(w.IntProgress(value=0, max=1, layout=w.Layout(flex="0 1 260px")), "progress")
        fixed = {"width": "80px", "flex": "0 0 auto"}
        self._cancel = _classed(w.Button(description="Cancel", disabled=True, layout=w.Layout(**fixed)), "cancel")
        self._again = _classed(w.Button(description="Run", layout=w.Layout(**fixed)), "run")
        self._error = _classed(w.HTML("", layout=w.Layout(display="none")), "error")
        self._cancel.on_click(lambda button: self.cancel())
        self._again.on_click(lambda button: self.run())
        line = w.HBox([self._progress, self._cancel, self._again, self._status], layout=w.Layout(align_items="center"))
        return w.VBox([line, self._error])

    def _build_guidance(self) -> Any:
        """The column of prompts and guidance."""
        self._scales = _classed(w.HTML("", layout=w.Layout(margin="0 0 0 134px")), "note")
        names = ("source", "target", "guidance", "noise_map_scale", "text_scale", "steps", "negative")
        rows = [self._watched(name) for name in names]
        rows.insert(names.index("noise_map_scale") + 1, self._scales)
        return self._column("Prompts and guidance", rows)

    def _build_editor(self) -> Any:
        """The column of the editor: preset, kind, and the controls of the kind."""
        look = {key: value for key, value in _look("editor").items() if key != "continuous_update"}
        options = (OWN, *self._presets)
        self._preset = _classed(w.Dropdown(options=options, **{**look, "description": "preset"}), "preset")
        self._preset.observe(self._chosen, "value")
        self._when = _classed(w.HTML("", layout=w.Layout(margin="0 0 4px 134px")), "note")
        self._starts = _classed(w.HTML("", layout=w.Layout(margin="0 0 0 134px")), "note")
        names = ("editor", "cross_replace", "self_replace", "blend", "weights", "start_step")
        rest = ("start_layer", "words", "direction", "amount")
        rows = [self._preset, self._when, *map(self._watched, names), self._starts, *map(self._watched, rest)]
        return self._column("Editor", rows)

    @staticmethod
    def _column(heading: str, rows: list) -> Any:
        title = _classed(w.HTML(html.escape(heading)), "heading")
        return w.VBox([title, *rows], layout=w.Layout(flex="1 1 400px", min_width="0", padding="0 12px 0 0"))

    def _watched(self, name: str) -> Any:
        control = self._controls[name]
        control.widget.observe(lambda change: self._turned(control), "value")
        return _classed(control.widget, CLASSES.get(name, name.replace("_", "-")))

    def _build_looks(self) -> Any:
        self._wipe = _classed(w.FloatSlider(value=0.5, min=0, max=1, step=0.01, readout=False, description=""), "wipe")
        self._wipe.layout = w.Layout(width=f"{looks.WIPE_SIDE}px")
        self._wipe.observe(lambda change: self._show_wipe(), "value")
        self._changed = _classed(w.HTML(""), "note")
        tabs = {
            "Before | after": w.VBox([self._wiped, self._wipe]),
            "Change": w.VBox([self._change, self._changed]),
            "Words": self._words,
            "Distance": self._distances,
            "Keep": self._build_keeping(),
        }
        self._tabs = w.Tab(list(tabs.values()), titles=tuple(tabs))
        return self._tabs

    def _build_keeping(self) -> Any:
        button = _classed(w.Button(description="Copy as code", layout=w.Layout(width="130px")), "code-button")
        self._code = _classed(w.Textarea(rows=14, layout=w.Layout(width="auto", display="none")), "code")
        self._path = _classed(w.Text("edit.png", placeholder="edit.png"), "save-path")
        keep = _classed(w.Button(description="Save", layout=w.Layout(width="130px")), "save")
        self._saved = _classed(w.HTML(""), "saved", "note")
        button.on_click(lambda button: self._show_code())
        keep.on_click(lambda button: self._keep())
        return w.VBox([w.HBox([keep, self._path]), self._saved, button, self._code])

    def _build_history(self) -> Any:
        """The strip; its tiles are made beforehand, so that no thread makes a widget."""
        self._tiles = []
        for place in range(TILES):
            picture, button = w.Image(layout=w.Layout(width="84px", height="84px", object_fit="contain")), w.Button()
            button.on_click(lambda button, place=place: self._go_back(place))
            layout = w.Layout(width="92px", height="126px", padding="2px", flex="0 0 auto")
            self._tiles.append(_classed(w.VBox([picture, button], layout=layout), "tried"))
        self._strip = _classed(w.HBox([], layout=w.Layout(overflow="auto", min_height="20px")), "history")
        return w.VBox([_classed(w.HTML("Tried"), "heading"), self._strip], layout=w.Layout(margin="6px 0 0"))

    # ------------------------------------------------------------ from the user

    @contextmanager
    def _quiet(self) -> Iterator[None]:
        """Widgets that are set inside the block don't count as turned."""
        with self._turning:
            self._set_here.on = True
            try:
                yield
            finally:
                self._set_here.on = False

    def _turned(self, control: Control) -> None:
        if getattr(self._set_here, "on", False):
            return
        try:
            changes = {control.name: control.read(control.widget.value)}
            if control.name in ("source", "target") and self._preset.value in self._presets:
                # A preset may name words of the prompts.
                prompts = {"source": self.settings.source, "target": self.settings.target} | changes
                changes["editor"] = self._presets[self._preset.value].build(prompts["source"], prompts["target"])
            self.set(**changes)
        except (TypeError, ValueError) as error:
            self._show_error(Failed(error).words)

    def _chosen(self, change: Any) -> None:
        preset = self._presets.get(self._preset.value)
        if preset is not None and not getattr(self._set_here, "on", False):
            self.set(editor=preset.build(self.settings.source, self.settings.target))

    def _go_back(self, place: int) -> None:
        self.controller.go_back(self._tried[place])
        self._show_settings()

    def _show_code(self) -> None:
        try:
            self._code.value, self._code.layout.display = self.code(), ""
        except (TypeError, ValueError) as error:
            self._show_error(Failed(error).words)

    def _keep(self) -> None:
        try:
            written = self.save(self._path.value)
        except (RuntimeError, TypeError, ValueError, OSError) as error:
            self._saved.value = f'<span class="nmg-error">{html.escape(Failed(error).words)}</span>'
            return
        self._saved.value = "wrote " + " and ".join(html.escape(str(path)) for path in written)

    # ------------------------------------------------------------ from the thread

    def _told(self, event: Event) -> None:
        match event:
            case Doing():
                self._show_doing(event)
            case Made():
                self._show_made(event.tried)
            case Failed():
                self._show_error(event.words)
                self._show_unmade("these settings give no picture")
            case Ended():
                self._show_unmade("cancelled")

    def _show_doing(self, doing: Doing) -> None:
        step = f": step {doing.done} of {doing.count}" if doing.done else ""
        self._doing, self._status.value = doing.what, html.escape(f"{doing.what}{step}")
        self._progress.max, self._progress.value = max(1, doing.count), doing.done
        self._cancel.disabled = False
        if doing.done <= 1:
            self._show_error("")
        now = time.monotonic()
        if doing.preview is not None and now - self._drawn_at > EVERY:
            self._drawn_at = now
            self._put(self._pictures["edit"], doing.preview)
            self._captions["edit"].value = "edit <i>(preview)</i>"

    def _show_made(self, tried: Tried) -> None:
        self._show_error("")
        self._show_pictures(tried)
        took = f"done in {tried.seconds:.1f} s: {', '.join(tried.computed)}"
        self._show_idle(f"done: {KNOWN}" if self._doing == KNOWN else took)
        self._show_history()
        self._show_looks(tried)

    def _show_unmade(self, words: str) -> None:
        """A run that made no picture: the last good one stays."""
        self._show_idle(words)
        self._progress.value = 0
        self._show_edit(self.result)

    def _show_idle(self, words: str) -> None:
        self._status.value, self._cancel.disabled = html.escape(words), True
        self._drawn_at = 0.0

    def _show_error(self, words: str) -> None:
        self._error.value = html.escape(words)
        self._error.layout.display = "" if words else "none"

    # ------------------------------------------------------------ settings

    def _show_settings(self) -> None:
        """Bring the controls to the settings."""
        settings = self.settings
        try:
            taken = settings.controls
        except ValueError:
            taken = tuple(self._controls)
        with self._quiet():
            for name, control in self._controls.items():
                value = getattr(settings, name)
                control.show(self._displayed(name, value))
                if name in ("noise_map_scale", "text_scale"):
                    control.widget.disabled = name not in taken
                else:
                    control.widget.layout.display = "" if name in taken else "none"
            self._scales.value = self._said_scales(settings, "noise_map_scale" in taken)
            self._starts.value = self._said_start(settings) if "start_step" in taken else ""
            self._starts.layout.display = "" if "start_step" in taken else "none"
            self._show_preset(settings)

    def _displayed(self, name: str, value: Any) -> Any:
        """A setting's value as its control has it: a step as its share of the steps, a layer by number."""
        if name == "start_step":
            return value if isinstance(value, float) else value / max(1, self.settings.steps)
        if name == "start_layer" and value is None:
            return MasaCtrl().first_layer(self.controller.engine.backbone)
        return value

    @staticmethod
    def _said_scales(settings: Settings, taken: bool) -> str:
        scale, gradient = _number(settings.noise_map_scale), settings.gradient_scale
        if not taken:
            return f"{html.escape(settings.guidance)} has no noise-map scale"
        if scale is None:
            return "one number for each step, until you turn it"
        product = f"{scale * gradient:,.0f}".replace(",", "\u202f")
        return f"s<sub>N</sub> · s<sub>g</sub> = {scale:g} · {gradient:g} = {product}"

    @staticmethod
    def _said_start(settings: Settings) -> str:
        try:
            first = MasaCtrl(start_step=settings.start_step).first_step(settings.steps)
        except ValueError:
            return ""
        return f"from step {first} of {settings.steps} on"

    def _show_preset(self, settings: Settings) -> None:
        """The preset that the editor is, if it is one; without a target there is no kind of edit."""

        def fits(preset: Preset) -> bool:
            try:
                return preset.build(settings.source, settings.target) == settings.editor_method
            except (TypeError, ValueError):
                return False

        chosen = self._presets.get(self._preset.value)
        fitting = [preset for preset in self._presets.values() if settings.targets() and fits(preset)]
        # Several kinds of edit share an editor: the words that change tell which it is.
        words = {word for words in changed_words(settings.source, settings.target) for word in words}
        fitting.sort(key=lambda preset: (preset is not chosen, words.isdisjoint(preset.words)))
        name = fitting[0].name if fitting else OWN
        self._preset.value = name
        self._when.value = html.escape(self._presets[name].when) if name in self._presets else ""

    # ------------------------------------------------------------ pictures

    @property
    def _small(self) -> bool:
        return looks.is_small(self.controller.engine.picture)

    def _put(self, widget: Any, picture: Image.Image, side: int = looks.SIDE) -> None:
        """A picture into an image widget: small ones with crisp pixels, large ones as JPEG."""
        format = "png" if self._small else "jpeg"
        widget.format, widget.value = format, looks.encoded(looks.enlarged(picture, side), format)

    def _show_pictures(self, tried: Tried | None) -> None:
        source = self.controller.engine.picture
        self._put(self._pictures["source"], source)
        if tried is None:
            for name in self._pictures.keys() - {"source"}:
                self._put(self._pictures[name], Image.new("RGB", source.size, (128, 128, 128)))
        else:
            self._put(self._pictures["reconstruction"], tried.reconstruction)
            self._captions["reconstruction"].value = f"reconstruction ({looks.closeness(tried.reconstruction, source)})"
        self._show_edit(tried)
        self._show_truth(self.settings if tried is None else tried.settings)

    def _show_edit(self, tried: Tried | None) -> None:
        """The last good edit; a preview that led nowhere goes."""
        if tried is not None:
            self._put(self._pictures["edit"], tried.picture)
        edited = tried is None or tried.edit is not None
        self._captions["edit"].value = "edit" if edited else "no target: the reconstruction"

    def _show_truth(self, settings: Settings) -> None:
        if "truth" in self._pictures:
            truth = self._truth(settings)
            self._columns["truth"].layout.display = "none" if truth is None else ""
            if truth is not None:
                self._put(self._pictures["truth"], truth)

    def _truth(self, settings: Settings) -> Image.Image | None:
        truth, engine = self._origin.truth(settings.target), self.controller.engine
        return None if truth is None else engine.backbone.prepare(truth, engine.picture.size)

    def _show_history(self) -> None:
        tried = self.history[-TILES:]
        for place, (tile, entry) in enumerate(zip(self._tiles, tried, strict=False)):
            picture, button = tile.children
            thumb = entry.picture.copy()
            thumb.thumbnail((168, 168))
            self._put(picture, thumb, side=84)
            earlier = self.history[: len(self.history) - len(tried) + place]
            button.description = texts.told_apart(entry.settings, earlier[-1].settings if earlier else None)
            button.tooltip = texts.described(entry.settings)
            (tile.add_class if entry is self.result else tile.remove_class)("nmg-current")
        # What a tile shows is what a click on it goes back to.
        self._tried = tried
        self._strip.children = tuple(self._tiles[: len(tried)])

    def _show_looks(self, tried: Tried) -> None:
        """Wipe, change, words and distances of a picture."""
        source = self.controller.engine.picture
        self._show_wipe()
        _set_png(self._change, looks.changes(source, tried.picture, self._truth(tried.settings)))
        share = looks.change(source, tried.picture).mean()
        self._changed.value = (
            f"{share:.0%} of the pixels differ from the source by more than {looks.CHANGED:.0%} of the range"
        )
        _set_png(self._words, looks.attention(source, tried.looks, tried.region))
        # Beside another source path for comparison, the newest that there is.
        curves = {"this picture": tried.distances}
        others = [other for other in self.history if other.distances != tried.distances]
        if others:
            label = texts.told_apart(others[-1].settings, tried.settings)
            curves[textwrap.shorten(label, 40, placeholder="…")] = others[-1].distances
        if curves != self._curves:
            self._curves = curves
            _set_png(self._distances, looks.strays(curves))
        if self._code.layout.display != "none":
            self._show_code()

    def _show_wipe(self) -> None:
        """The source left of the slider and the edit right of it."""
        tried = self.result
        if tried is not None:
            before, after = (
                looks.enlarged(shown, looks.WIPE_SIDE) for shown in (self.controller.engine.picture, tried.picture)
            )
            format = "png" if self._small else "jpeg"
            shown = looks.wiped(before, after, self._wipe.value)
            self._wiped.format, self._wiped.value = format, looks.encoded(shown, format)
            self._wiped.layout.width = f"{looks.WIPE_SIDE}px"


def _set_png(widget: Any, picture: Image.Image) -> None:
    widget.format, widget.value = "png", looks.encoded(picture, "png")
    widget.layout.width = f"{picture.width}px"
