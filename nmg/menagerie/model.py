"""The bundled model: where it lies, the words that it knows, and the classifier beside it."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from nmg.menagerie.captions import about, vocabulary
from nmg.menagerie.networks import FactorClassifier
from nmg.menagerie.scene import COLOURS

NAME = "menagerie"
"""What the bundled model is called on the command line, in recipes and in trajectories."""
FOLDER = Path(__file__).parent / "weights"


@functools.cache
def load_classifier(folder: Path = FOLDER) -> FactorClassifier:
    """The factor classifier of the bundled world, or another that training wrote."""
    return FactorClassifier.load(folder / "classifier.safetensors")


def unknown_words(prompt: str) -> list[str]:
    """Words that the bundled model has never seen in a caption, and can't picture."""
    known = set(vocabulary())
    return [word for word in re.findall(r"\w+", prompt.lower()) if word not in known]


def check_words(prompts: list[str]) -> str | None:
    """A warning that names unknown words, or None if there are none."""
    unknown = list(dict.fromkeys(word for prompt in prompts for word in unknown_words(prompt)))
    if not unknown:
        return None
    return (
        f"the bundled model does not know {', '.join(map(repr, unknown))} and will ignore or misread it; it knows "
        f"{', '.join(word for word in vocabulary() if word.isalpha())}"
    )


def settings(**scales: float) -> dict[str, Any]:
    """What the file `nmg.json` beside the weights says of the model.

    Args:
        scales: of noise map guidance that suit it.
    """
    return {"name": NAME, "profile": NAME, **scales, "sentences": about("{}"), "colours": tuple(COLOURS)}
