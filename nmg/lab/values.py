"""Kinds of value that a control has: read from the command line and from a field of the panel, and shown in it."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ALSO = " + "
"""Between several words of one prompt."""


@dataclass(frozen=True)
class Value:
    """One kind of value. This one is text.

    Args:
        metavar: what stands for the value in the command line's help.
        example: what an empty field of the panel says.
        several: the command line takes several words ("+"), so many of them, or one.
        repeated: the option may be given several times.
        type: reads one word of the command line.
    """

    metavar: str | tuple[str, ...] | None = None
    example: str = ""
    several: int | str | None = None
    repeated: bool = False
    type: Callable[[str], Any] | None = None

    def keywords(self) -> dict[str, Any]:
        """What argparse is told."""
        words = {"metavar": self.metavar, "nargs": self.several, "type": self.type}
        words["action"] = "append" if self.repeated else None
        return {name: value for name, value in words.items() if value is not None}

    def given(self, words: Any) -> Any:
        """The value of what argparse read."""
        return words

    def read(self, shown: Any) -> Any:
        """The value of what a field holds.

        Raises:
            ValueError: for a text of another form.
        """
        return shown

    def shown(self, value: Any) -> Any:
        """What a field holds for a value; None for a value that it can't show."""
        return value


@dataclass(frozen=True)
class Prompt(Value):
    """A text, or several of them in a tuple; none for an empty field."""

    nothing: Any = None
    metavar: str | tuple[str, ...] | None = "PROMPT"
    lines: int = 1

    def given(self, words: Any) -> Any:
        return tuple(words) if self.repeated else words

    def read(self, shown: str) -> Any:
        if not shown.strip():
            return self.nothing
        return (shown,) if self.repeated else shown

    def shown(self, value: Any) -> str:
        return "\n".join(value) if self.repeated else value or ""


@dataclass(frozen=True)
class Number(Value):
    """A number of a range; the panel's slider grows where a value lies outside."""

    low: float = 0.0
    high: float = 1.0
    step: float = 0.05
    metavar: str | tuple[str, ...] | None = "F"
    type: Callable[[str], Any] = float

    @property
    def whole(self) -> bool:
        return self.type is int

    def shown(self, value: Any) -> float | None:
        if isinstance(value, bool) or not isinstance(value, int | float):
            return None
        return int(value) if self.whole else float(value)


@dataclass(frozen=True)
class Numbers(Number):
    """A number, or a tuple of several."""

    several: int | str | None = "+"

    def given(self, words: Sequence[float]) -> Any:
        return words[0] if len(words) == 1 else tuple(words)


@dataclass(frozen=True)
class Choice(Value):
    """One of several names."""

    options: Collection[str] = ()

    def keywords(self) -> dict[str, Any]:
        return {"choices": tuple(self.options)}


@dataclass(frozen=True)
class Flag(Value):
    """An option without a value, which says `means`."""

    means: bool = True

    def keywords(self) -> dict[str, Any]:
        return {"action": "store_true" if self.means else "store_false", "default": None}


@dataclass(frozen=True)
class File(Value):
    """The path of a file, kept whole, so that a saved picture finds it from anywhere."""

    metavar: str | tuple[str, ...] | None = "FILE"

    def given(self, words: str) -> str:
        return str(Path(words).resolve())


@dataclass(frozen=True)
class Words(Value):
    """Words or phrases: the source prompt's, then one per target."""

    metavar: str | tuple[str, ...] | None = "WORDS"
    several: int | str | None = "+"
    nothing: Any = None

    def given(self, words: Sequence[str]) -> Any:
        return tuple(words)

    def read(self, shown: str) -> Any:
        """After commas; several of one prompt are joined by "+"; one alone stands for both prompts."""
        words = _listed(shown)
        return (2 * words if len(words) == 1 else words) or self.nothing

    def shown(self, value: Any) -> str | None:
        if value is None:
            return ""
        if isinstance(value, str) or not isinstance(value, Sequence) or len(value) > 2:
            return None
        return ", ".join(entry if isinstance(entry, str) else ALSO.join(map(str, entry)) for entry in value)


@dataclass(frozen=True)
class Direction(Words):
    """Two sides of words or of sentences in files, or one file."""

    metavar: str | tuple[str, ...] | None = "FROM TO"

    def given(self, words: Sequence[str]) -> Any:
        if len(words) > 2:
            raise ValueError(
                f"--direction takes two sides or one file, got {len(words)}: put phrases in quotes, and IMAGE before it"
            )
        sides = tuple(File().given(side) if len(words) == 1 or side.endswith(".txt") else side for side in words)
        return sides[0] if len(sides) == 1 else sides

    def read(self, shown: str) -> Any:
        return _listed(shown) or self.nothing


@dataclass(frozen=True)
class Weights(Value):
    """Factors by word."""

    metavar: str | tuple[str, ...] | None = "WORD=FACTOR"
    repeated: bool = True

    def keywords(self) -> dict[str, Any]:
        return {**super().keywords(), "type": weight}

    def given(self, words: Sequence[tuple[str, float]]) -> dict[str, float]:
        return dict(words)

    def read(self, shown: str) -> dict[str, float]:
        try:
            return dict(weight(entry) for entry in filter(str.strip, shown.split(",")))
        except argparse.ArgumentTypeError as error:
            raise ValueError(str(error)) from None

    def shown(self, value: Mapping[str, float]) -> str:
        return ", ".join(f"{word}={factor:g}" for word, factor in value.items())


# ---------------------------------------------------------------- one word of the command line


def pair(text: str) -> tuple[str, str]:
    """NAME=VALUE."""
    name, equals, value = text.rpartition("=")
    if not (name.strip() and equals and value.strip()):
        raise argparse.ArgumentTypeError(f"{text.strip()!r} must look like NAME=VALUE")
    return name.strip(), value.strip()


def weight(text: str) -> tuple[str, float]:
    """WORD=FACTOR."""
    try:
        word, factor = pair(text)
        return word, float(factor)
    except (argparse.ArgumentTypeError, ValueError):
        raise argparse.ArgumentTypeError(
            f"{text.strip()!r} is no word weight; write WORD=FACTOR, such as tiger=2"
        ) from None


def step(text: str) -> int | float:
    """A step, or its share of the steps."""
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like 4 or 0.2") from None


def threshold(text: str) -> float | str:
    """A share, or the word "otsu"."""
    try:
        return text if text == "otsu" else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like 0.3, or be otsu") from None


def size(text: str) -> tuple[int, int]:
    """WIDTHxHEIGHT."""
    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like 512x512") from None
    return width, height


def _listed(text: str) -> tuple:
    """Words or phrases after commas, those of one prompt joined by "+"."""
    entries = (tuple(part.strip() for part in entry.split("+") if part.strip()) for entry in text.split(","))
    return tuple(entry[0] if len(entry) == 1 else entry for entry in entries if entry)
