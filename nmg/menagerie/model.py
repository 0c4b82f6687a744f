"""The bundled model: where it lies, how it is loaded, and the settings that suit it."""

from __future__ import annotations

import functools
import re
from pathlib import Path
from typing import Any

from nmg.menagerie.captions import vocabulary
from nmg.menagerie.networks import FactorClassifier

NAME = "menagerie"
"""What the bundled model is called on the command line, in recipes and in trajectories."""
FOLDER = Path(__file__).parent / "weights"

SCALES: dict[str, Any] = {"noise_map_scale": 30.0, "gradient_scale": 5000.0, "text_scale": 3.0}
"""Scales chosen on validation scenes (see the model card); the paper's belong to Stable Diffusion 1.4."""


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


def is_bundled(pipe: Any) -> bool:
    """Whether a pipeline, or a `Backbone` over it, is the bundled model, or another that training wrote."""
    names = {str(name) for name in (getattr(pipe, "name_or_path", None), getattr(pipe, "name", None)) if name}
    return NAME in names or any((Path(name) / "classifier.safetensors").is_file() for name in names)
