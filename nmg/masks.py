"""Masks: any picture of a foreground as a grey picture, or as positions of a latent."""

from __future__ import annotations

import os

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from nmg import images


def picture(mask: np.ndarray | Tensor | Image.Image) -> Image.Image:
    """A mask in memory as a grey picture.

    An array [height, width], or with axes of length 1 besides, becomes black and white; what is transparent in a
    picture is background; a picture of 0 and 1 counts as an array does.

    Raises:
        ValueError: for an array of another shape.
    """
    if isinstance(mask, Image.Image):
        if "A" in mask.getbands() or "transparency" in mask.info:
            mask = Image.alpha_composite(Image.new("RGBA", mask.size, "black"), mask.convert("RGBA"))
        grey = np.asarray(images.load(mask).convert("L"))
        return Image.fromarray(grey * 255 if grey.max() <= 1 else grey)
    array = (mask.detach().float().cpu().numpy() if isinstance(mask, Tensor) else mask).squeeze()
    if array.ndim != 2:
        raise ValueError(f"a mask has the shape {list(mask.shape)}; give [height, width]")
    half = 127 if array.max(initial=0) > 1 else 0.5
    return Image.fromarray(255 * (array.astype(np.float32) > half).astype(np.uint8))


def opened(path: str | os.PathLike) -> Image.Image:
    """The mask in a file, as a grey picture.

    Raises:
        ValueError, FileNotFoundError: for what is no picture, as `images.load`.
    """
    images.load(path)
    return picture(images.decoded(path, f"the mask {os.fspath(path)!r}"))


def load(mask: str | os.PathLike | Image.Image, size: tuple[int, int], of: str) -> Float[Tensor, "height width"]:
    """A mask of the given height and width, 1 where it is brighter than half. It is cropped as a picture is.

    Args:
        of: whose mask it is, for the message.

    Raises:
        ValueError: for a mask that is all background or all foreground; as `opened` for a path.
    """
    mask = mask if isinstance(mask, Image.Image) else opened(mask)
    values = torch.from_numpy(np.asarray(images.fit(mask, size[1], size[0]).convert("L")) > 127)
    if values.all() or not values.any():
        raise ValueError(
            f"{of}: a mask is all {'foreground' if values.all() else 'background'} at the latent's size "
            f"{size[0]}×{size[1]}, so it would separate nothing; give one that is white where the foreground is"
        )
    return values.float()
