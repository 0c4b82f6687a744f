"""The bundled model: where it lies, what its folder says of it, and the classifier beside it."""

from __future__ import annotations

import functools
from pathlib import Path
from typing import Any

from safetensors.torch import load_file

from nmg.menagerie.captions import vocabulary
from nmg.menagerie.networks import FactorClassifier

NAME = "menagerie"
"""What the bundled model is called on the command line, in recipes and in trajectories."""
FOLDER = Path(__file__).parent / "weights"
CLASSIFIER = "classifier.safetensors"
"""In a folder that training wrote: the model reads its own edits."""


@functools.cache
def load_classifier(folder: Path = FOLDER) -> FactorClassifier:
    """The factor classifier of the bundled world, or another that training wrote."""
    return FactorClassifier.load(folder / CLASSIFIER)


def settings(**scales: float) -> dict[str, Any]:
    """What the file `nmg.json` beside the weights says of the model.

    Args:
        scales: of noise map guidance that suit it.
    """
    # A latent of 16×16 has its words and its layout there, in maps that no fixed share of the maximum suits.
    own = {"word_maps": 1.0, "layout": 1.0, "blend_threshold": "otsu", "words": vocabulary()}
    return {"name": NAME, "profile": NAME, **scales, **own}


def constant_tensors(folder: Path) -> list[str]:
    """Vectors of a model's networks whose values are all equal, as a norm's are before any gradient reached it.

    A trained network has none. Weight decay alone leaves them equal, so that what it touched is found too.
    """
    found = []
    for part in ("unet", "vae", "text_encoder"):
        for path in sorted((folder / part).glob("*.safetensors")):
            vectors = {name: tensor for name, tensor in load_file(path).items() if tensor.ndim == 1 and len(tensor) > 1}
            found += [f"{part}: {name}" for name, tensor in vectors.items() if (tensor == tensor[0]).all()]
    return found
