"""The one table of controls, of which the command line's options and the panel's widgets are made.

A new hyper-parameter is a field of its dataclass and one row of `CONTROLS`. A new guidance, editor or inversion is one
more entry of `GUIDANCES`, `EDITORS` or `INVERSIONS`.
"""

from __future__ import annotations

import argparse
import dataclasses
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from nmg.editors import (
    Editor,
    FlowEdit,
    GuideAndRescale,
    LocalBlend,
    MasaCtrl,
    Pix2PixZero,
    PlugAndPlay,
    PromptToPrompt,
    UniEdit,
)
from nmg.editors.masactrl import START_LAYER
from nmg.editors.plug_and_play import FIRST_BLOCK
from nmg.editors.prompt_to_prompt import MODES
from nmg.guidance import CFG, Direct, Guidance, NegativePrompt, NoiseMap, NullText, ProxNegativePrompt
from nmg.guidance.negative_prompt import PULLS, THRESHOLDS
from nmg.guidance.noise_map import ENERGIES, LEVELS
from nmg.inversion import CONVENTIONS, DDIM, Drawn, EditFriendly, FixedPoint, Inversion, Regularised, UniInv
from nmg.lab.profile import MENAGERIE
from nmg.lab.values import (
    Choice,
    Direction,
    File,
    Flag,
    Number,
    Numbers,
    Prompt,
    Value,
    Weights,
    Words,
    size,
    step,
    threshold,
)  # fmt: skip
from nmg.request import Request

# ---------------------------------------------------------------- the methods, by name

INVERSIONS: dict[str, Inversion] = {
    "ddim": DDIM(),
    "regularised": Regularised(),
    "fixed-point": FixedPoint(),
    "uni": UniInv(),
    "edit-friendly": EditFriendly(),
    "drawn": Drawn(),
}
GUIDANCES: dict[str, Guidance] = {
    "noise-map": NoiseMap(),
    "null-text": NullText(),
    "negative-prompt": NegativePrompt(),
    "proximal": ProxNegativePrompt(),
    "direct": Direct(),
    "null-text+noise-map": NullText(NoiseMap.text_scale) + NoiseMap(),
    "direct+noise-map": Direct(NoiseMap.text_scale) + NoiseMap(),
    "none": CFG(),
}
EDITORS: dict[str, Editor] = {
    "prompt-to-prompt": PromptToPrompt(),
    "masactrl": MasaCtrl(),
    "pix2pix-zero": Pix2PixZero(),
    "plug-and-play": PlugAndPlay(),
    "flow-edit": FlowEdit(),
    "uni-edit": UniEdit(),
    "guide-and-rescale": GuideAndRescale(),
    "none": Editor(),
}
SUITING = {"default": next(iter(GUIDANCES)), "direct": "direct"}
"""The guidance where none is named, by what the editor `suits`."""
DIRECT = ", ".join(name for name, method in EDITORS.items() if method.suits == "direct")
"""The editors that read the source off its noise maps."""
METHODS: dict[str, Mapping[str, Any]] = {"inversion": INVERSIONS, "guidance": GUIDANCES, "editor": EDITORS}
"""The methods by the argument that names one of them, with their defaults. The first is used where none is named."""
INSIDE: dict[type, tuple[type, str]] = {LocalBlend: (PromptToPrompt, "local_blend")}
"""Values that are a field of a method and have controls of their own; they exist where their first field is given."""


# ---------------------------------------------------------------- the table


@dataclass(frozen=True, eq=False)
class Control:
    """One hyper-parameter as users meet it.

    Args:
        of: the classes whose field it is; `Request` for what is asked of no method.
        field: its name there.
        value: its kind and range.
        help: one line on what it does; its default is added.
        label: beside its widget; the panel has no widget for a control without one.
        option: its name on the command line and in `Panel.set`, if it is another than the field's.
        needs: options without which it means nothing, as far as the method has them.
        default: what its default is called, where it is no plain value.
    """

    of: tuple[type, ...]
    field: str
    value: Value
    help: str = ""
    label: str = ""
    option: str = ""
    needs: tuple[str, ...] = ()
    default: str = ""

    @property
    def name(self) -> str:
        return self.option or self.field

    @property
    def flag(self) -> str:
        """The option as it is typed: "--no-jacobian" for what it turns off, "--weight" for one of the weights."""
        no = isinstance(self.value, Flag) and not self.value.means
        name = self.name.removesuffix("s") if self.value.repeated else self.name
        return f"--{'no-' * no}{name.replace('_', '-')}"


CONTROLS: tuple[Control, ...] = (
    # What is asked for.
    Control((Request,), "source", Prompt(example="what the picture shows", lines=2),
            "what the picture shows (a scene brings its own caption)", "source prompt"),
    Control((Request,), "targets", Prompt(example="what the edit should show", lines=2, repeated=True, nothing=()),
            "what the edit should show; repeatable", "target prompt", "target"),
    Control((Request,), "guidance", Choice(options=GUIDANCES),
            "none is plain DDIM; null-text, negative-prompt (NPI), proximal (ProxNPI) and direct (PnP inversion) are "
            "what it is compared with", "guidance",
            default=f"{SUITING['default']}; {DIRECT}: direct"),
    Control((NoiseMap,), "noise_map_scale", Numbers("S_N", high=300.0, step=0.5),
            "acts as S_N · S_G; turn this one; or one number for each step", "noise-map scale"),
    Control((NoiseMap,), "gradient_scale", Number("S_G"), "leave it and turn the noise-map scale"),
    Control((Guidance,), "text_scale", Number("S_T", high=20.0, step=0.25), "classifier-free guidance", "text scale"),
    Control((Guidance,), "embedded_scale", Number("S", high=10.0, step=0.25),
            "what a guidance-distilled network is told in the text half", "embedded guidance",
            default="3.5 for FLUX.1 dev, 5.5 with flow-edit and without --guidance; others are told none"),
    Control((Request,), "steps", Number("N", type=int, low=1, high=100, step=1), "DDIM steps", "steps",
            default="50"),
    Control((Request,), "negative", Prompt(example="the editor's habit"), "prompt of the null half", "negative prompt",
            default="empty; pix2pix-zero: the source's"),
    Control((Request,), "size", Value("WIDTHxHEIGHT", type=size), "in pixels", default="the model's own"),
    # Inversion: how the noise is predicted.
    Control((Request,), "inversion", Choice(options=INVERSIONS),
            "how the noise is predicted: regularised is pix2pix-zero's, fixed-point AIDI's and ReNoise's, "
            "edit-friendly is DDPM's, drawn is none: fresh noise at every level",
            default=f"{next(iter(INVERSIONS))}; flow-edit: drawn, uni-edit: uni"),
    Control((FixedPoint,), "iterations", Number("N", type=int), "of fixed-point inversion"),
    Control((FixedPoint,), "average", Number("N", type=int), "fixed-point estimates to average"),
    Control((EditFriendly,), "text_scale", Number("S"),
            "text scale of edit-friendly inversion; at the edit's own the source is exact", option="residual_scale"),
    Control((Request,), "convention", Choice(options=CONVENTIONS), "of the inversion", default="aligned"),
    Control((Request,), "offset", Number("N", type=int), "the schedule's steps_offset", default="the model's"),
    Control((Request,), "skip", Number("SHARE"), "share of the steps, the noisiest, that is left out",
            default=f"0; flow-edit: {FlowEdit().skip:g}, uni-edit: {UniEdit().skip:g}"),
    # Guidance: keeping the source on its noise maps.
    Control((NoiseMap,), "level", Choice(options=LEVELS),
            "noise map to compare with: where a step ends, or where it starts, as the authors' MasaCtrl does"),
    Control((NoiseMap,), "energy", Choice(options=ENERGIES), "distance to the noise maps"),
    Control((NoiseMap,), "bound", Choice(options=("element", "norm", "map", "rescale", "none")),
            "hold a correction to the distance that is left: of each element, of all; map takes just that, without a "
            "network pass; rescale: its length to that of the text's guidance; none is the published step"),
    Control((NoiseMap,), "during", Numbers(("FROM", "TO"), several=2),
            "shares of the steps between which the source is steered, such as 0 0.5", default="all"),
    Control((NoiseMap,), "mask", File(), "mask of what is guarded, white on black", option="guard"),
    Control((NoiseMap,), "outside", Number("SHARE"), "of the strength outside the mask", needs=("guard",)),
    Control((NoiseMap,), "jacobian", Flag(means=False), "leave the network out of the gradient: no backward pass"),
    Control((NullText,), "iterations", Number("N", type=int), "of Adam in each step, at most",
            option="optimisation_steps"),
    Control((NullText,), "embeddings", File(), "null texts of an earlier search, which `nmg invert` can save",
            option="null_texts"),
    Control((ProxNegativePrompt,), "quantile", Number("Q"), "share that is left out"),
    Control((ProxNegativePrompt,), "pooled", Flag(), "one threshold over all rows, as in the authors' code"),
    Control((ProxNegativePrompt,), "threshold", Choice(options=THRESHOLDS), "threshold", option="proximal"),
    Control((ProxNegativePrompt,), "pull", Choice(options=PULLS), "what unedited places are held at"),
    Control((ProxNegativePrompt,), "rate", Number(), "share of the distance that is taken back"),
    Control((ProxNegativePrompt,), "dilation", Number("R", type=int), "of the edited places"),
    Control((ProxNegativePrompt,), "below", Number("T", type=int), "timestep below which they are held"),
    # Editors: what the target takes from the source.
    Control((Request,), "editor", Choice(options=EDITORS), "what the target takes from the source", "editor",
            default=next(iter(EDITORS))),
    Control((PromptToPrompt,), "mode", Choice(options=MODES),
            default="replace for prompts of equally many words, else refine"),
    Control((PromptToPrompt,), "cross_replace", Number(),
            "share of the steps in which words keep the source's attention maps", "cross replace"),
    Control((PromptToPrompt,), "self_replace", Number(),
            "share of the steps in which the layout is the source's", "self replace"),
    Control((PlugAndPlay,), "feature_replace", Number(),
            "share of the steps in which the decoder's features are the source's", "feature replace"),
    Control((PlugAndPlay,), "attention_replace", Number(),
            "share of the steps in which the decoder's self-attention is the source's", "attention replace"),
    Control((PlugAndPlay,), "start_block", Number("N", type=int), "residual block of the decoder whose features are",
            default=f"{FIRST_BLOCK * 12:g} of 12, as deep elsewhere"),
    Control((LocalBlend,), "words", Words(example="cat, tiger: source, target", nothing=()),
            "restrict the edit to the places of words: the source's, then one per target", "blend words", "blend"),
    Control((PromptToPrompt,), "weights", Weights(example="tiger=2, snow=0.5"),
            "strengthen or weaken a word of the target; repeatable", "word weights"),
    Control((LocalBlend,), "subtract", Words(), "words whose places are taken out of the blend", needs=("blend",)),
    Control((LocalBlend, MasaCtrl), "threshold", Value("F", type=threshold),
            "of the blend's mask, a share of the maximum or otsu; or of the foreground's", needs=("blend", "words"),
            default="the model's for a blend, 0.1 for a foreground"),
    Control((MasaCtrl,), "start_step", Number("N", high=0.98, step=0.02, type=step),
            "first step of mutual self-attention, or its share of the steps, such as 0.2", "start step"),
    Control((MasaCtrl,), "start_layer", Number("N", type=int, low=0, high=15, step=1),
            "its first self-attention layer", "start layer", default=f"{START_LAYER * 16:g} of 16, as deep elsewhere"),
    Control((MasaCtrl,), "words", Words(example="cat, cat: source, target"),
            "find the foreground by words: the source's, then one per target", "foreground"),
    Control((MasaCtrl,), "source_mask", File(), "the source's foreground, white on black"),
    Control((MasaCtrl,), "target_mask", File(), "the targets' foreground"),
    Control((Pix2PixZero,), "direction", Direction(example="cat, dog: from, to"),
            "two words, phrases or .txt files of sentences; or one saved direction", "direction",
            default="the prompts' difference"),
    Control((FlowEdit,), "source_scale", Number("S", high=20.0, step=0.25), "text scale of the source",
            "source scale", default="3.5; 1.5 told to FLUX.1 dev"),
    Control((UniEdit,), "omega", Number("F", high=20.0, step=0.25), "how far the prompts' difference is followed",
            "omega"),
    Control((FlowEdit,), "plain", Number("SHARE"), "of the steps, the last, in which targets are sampled alone"),
    Control((GuideAndRescale,), "until", Number(), "share of the steps, the first, that are guided", "guided until"),
    Control((GuideAndRescale,), "attention_scale", Number("S"), "of the distance of self-attention maps"),
    Control((GuideAndRescale,), "feature_scale", Number("S"), "of the distance of features"),
    Control((FlowEdit,), "source_call", Flag(means=False), "read the source's noise off its noise maps"),
    Control((Pix2PixZero,), "amount", Number("A", high=0.5, step=0.01), "of cross-attention guidance", "amount",
            default="0.15; 0 where text and picture share one sequence"),
)  # fmt: skip
"""Every control; the panel shows them in this order."""


# ---------------------------------------------------------------- reading and turning a method


def parts(method: Any) -> Iterator[Any]:
    """The guidances of a stack, or the method itself; and the values inside that have controls of their own."""
    for part in getattr(method, "parts", (method,)):
        yield part
        inner = (getattr(part, field) for owner, field in INSIDE.values() if isinstance(part, owner))
        yield from filter(None, inner)


def _kinds(method: Any) -> list[type]:
    """The classes whose fields a method has, or may have inside."""
    kinds = [type(part) for part in getattr(method, "parts", (method,))]
    return kinds + [inner for inner, (owner, _) in INSIDE.items() if any(issubclass(kind, owner) for kind in kinds)]


def controls_of(method: Any) -> tuple[Control, ...]:
    """The controls that a method has."""
    return tuple(row for row in CONTROLS if any(issubclass(kind, row.of) for kind in _kinds(method)))


def values_of(method: Any) -> dict[str, Any]:
    """The values of a method's controls, by name."""
    return {row.name: _value(method, row) for row in controls_of(method)}


def _value(method: Any, row: Control) -> Any:
    """The value that a method holds; for a value inside that is not there, its own default."""
    for part in (*parts(method), *_kinds(method)):
        if isinstance(part, row.of) or (isinstance(part, type) and issubclass(part, row.of)):
            return getattr(part, row.field, row.value.nothing if isinstance(row.value, Words) else None)
    raise ValueError(f"{type(method).__name__} has no {row.name}")


def turned(method: Any, values: Mapping[str, Any]) -> Any:
    """A method, or every part of a stack, with those values that are its controls'.

    Raises:
        TypeError, ValueError: as the method does.
    """
    if hasattr(method, "parts"):
        return dataclasses.replace(method, parts=tuple(turned(part, values) for part in method.parts))
    changes = _changes(type(method), values)
    for kind, (owner, field) in INSIDE.items():
        if isinstance(method, owner) and (inner := _changes(kind, values)):
            changes[field] = _inner(kind, getattr(method, field), inner)
    return dataclasses.replace(method, **changes) if changes else method


def _changes(kind: type, values: Mapping[str, Any]) -> dict[str, Any]:
    return {row.field: values[row.name] for row in CONTROLS if row.name in values and issubclass(kind, row.of)}


def _inner(kind: type, held: Any, changes: dict[str, Any]) -> Any:
    """A value inside a method with some of its fields changed; None without its first field."""
    first = dataclasses.fields(kind)[0].name
    if held is None:
        return kind(**changes) if changes.get(first) else None
    return dataclasses.replace(held, **changes) if changes.get(first, True) else None


def name_of(method: Any, table: Mapping[str, Any]) -> str:
    """What a method is called in a table; the name of its class where it is not there."""
    kinds = set(_kinds(method))
    return next((name for name, other in table.items() if set(_kinds(other)) == kinds), type(method).__name__)


# ---------------------------------------------------------------- the command line


def add_option(parser: Any, row: Control, **keywords: Any) -> None:
    """Add a control's option to a parser, or to a group of one. Without a value it is None: not given."""
    words = " ".join(filter(None, (row.help, _default(row))))
    parser.add_argument(row.flag, dest=row.name, **row.value.keywords(), help=words, **keywords)


def _default(row: Control) -> str:
    """A control's default in words: of each method that has it, where they differ, and the bundled model's own."""
    said = [row.default] if row.default else [f"{value}{names}" for value, names in _defaults(row).items()]
    if habits := _habits(row):
        said.append(f"without --guidance {habits}")
    own = MENAGERIE.scales.get(row.name)
    if own is not None and said != [f"{own:g}"]:
        said.append(f"{own:g} on the bundled model")
    return f"(default: {'; '.join(said)})" if said else ""


def _habits(row: Control) -> str:
    """The text scales that editors bring along with their guidance, where the row is that scale."""
    found: dict[float, list[str]] = {}
    for name, editor in EDITORS.items():
        if row.name == "text_scale" and editor.text_scale is not None:
            found.setdefault(editor.text_scale, []).append(name)
    return ", ".join(f"{scale:g} with {', '.join(names)}" for scale, names in found.items())


def _defaults(row: Control) -> dict[str, str]:
    """The defaults of a control as text, and the methods that have each, named where there are several."""
    owners: dict[str, list[str]] = {}
    for name, method in (entry for table in METHODS.values() for entry in table.items()):
        value = _value(method, row) if row in controls_of(method) else None
        if isinstance(value, str | float | int) and not isinstance(value, bool):
            owners.setdefault(value if isinstance(value, str) else f"{value:g}", []).append(name)
    several = len(owners) > 1
    return {value: f" with {', '.join(names)}" if several else "" for value, names in owners.items()}


def _usual(role: str, editor: str | None) -> str:
    """The name of the method where none is named; the guidance is the one that suits the editor."""
    return SUITING[EDITORS[editor].suits] if role == "guidance" and editor else next(iter(METHODS[role]))


def made(role: str, arguments: argparse.Namespace, own: Mapping[str, Any] | None = None) -> Any:
    """The method that --`role` names, with the options that are given.

    Args:
        own: the model's own values of options, for those that are not given.

    Raises:
        ValueError: for an option of another method, and as the methods do.
    """
    table = METHODS[role]
    chosen = getattr(arguments, role) or _usual(role, getattr(arguments, "editor", None))
    method = table[chosen]
    offered = {row.name: row for other in table.values() for row in controls_of(other)}
    given = {name: value for name in offered if (value := getattr(arguments, name, None)) is not None}
    has = {row.name for row in controls_of(method)}
    for name in given:
        row = offered[name]
        if name not in has:
            owners = " or ".join(other for other in table if row in controls_of(table[other]))
            raise ValueError(f"{row.flag} belongs to --{role} {owners}, not to {chosen}")
        if missing := [need for need in row.needs if need in has and need not in given]:
            need = offered[missing[0]]
            raise ValueError(f"{row.flag} needs {need.flag}, which says: {need.help}")
    values = {name: offered[name].value.given(value) for name, value in given.items()}
    return turned(method, {**(own or {}), **values})
