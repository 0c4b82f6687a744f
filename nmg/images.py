"""Pictures in and out: anything a user has, as RGB pixels of the size that a model wants."""

from __future__ import annotations

import io
import os
from typing import Any

import numpy as np
import torch
from PIL import Image, ImageOps
from torch import Tensor

SMALLEST, LARGEST = 8, 30_000
"""Pixels of a picture's side."""


def load(image: Any) -> Image.Image:
    """Read a picture as an upright RGB image.

    Args:
        image: a path; a PIL image of any mode (transparency is laid on white, EXIF rotation applied,
            16 bits scaled to 8); an array [height, width] or [height, width, 1, 3 or 4] of uint8, uint16
            or floats in 0…1; or a tensor [3, height, width] or [1, 3, height, width] of floats in 0…1.

    Raises:
        TypeError, ValueError: for what is no picture, with what would work.
        FileNotFoundError: for a path without a file.
    """
    if isinstance(image, str | os.PathLike):
        if not os.path.isfile(image):
            raise FileNotFoundError(
                f"there is no picture at {os.fspath(image)!r}; give the path of a PNG, JPEG or WebP file"
            )
        image = decoded(image, f"the file {os.fspath(image)!r}")
    elif isinstance(image, Tensor):
        image = _from_array(_channels_last(image))
    elif isinstance(image, np.ndarray):
        image = _from_array(image)
    if not isinstance(image, Image.Image):
        raise TypeError(
            f"image is a {type(image).__name__}; give a path, a PIL image, an array [height, width, 3] "
            "or a tensor [3, height, width]"
        )
    if min(image.size) < SMALLEST:
        raise ValueError(f"the picture is {image.width}×{image.height} pixels; it needs at least {SMALLEST} each way")
    return _to_rgb(ImageOps.exif_transpose(image))


def decoded(file: str | os.PathLike | io.BytesIO, what: str) -> Image.Image:
    """The picture in a file, with all its pixels read.

    Args:
        what: names the file in the message.

    Raises:
        ValueError: for what is no picture, is damaged, or too large.
    """
    Image.init()
    try:
        # Encapsulated PostScript would be run by another program.
        image = Image.open(file, formats=[name for name in Image.OPEN if name != "EPS"])
        image.load()
    except Exception as error:  # Decoders raise whatever the bytes lead them to.
        raise ValueError(f"{what} can't be read as a picture ({error}); give a PNG, JPEG or WebP file") from error
    if max(image.size) > LARGEST:
        raise ValueError(f"{what} has {image.width}×{image.height} pixels; {LARGEST} each way are the most")
    return image


def _channels_last(tensor: Tensor) -> np.ndarray:
    array = tensor.detach().float().cpu()
    if array.ndim == 4 and len(array) == 1:
        array = array[0]
    if array.ndim != 3 or array.shape[0] not in (1, 3):
        raise ValueError(f"the tensor has shape {list(tensor.shape)}; give [3, height, width] or [1, 3, height, width]")
    return array.permute(1, 2, 0).numpy()


def _from_array(array: np.ndarray) -> Image.Image:
    if array.ndim not in (2, 3) or (array.ndim == 3 and array.shape[2] not in (1, 3, 4)) or 0 in array.shape:
        raise ValueError(f"the array has shape {list(array.shape)}; give [height, width, 3]")
    if array.ndim == 3 and array.shape[2] == 1:
        array = array[..., 0]
    if np.issubdtype(array.dtype, np.floating):
        if not np.isfinite(array).all() or array.min() < -1e-3 or array.max() > 1 + 1e-3:
            raise ValueError(f"float pixels must lie in 0…1, got {array.min():.3g}…{array.max():.3g}")
        array = (array.clip(0, 1) * 255).round().astype(np.uint8)
    elif array.dtype == np.uint16:
        array = (array / 257).round().astype(np.uint8)
    elif array.dtype == bool:
        array = array.astype(np.uint8) * 255
    elif array.dtype != np.uint8:
        raise TypeError(f"pixels are {array.dtype}; give uint8, uint16 or floats in 0…1")
    return Image.fromarray(array)


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode in ("I", "I;16", "I;16B", "I;16L", "I;16N"):
        image = Image.fromarray((np.asarray(image).clip(0, 65535) / 257).round().astype(np.uint8))
    elif image.mode == "F":
        image = _from_array(np.asarray(image))
    if image.mode in ("RGBA", "LA", "PA", "La", "RGBa") or "transparency" in image.info:
        image = image.convert("RGBA")
        white = Image.new("RGBA", image.size, "white")
        image = Image.alpha_composite(white, image)
    return image.convert("RGB")


def fit(image: Image.Image, width: int, height: int) -> Image.Image:
    """Crop the middle to the aspect of `width`×`height` and resize to it."""
    return ImageOps.fit(image, (width, height), Image.Resampling.LANCZOS)


def to_tensor(image: Image.Image) -> Tensor:
    """An RGB image as floats [1, 3, height, width] in 0…1."""
    return torch.from_numpy(np.array(image)).permute(2, 0, 1)[None].float() / 255


def to_pil(pixels: Tensor) -> list[Image.Image]:
    """Pixels [rows, 3, height, width] in 0…1 as a list of images."""
    array = (pixels.detach().float().clamp(0, 1) * 255).round().byte().permute(0, 2, 3, 1).cpu().numpy()
    return [Image.fromarray(picture) for picture in array]
