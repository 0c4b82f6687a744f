"""What commands that edit or invert have in common: the picture, the prompts, the model, and where results go."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

from nmg import files
from nmg.backbones import settings_of
from nmg.lab.controls import made
from nmg.lab.devices import device_for
from nmg.menagerie import caption
from nmg.menagerie import model as menagerie
from nmg.menagerie.scene import Scene, parse, parse_changes
from nmg.request import Request, scales

ROLES = ("editor", "inversion", "guidance")
NO_TARGET = "no --target is given, so this writes the reconstruction"
DRAWN_ALONE = (
    "the model knows drawn scenes alone; a photograph needs another, such as --model CompVis/stable-diffusion-v1-4"
)


# ---------------------------------------------------------------- pictures and prompts


def prompts(arguments: argparse.Namespace) -> tuple[str | None, list[str]]:
    """The source prompt and the targets; a scene brings its own.

    Raises:
        ValueError: for what is missing, given twice, or does not belong together.
    """
    scene, trajectory = scene_of(arguments.image), getattr(arguments, "trajectory", None)
    source, targets = arguments.source, list(getattr(arguments, "target", None) or [])
    changes = parse_changes(dict(getattr(arguments, "change", [])))
    if getattr(arguments, "keep_path", False) and not trajectory:
        raise ValueError("--keep-path needs --trajectory: the source's path is kept in its file")
    if trajectory and arguments.image:
        raise ValueError(
            "IMAGE and --trajectory are both given; a trajectory brings its own picture, so leave IMAGE out"
        )
    if changes and scene is None:
        raise ValueError("--change is for scenes of the bundled world (scene:SEED); give --target for a picture")
    if scene is not None:
        source = source or caption(scene)
        targets += [caption(scene.edit(**changes))] if changes else []
    if not trajectory and arguments.image is None:
        raise ValueError("IMAGE is missing; give a picture file, or scene:SEED of the bundled world")
    if arguments.caption is not None and (arguments.source or trajectory):
        raise ValueError("--caption writes the source prompt, which is given already; leave one of the two out")
    if not trajectory and source is None and arguments.caption is None:
        raise ValueError(
            '--source is missing; say what the picture shows, such as --source "a photo of a cat", or give --caption'
        )
    return source, targets


def note_reconstruction(arguments: argparse.Namespace, targets: Sequence[str]) -> None:
    """Say that nothing is edited, where no target is given."""
    if not targets and not arguments.direction:
        warnings.warn(NO_TARGET, stacklevel=2)


def described(arguments: argparse.Namespace, pipe: Any, image: Any, source: str | None) -> str | None:
    """The source prompt, by the captioning model if that was asked for."""
    if arguments.caption is None:
        return source
    from nmg.lab import captioning

    source = captioning.describe(pipe, image, arguments.caption or captioning.BLIP, arguments.size)
    print(f"nmg: the picture is captioned {source!r}", file=sys.stderr)
    return source


def scene_of(image: str | None) -> Scene | None:
    return parse(image.removeprefix("scene:")) if image and image.startswith("scene:") else None


def opened(image: str | None) -> Any:
    """The picture of a file, or of a scene; None for none."""
    from nmg import images

    scene = scene_of(image)
    return scene.render() if scene else images.load(image) if image else None


def portable(image: str | None) -> str:
    """A picture's name that holds anywhere."""
    return "" if image is None else image if image.startswith("scene:") else str(Path(image).resolve())


# ---------------------------------------------------------------- model and request


def loaded(arguments: argparse.Namespace, scenes: bool, device: str | None = None) -> Any:
    """The model that is named, on the device that is named or there.

    Args:
        scenes: whether the pictures are scenes, which belong to the bundled model.
        device: another one than the arguments'.
    """
    from nmg.lab.arguments import DTYPES
    from nmg.pipelines import load

    model = arguments.model or (menagerie.NAME if scenes else None)
    pipe = load(model, device_for(device or arguments.device), DTYPES.get(arguments.dtype))
    if arguments.image and not scenes and settings_of(pipe).profile == menagerie.NAME:
        warnings.warn(DRAWN_ALONE, stacklevel=2)
    return pipe


def request_of(
    arguments: argparse.Namespace, pipe: Any, image: Any, source: str | None, targets: Sequence[str]
) -> Request:
    """What the options ask for, with the model's own scales, or else those that the editor brings with its guidance."""
    editor = made("editor", arguments)
    own = settings_of(pipe).scales if arguments.guidance else scales(editor, pipe)
    return Request(
        image,
        source,
        tuple(targets),
        arguments.negative,
        made("guidance", arguments, own),
        editor,
        # A trajectory keeps its own where none is named.
        made("inversion", arguments) if arguments.inversion else None,
        arguments.steps,
        arguments.size,
        arguments.convention,
        arguments.offset,
        arguments.skip,
    )


# ---------------------------------------------------------------- files


def writable(path: Path, suffix: str, option: str = "--out") -> Path:
    """`path` with its folder made, found out before any work is done."""
    path = path if path.suffix or path.is_dir() else path.with_suffix(suffix)
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f"{option} {path} can't be written; give the path of a {suffix} file")
    return files.writable(path)


def outputs(out: Path, count: int, every: bool) -> dict[Any, Path]:
    """The paths of an edit's pictures, by row, and of its source."""
    named: dict[Any, Path] = {row: _beside(out, str(row)) for row in range(1, count + 1)}
    named = named if count > 1 else {count: out}
    return {0: _beside(out, "reconstruction"), **named, "source": _beside(out, "source")} if every else named


def read_by(*values: Any) -> Iterator[str]:
    """The files that a run reads, among its picture, its trajectory and the values of its methods."""
    for value in values:
        if isinstance(value, str | os.PathLike):
            yield os.fspath(value)
        elif isinstance(value, tuple | list):
            yield from read_by(*value)
        elif dataclasses.is_dataclass(value):
            yield from read_by(*vars(value).values())


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}-{suffix}{path.suffix}")
