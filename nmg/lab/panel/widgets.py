"""The interactive panel in a notebook: turn the guidance scales and see what becomes of the edit.

    from nmg.lab.panel import widgets

    widgets.panel(pipe, "photo.jpg", "a cat on a table", "a tiger on a table")

Needs ipywidgets (`pip install 'nmg[notebook]'`). All that it shows can be had without: see `nmg.lab.panel`.
"""

from __future__ import annotations

import io
from collections.abc import Mapping
from typing import Any

from nmg import images
from nmg.editors import Editor, PromptToPrompt
from nmg.guidance import Guidance
from nmg.inversion import Inversion
from nmg.lab.kinds import kind_of
from nmg.lab.panel.controller import Controller, Ended, Event, Failed, Made, Sketched
from nmg.lab.panel.engine import KNOWN, Doing, Engine, Tried
from nmg.lab.panel.history import History
from nmg.lab.panel.keeping import code, save
from nmg.lab.panel.kit import STYLE, classed, w
from nmg.lab.panel.knobs import Knobs
from nmg.lab.panel.mask import MaskTab
from nmg.lab.panel.origin import Origin
from nmg.lab.panel.pictures import Pictures
from nmg.lab.panel.stage import stage
from nmg.lab.panel.status import Keeping, Status
from nmg.lab.presets import Example, Preset
from nmg.lab.profile import profile_of
from nmg.menagerie.captions import caption
from nmg.request import Request, suiting


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
        guidance: how the source row stays on its noise maps; `NoiseMap.fast()` at the model's text scale if not given,
            whose strength the noise-map scale turns down, or `Direct` for an editor that reads the source off its noise
            maps.
        editor: what the target takes from the source; if not given, the example's, or that of the preset which the
            difference of the prompts asks for, or `PromptToPrompt()`.
        steps: DDIM steps.
        negative: prompt of the null half; the editor's habit if not given.
        size: width and height in pixels; the model's own if not given.
        inversion: how the noise is predicted in the inversion; `DDIM()` if not given.
        truth: a picture of the ideal edit for `target`.
        presets: by name; those of the model's profile if not given (see `nmg.lab.profile`).
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
    engine = Engine(pipe, origin.picture, size=size)
    presets = profile_of(engine.backbone).presets() if presets is None else presets
    suited = presets.get(kind_of(source, target or "") or "") if target else None
    chosen = editor or (suited.build(source, target) if suited and target else PromptToPrompt())
    methods = guidance or suiting(chosen, engine.backbone, fast=True), chosen, inversion
    targets = (target,) if target and target.strip() else ()
    request = Request("", source, targets, negative, *methods, steps, engine.picture.size)
    made = Panel(engine, origin, request, presets, automatic=editor is None)
    if start:
        made.run()
    return made


class Panel(w.VBox):
    """The panel over a `Controller`: the main picture above its tabs, beside the controls above what was tried.

    Attributes:
        controller: what computes; `settings`, `result`, `history` and `error` are its own.
    """

    def __init__(
        self, engine: Engine, origin: Origin, request: Request, presets: Mapping[str, Preset], automatic: bool = False
    ):
        super().__init__()
        self.add_class("nmg-panel")
        self.controller = Controller(engine, request, self._told)
        self.stage = stage(self._took)
        self.status = Status(self.cancel, self.run, self._took)
        self.keeping = Keeping(self.code, self.save)
        self.mask = MaskTab(self.controller, self.stage, self.set)
        self.pictures = Pictures(self.stage, {"Mask": self.mask.widget, "Keep": self.keeping.widget})
        held = (lambda: self.stage.held) if hasattr(self.stage, "_esm") else None
        self.knobs = Knobs(self.controller, presets, self._turn, self.status.say, held, automatic)
        self.strip = History(self.controller, self.knobs.show)
        self.stage.observe(self._let_go, "held")
        self.pictures.tabs.observe(lambda change: self._show_mask(), "selected_index")
        left = classed(w.VBox([self.stage, self.status.widget]), "left")
        right = classed(w.VBox([self.knobs.widget, self.strip.widget]), "right")
        style = w.HTML(STYLE, layout=w.Layout(display="none"))
        self.children = (style, classed(w.Box([left, right, self.pictures.tabs]), "desk"))
        self.knobs.show()
        self._begin(origin)

    def _begin(self, origin: Origin) -> None:
        """Show a picture of which nothing is made yet."""
        self.origin = origin
        self.pictures.open(self.controller.engine, origin, self.settings)
        self.strip.show()
        self.keeping.refresh()

    @property
    def settings(self) -> Request:
        """What the controls ask for."""
        return self.controller.request

    @property
    def result(self) -> Tried | None:
        """The picture that is shown, with what it was made for; None before the first."""
        return self.controller.result

    @property
    def history(self) -> tuple[Tried, ...]:
        return self.controller.history

    @property
    def error(self) -> Exception | None:
        return self.controller.error

    def set(self, **changes: Any) -> None:
        """Change settings, as the controls do; their names are those of the command line's options.
        `guidance` and `editor` may be names or methods."""
        self._turn(**changes)

    def _turn(self, sketch: bool = False, **changes: Any) -> None:
        if self.controller.set(sketch, **self.knobs.completed(changes)) and not sketch:
            self.knobs.show()

    def _let_go(self, change: Any) -> None:
        """A slider that is let go: the picture of what it was drawn to."""
        if not change.new and self.controller.sketching:
            self.run()

    def _show_mask(self) -> None:
        """Paint while the tab of the mask is open."""
        tabs = self.pictures.tabs
        self.stage.painting = tabs.selected_index is not None and tabs.children[tabs.selected_index] is self.mask.widget

    def open_picture(self, image: Any, source: str | None = None) -> None:
        """Go over to another picture, with a history of its own.

        Args:
            image: as `panel` takes it.
            source: what it shows; a scene brings its caption, and the bundled model reads its own world. Without any,
                the panel asks for it and waits.

        Raises:
            TypeError, ValueError, FileNotFoundError: for what is no picture.
        """
        origin, old = Origin.of(image), self.controller.engine
        engine = Engine(old.backbone, origin.picture, size=old.picture.size)
        profile = profile_of(old.backbone)
        if source is None and origin.scene is not None:
            source = caption(origin.scene)
        if source is None and profile.knows_scenes:
            source = profile.caption(old.backbone, origin.picture, "")
        self.controller.open(engine, source=source, target="", **self.mask.forget())
        self.knobs.show()
        self._begin(origin)
        if source is None:
            self.status.idle("say what the picture shows, and what the edit should show")
        else:
            self.run()

    def _took(self, name: str, data: bytes) -> None:
        """A mask that was painted, or a picture from disk."""
        if not name:
            return self.mask.take(data)
        try:
            self.open_picture(images.decoded(io.BytesIO(data), repr(name)))
        except (TypeError, ValueError, OSError) as error:
            self.status.say(Failed(error).words)

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
        request = self.settings if self.result is None else self.result.request
        return code(request, self.controller.engine, self.origin)

    def save(self, path: Any) -> list:
        """Write the picture that is shown, with its request; see `nmg.lab.panel.save`.

        Raises:
            RuntimeError: before the first picture.
        """
        if self.result is None:
            raise RuntimeError("there is no picture yet; wait for it")
        return save(self.result, self.controller.engine, self.origin, path)

    def close(self) -> None:
        """Give up what is being made, end the thread and remove the panel."""
        if hasattr(self, "controller"):
            self.controller.close()
        super().close()

    # ------------------------------------------------------------ from the thread

    def _told(self, event: Event) -> None:
        match event:
            case Doing():
                self.status.doing(event)
                if event.preview is not None:
                    self.pictures.preview(event.preview)
            case Made():
                self._show_made(event.tried)
            case Sketched():
                self.pictures.preview(event.picture, f"preview, {event.steps} steps")
            case Failed():
                self.status.say(event.words)
                self._show_unmade("these settings give no picture")
            case Ended():
                self._show_unmade("cancelled")

    def _show_made(self, tried: Tried) -> None:
        self.status.say("")
        self.pictures.show(tried, self.history)
        took = f"done in {tried.seconds:.1f} s: {', '.join(tried.computed)}"
        how = f"done: {KNOWN}" if self.status.what == KNOWN else took
        self.status.idle(f"{how}; {tried.drifted}")
        self.strip.show()
        self.keeping.refresh()

    def _show_unmade(self, words: str) -> None:
        """A run that made no picture: the last good one stays."""
        self.status.idle(words, made=False)
        self.pictures.show_edit()
