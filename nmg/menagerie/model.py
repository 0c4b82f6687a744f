"""The bundled model: where it lies, what its folder says of it, and the classifier beside it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from torch import Tensor

from nmg.menagerie.captions import vocabulary
from nmg.menagerie.networks import FactorClassifier

NAME = "menagerie"
"""What the bundled model is called on the command line, in recipes and in trajectories."""
FOLDER = Path(__file__).parent / "weights"


@functools.cache
def load_classifier(folder: Path = FOLDER) -> FactorClassifier:
    """The factor classifier of the bundled world, or another that training wrote."""
    return FactorClassifier.load(folder / "classifier.safetensors")


def settings(**scales: float) -> dict[str, Any]:
    """What the file `nmg.json` beside the weights says of the model.

    Args:
        scales: of noise map guidance that suit it.
    """
    return {"name": NAME, "profile": NAME, **scales, "words": vocabulary()}


def constant(tensors: dict[str, Tensor]) -> list[str]:
    """Names of the vectors whose values are all equal, as a norm's are before any gradient reached it.

    A trained network has none. Weight decay alone leaves values equal, so that what it shrank is found too.
    """
    vectors = {name: tensor for name, tensor in tensors.items() if tensor.ndim == 1 and len(tensor) > 1}
    return [name for name, tensor in vectors.items() if (tensor == tensor[0]).all()]
