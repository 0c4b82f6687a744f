"""The methods that the command line offers by name, and how they are made of its options.

Another guidance, inversion or editor is one more line of its table; an option that none of the others takes is one more
argument in `nmg.lab.arguments`.
"""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

from nmg.editors import Editor, LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.guidance import CFG, Direct, NegativePrompt, NoiseMap, NullText, ProxNegativePrompt
from nmg.inversion import DDIM, EditFriendly, FixedPoint, Regularised


@dataclass(frozen=True)
class Method:
    """A method as the command line offers it.

    Args:
        kind: its class, whose defaults hold for what is not given.
        options: the options that it takes, named as their arguments are.
        build: makes it of the options that are given; the class itself, whose fields they are then, if not given.
    """

    kind: type
    options: tuple[str, ...] = ()
    build: Callable[..., Any] | None = None


# ---------------------------------------------------------------- methods whose options are not their fields


def _edit_friendly(residual_scale: float = EditFriendly.text_scale, **fields: Any) -> EditFriendly:
    return EditFriendly(text_scale=residual_scale, **fields)


def _noise_map(noise_map_scale: Any = NoiseMap.noise_map_scale, guard: str | None = None, **fields: Any) -> NoiseMap:
    scales = noise_map_scale if isinstance(noise_map_scale, Sequence) else [noise_map_scale]
    if "outside" in fields and not guard:
        raise ValueError("--outside needs --guard: give the mask of what is guarded")
    if "during" in fields:
        fields["during"] = tuple(fields["during"])
    mask = None if guard is None else str(Path(guard).resolve())
    return NoiseMap(noise_map_scale=scales[0] if len(scales) == 1 else tuple(scales), mask=mask, **fields)


def _null_text(null_texts: str | None = None, optimisation_steps: int = NullText.iterations, **fields: Any) -> NullText:
    return NullText(iterations=optimisation_steps, embeddings=null_texts and str(Path(null_texts).resolve()), **fields)


def _proximal(proximal: str = ProxNegativePrompt.threshold, **fields: Any) -> ProxNegativePrompt:
    return ProxNegativePrompt(threshold=proximal, **fields)


def _with_noise_map(first: Callable[..., CFG], own: Sequence[str]) -> Callable[..., CFG]:
    """A stack of another guidance, which takes the options `own`, and noise map guidance, which takes the rest."""

    def build(text_scale: float = NoiseMap.text_scale, **fields: Any) -> CFG:
        rest = {name: value for name, value in fields.items() if name not in own}
        mine = {name: value for name, value in fields.items() if name in own}
        return first(text_scale=text_scale, **mine) + _noise_map(text_scale=text_scale, **rest)

    return build


def _prompt_to_prompt(
    blend: Sequence[str] = (),
    subtract: Sequence[str] | None = None,
    threshold: float | None = None,
    weight: Sequence[tuple[str, float]] = (),
    **fields: Any,
) -> PromptToPrompt:
    if (subtract or threshold is not None) and not blend:
        name = "--subtract" if subtract else "--threshold"
        raise ValueError(f"{name} needs --blend: give the words that the edit is restricted to")
    if blend:
        share = {} if threshold is None else {"threshold": threshold}
        fields["local_blend"] = LocalBlend(tuple(blend), tuple(subtract) if subtract else None, **share)
    return PromptToPrompt(weights=dict(weight), **fields)


def _masactrl(words: Sequence[str] = (), **fields: Any) -> MasaCtrl:
    if "threshold" in fields and not words:
        raise ValueError("--threshold needs --words: give the words that the foreground is found by")
    for name in fields.keys() & {"source_mask", "target_mask"}:
        fields[name] = str(Path(fields[name]).resolve())
    return MasaCtrl(words=tuple(words) or None, **fields)


def _pix2pix_zero(direction: Sequence[str] = (), **fields: Any) -> Pix2PixZero:
    if len(direction) > 2:
        raise ValueError(
            f"--direction takes two sides or one file, got {len(direction)}: put phrases in quotes, and IMAGE before it"
        )
    # Whole paths, so that a recipe finds the files from anywhere.
    sides = tuple(
        str(Path(side).resolve()) if len(direction) == 1 or side.endswith(".txt") else side for side in direction
    )
    if sides:
        fields["direction"] = sides[0] if len(sides) == 1 else sides
    return Pix2PixZero(**fields)


# ---------------------------------------------------------------- the tables

INVERSIONS = {
    "ddim": Method(DDIM),
    "regularised": Method(Regularised),
    "fixed-point": Method(FixedPoint, ("iterations", "average")),
    "edit-friendly": Method(EditFriendly, ("residual_scale",), _edit_friendly),
}
NOISE_MAP = (
    *("noise_map_scale", "gradient_scale", "text_scale", "energy", "level", "during", "guard", "outside", "jacobian"),
)
NULL_TEXT = ("optimisation_steps", "null_texts")
GUIDANCES = {
    "noise-map": Method(NoiseMap, NOISE_MAP, _noise_map),
    "null-text": Method(NullText, ("text_scale", *NULL_TEXT), _null_text),
    "negative-prompt": Method(NegativePrompt, ("text_scale",)),
    "proximal": Method(
        ProxNegativePrompt,
        ("text_scale", "quantile", "pooled", "proximal", "pull", "rate", "dilation", "below"),
        _proximal,
    ),
    "direct": Method(Direct, ("text_scale",)),
    "null-text+noise-map": Method(NoiseMap, (*NOISE_MAP, *NULL_TEXT), _with_noise_map(_null_text, NULL_TEXT)),
    "direct+noise-map": Method(NoiseMap, NOISE_MAP, _with_noise_map(Direct, ())),
    "none": Method(CFG, ("text_scale",)),
}
EDITORS = {
    "prompt-to-prompt": Method(
        PromptToPrompt,
        ("mode", "cross_replace", "self_replace", "weight", "blend", "subtract", "threshold"),
        _prompt_to_prompt,
    ),
    "masactrl": Method(
        MasaCtrl, ("start_step", "start_layer", "words", "source_mask", "target_mask", "threshold"), _masactrl
    ),
    "pix2pix-zero": Method(Pix2PixZero, ("direction", "amount"), _pix2pix_zero),
    "none": Method(Editor),
}
TABLES: dict[str, Mapping[str, Method]] = {"inversion": INVERSIONS, "guidance": GUIDANCES, "editor": EDITORS}
"""The methods by the argument that names one of them; the first of a table goes where none is named."""


def made(role: str, arguments: argparse.Namespace, own: Mapping[str, Any] | None = None) -> Any:
    """The method that --`role` names, made of its options.

    Args:
        own: the model's own values of options, for those that the method takes and that are not given.

    Raises:
        ValueError: for an option of another method, and as the methods do.
    """
    table = TABLES[role]
    chosen = getattr(arguments, role) or next(iter(table))
    method = table[chosen]
    offered = dict.fromkeys(chain.from_iterable(other.options for other in table.values()))
    given = {option: value for option in offered if (value := getattr(arguments, option)) is not None}
    for option in given:
        if option not in method.options:
            owners = " or ".join(name for name, other in table.items() if option in other.options)
            raise ValueError(f"--{option.replace('_', '-')} belongs to --{role} {owners}, not to {chosen}")
    suited = {option: value for option, value in (own or {}).items() if option in method.options}
    return (method.build or method.kind)(**{**suited, **given})
