"""Settings as the text of the panel's fields, and back."""

from __future__ import annotations

import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from nmg.lab.panel.settings import LABELS, Settings
from nmg.lab.presets import changed_words

ALSO = " + "
"""Between several words of one prompt."""


def read_words(text: str) -> tuple:
    """Words or phrases by prompt, after commas; several of one prompt are joined by "+"."""
    entries = (tuple(part.strip() for part in entry.split("+") if part.strip()) for entry in text.split(","))
    return tuple(entry[0] if len(entry) == 1 else entry for entry in entries if entry)


def read_pair(text: str) -> tuple:
    """The words of source and target; one alone stands for both prompts."""
    words = read_words(text)
    return 2 * words if len(words) == 1 else words


def write_words(words: Any) -> str | None:
    """What `read_words` reads, for words; None for anything else, such as a file."""
    if words is None:
        return ""
    if isinstance(words, str) or not isinstance(words, Sequence) or len(words) > 2:
        return None
    return ", ".join(entry if isinstance(entry, str) else ALSO.join(map(str, entry)) for entry in words)


def read_direction(text: str) -> tuple | None:
    """The two sides of an edit direction; nothing for the prompts' own."""
    return read_words(text) or None


def read_weights(text: str) -> dict[str, float]:
    """Factors by word.

    Raises:
        ValueError: for text of another form than WORD=FACTOR, after commas.
    """
    weights = {}
    for entry in filter(str.strip, text.split(",")):
        word, equals, factor = entry.rpartition("=")
        try:
            weights[word.strip()] = float(factor)
        except ValueError:
            equals = ""
        if not (equals and word.strip()):
            raise ValueError(f"{entry.strip()!r} is no word weight; write WORD=FACTOR, such as tiger=2")
    return weights


def write_weights(weights: Mapping[str, float]) -> str:
    return ", ".join(f"{word}={factor:g}" for word, factor in weights.items())


def short(value: Any) -> str:
    """A setting's value in few letters."""
    if isinstance(value, float):
        return f"{value:g}"
    if isinstance(value, Mapping):
        return write_weights(value) or "none"
    if value is None or value == ():
        return "none"
    if isinstance(value, tuple | list):
        return write_words(value) or "given"
    return f"“{value}”" if isinstance(value, str) and " " in value else str(value)


def told_apart(settings: Settings, other: Settings | None) -> str:
    """What differs from other settings, in few words."""
    if other is None:
        return "first"
    differing = []
    for name, value in settings.differing(other).items():
        if name in ("source", "target"):
            value = ", ".join(changed_words(getattr(other, name), value)[1]) or "shorter"
        differing.append(
            f"{LABELS[name].removesuffix(' prompt')} {textwrap.shorten(short(value), 24, placeholder='…')}"
        )
    return ", ".join(differing[:2]) + ("…" if len(differing) > 2 else "") or "as before"


def described(settings: Settings) -> str:
    """All settings in use, one a line."""
    return "\n".join(f"{LABELS[name]}: {short(getattr(settings, name))}" for name in settings.controls)
