"""How many questions about the prompt a picture answers right."""

from __future__ import annotations

import functools
import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from tempfile import TemporaryDirectory
from typing import Any

import torch

from nmg import images
from nmg.lab.metrics.pixel import PerRow
from nmg.lab.metrics.weights import loading, one_each
from nmg.types import Image


@dataclass(frozen=True)
class Tifa:
    """The share of questions about the prompt that a visual question answering network answers right, in 0…1.

    Hu et al. 2023, arXiv 2303.11897, measured by the authors' own package, which picks its device itself.

    Args:
        model: a name that the package's `VQAModel` knows.
    """

    model: str = "mplug-large"

    def __call__(self, pictures: Image, questions: Sequence[Sequence[Mapping[str, Any]]]) -> PerRow:
        """One share per picture.

        Args:
            questions: for each picture, its questions as the package writes them: "question", "choices", "answer".

        Raises:
            Missing: if the package or its networks can't be loaded.
            ValueError: for another number of lists than of pictures, or an empty list.
        """
        one_each("lists of questions", questions, pictures)
        if not all(questions):
            raise ValueError("a picture has no question; give at least one")
        score, network = _tifa(self.model)
        shares = []
        with TemporaryDirectory() as folder:
            for picture, asked in zip(images.to_pil(pictures), questions, strict=True):
                picture.save(path := os.path.join(folder, "picture.png"))
                # Copies, since the package writes its answers into what it is given.
                shares.append(float(score(network, [dict(question) for question in asked], path)["tifa_score"]))
        return torch.tensor(shares, device=pictures.device)


@functools.cache
def _tifa(model: str) -> tuple[Any, Any]:
    """The package's scoring function and its network."""
    with loading("TIFA", "install the authors' tifascore from github.com/Yushi-Hu/tifa (the one on PyPI is empty)"):
        from tifascore import VQAModel, tifa_score_single

        return tifa_score_single, VQAModel(model)
