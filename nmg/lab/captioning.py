"""What a picture shows, in words: a source prompt for those who don't want to write one.

Who describes it is the model's profile: the bundled world's classifier, or BLIP. Either reads the picture as the model
edits it, its middle at the model's own size.
"""

from __future__ import annotations

from typing import Any

from nmg.backbones import Backbone
from nmg.lab.blip import BLIP
from nmg.lab.profile import profile_of


def describe(pipe: Any, image: Any, model: str = BLIP, size: tuple[int, int] | None = None) -> str:
    """Say what a picture shows, to serve as source prompt.

    Args:
        pipe: the pipeline that is to edit the picture, or a `Backbone`.
        image: anything that `images.load` reads.
        model: hub id of a BLIP captioning model, or a folder in transformers' layout; the bundled model
            needs none.
        size: width and height that the picture is edited at; the model's own if not given.

    Returns:
        The same caption for the same picture, always: nothing is sampled.

    Raises:
        OSError: if the captioning model can't be found, fetched or read, with what would work.
        TypeError, ValueError: for what is no picture, or no Stable Diffusion.
        FileNotFoundError: for a path without a file.
    """
    backbone = pipe if isinstance(pipe, Backbone) else Backbone(pipe)
    return profile_of(backbone).caption(backbone, backbone.prepare(image, size), model)
