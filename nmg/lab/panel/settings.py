"""What the panel's controls say, as plain values, and the methods that they make."""

from __future__ import annotations

import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from nmg.editors import Editor, LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.guidance import Guidance, NoiseMap
from nmg.lab.controls import EDITORS, GUIDANCES, name_of

LABELS = {
    "source": "source prompt",
    "target": "target prompt",
    "steps": "steps",
    "negative": "negative prompt",
    "guidance": "guidance",
    "noise_map_scale": "noise-map scale",
    "gradient_scale": "gradient scale",
    "text_scale": "text scale",
    "editor": "editor",
    "cross_replace": "cross replace",
    "self_replace": "self replace",
    "blend": "blend words",
    "weights": "word weights",
    "start_step": "start step",
    "start_layer": "start layer",
    "words": "foreground words",
    "direction": "direction",
    "amount": "amount",
}
"""The controls by setting, as people read them."""
GUIDANCE_CONTROLS = ("noise_map_scale", "gradient_scale", "text_scale")
EDITOR_CONTROLS = (
    *("cross_replace", "self_replace", "blend", "weights"),
    *("start_step", "start_layer", "words", "direction", "amount"),
)


@dataclass(frozen=True)
class Settings:
    """Every control of the panel as a plain value.

    A control that belongs to another guidance or editor than the named ones keeps its value and does nothing.

    Attributes:
        source, target: the prompts; without a target the reconstruction alone is made,
            or what the editor does without one.
        steps: T of the inversion, and so of the edit.
        negative: prompt of the null half; None for the editor's habit.
        guidance, editor: their names, as on the command line; or of the class,
            for one that the command line does not offer.
        noise_map_scale, gradient_scale, text_scale: s_N, s_g and s_T.
        cross_replace, self_replace, weights: of `PromptToPrompt`.
        blend: words of its `LocalBlend`: the source's, then the target's; empty for none.
        start_step, start_layer, words: of `MasaCtrl`.
        direction, amount: of `Pix2PixZero`.
        own_guidance, own_editor: the methods that the settings were taken from: what no control turns stays theirs.
    """

    source: str
    target: str = ""
    steps: int = 50
    negative: str | None = None
    guidance: str = next(iter(GUIDANCES))
    noise_map_scale: Any = NoiseMap.noise_map_scale
    gradient_scale: float = NoiseMap.gradient_scale
    text_scale: float = NoiseMap.text_scale
    editor: str = next(iter(EDITORS))
    cross_replace: Any = PromptToPrompt.cross_replace
    self_replace: Any = PromptToPrompt.self_replace
    blend: tuple = ()
    weights: Mapping[str, float] = field(default_factory=dict)
    start_step: int | float = MasaCtrl.start_step
    start_layer: int | None = MasaCtrl.start_layer
    words: tuple[str, ...] | None = None
    direction: Any = None
    amount: float = Pix2PixZero.amount
    own_guidance: Guidance | None = None
    own_editor: Editor | None = None

    def but(self, **changes: Any) -> Settings:
        """These settings with some changed; `guidance` and `editor` may be names or methods.

        Raises:
            TypeError: for a setting that does not exist.
        """
        known = [entry.name for entry in dataclasses.fields(self)]
        if unknown := [name for name in changes if name not in known]:
            raise TypeError(f"there is no setting {unknown[0]!r}; the settings are {', '.join(LABELS)}")
        guidance, editor = changes.get("guidance"), changes.get("editor")
        if isinstance(guidance, Guidance):
            changes |= {"guidance": name_of(guidance, GUIDANCES), "own_guidance": guidance}
            changes = {**_read(guidance, GUIDANCE_CONTROLS), **changes}
        if isinstance(editor, Editor):
            changes |= {"editor": name_of(editor, EDITORS), "own_editor": editor}
            changes = {**_read(editor, EDITOR_CONTROLS), **changes}
        return dataclasses.replace(self, **changes)

    @property
    def guidance_method(self) -> Guidance:
        """The guidance that the settings describe.

        Raises:
            ValueError: for an unknown name, and as the guidance does.
        """
        method = _named(self.guidance, self.own_guidance, GUIDANCES, "guidance")
        return _turned(method, {name: getattr(self, name) for name in GUIDANCE_CONTROLS})

    @property
    def editor_method(self) -> Editor:
        """The editor that the settings describe; see `guidance_method`."""
        method = _named(self.editor, self.own_editor, EDITORS, "editor")
        values = {name: getattr(self, name) for name in EDITOR_CONTROLS}
        blend = getattr(method, "local_blend", None)
        if self.blend:
            blend = LocalBlend(self.blend) if blend is None else dataclasses.replace(blend, words=self.blend)
        # No words are none to look for.
        values |= {"local_blend": blend if self.blend else None, "words": self.words or None}
        return _turned(method, values)

    @property
    def controls(self) -> tuple[str, ...]:
        """The settings that the named guidance and editor take."""
        shared = ("source", "target", "steps", "negative", "guidance", "editor")
        guidance = _named(self.guidance, self.own_guidance, GUIDANCES, "guidance")
        editor = _named(self.editor, self.own_editor, EDITORS, "editor")
        return (*shared, *_read(guidance, GUIDANCE_CONTROLS), *_read(editor, EDITOR_CONTROLS))

    @property
    def asked(self) -> tuple[Any, ...]:
        """All that the picture depends on, for comparison: settings of methods that are not in use left out."""
        return (self.source, self.target, self.steps, self.negative, self.guidance_method, self.editor_method)

    def targets(self) -> list[str]:
        """The target prompts: one or none; the editor's own where none is given."""
        return [self.target] if self.target.strip() else list(self.editor_method.targets(self.source))

    def differing(self, other: Settings) -> dict[str, Any]:
        """The settings in use that differ from others', by name."""
        return {name: getattr(self, name) for name in self.controls if getattr(self, name) != getattr(other, name)}


def _named(name: str, own: Any, table: Mapping[str, Any], role: str) -> Any:
    """The method of that name: the settings' own, or the default of its kind."""
    if own is not None and name_of(own, table) == name:
        return own
    if name not in table:
        raise ValueError(f"{role}={name!r} is unknown; {', '.join(table)} work")
    return table[name]


def _parts(method: Any) -> Iterator[Any]:
    """The guidances of a stack, or the method itself."""
    yield from getattr(method, "parts", (method,))


def _read(method: Any, names: tuple[str, ...]) -> dict[str, Any]:
    """The controls' values that a method, or a part of a stack, holds."""
    held = {entry.name: getattr(part, entry.name) for part in _parts(method) for entry in dataclasses.fields(part)}
    if "local_blend" in held:
        blend = held["local_blend"]
        held["blend"] = () if blend is None else tuple(blend.words)
    return {name: held[name] for name in names if name in held}


def _turned(method: Any, values: Mapping[str, Any]) -> Any:
    """A method, or every part of a stack, with those values that it takes."""
    if hasattr(method, "parts"):
        return dataclasses.replace(method, parts=tuple(_turned(part, values) for part in method.parts))
    own = {entry.name for entry in dataclasses.fields(method) if entry.init}
    return dataclasses.replace(method, **{name: value for name, value in values.items() if name in own})
