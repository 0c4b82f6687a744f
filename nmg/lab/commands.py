"""What the commands do. `nmg.lab.cli` reads the command line, and imports this once it can be run."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import os
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nmg
from nmg.backbones import settings_of
from nmg.files import apart, free, keep, writable
from nmg.guidance import NullText
from nmg.inversion import Trajectory
from nmg.lab.arguments import DTYPES
from nmg.lab.bench.command import run_bench
from nmg.lab.bench.paper import run_paper
from nmg.lab.controls import made
from nmg.menagerie import caption
from nmg.menagerie import model as menagerie
from nmg.menagerie.scene import SIZE, Scene, parse, parse_changes
from nmg.request import Request

# ---------------------------------------------------------------- commands


def run_edit(arguments: argparse.Namespace) -> None:
    """Edit a picture and write every target as a PNG with its request."""
    from nmg.pipelines import load

    # All that can be wrong without the model is found before it is loaded.
    out = _writable(arguments.out, ".png")
    editor, inversion, guidance = (made(role, arguments) for role in ("editor", "inversion", "guidance"))
    image, source, targets = _inputs(arguments)
    if arguments.force:
        names = _names(out, len(targets) or bool(arguments.direction), arguments.all)
        apart(list(names.values()), _files(arguments.image, arguments.trajectory, editor, guidance))
    trajectory = Trajectory.load(arguments.trajectory) if arguments.trajectory else None
    pipe = load(_model(arguments), arguments.device, DTYPES.get(arguments.dtype))
    source = _described(arguments, pipe, image, source)
    request = Request(
        trajectory or image,
        source,
        tuple(targets),
        arguments.negative,
        made("guidance", arguments, settings_of(pipe).scales),
        editor,
        # A trajectory keeps its own where none is named.
        inversion if arguments.inversion else None,
        arguments.steps,
        arguments.size,
        arguments.convention,
        arguments.offset,
    )
    result = nmg.edit(pipe, request)
    if arguments.keep_path:
        result.trajectory.save(arguments.trajectory)
    _write(result, arguments, out)


def _write(result: nmg.Edit, arguments: argparse.Namespace, out: Path) -> None:
    """Write the pictures of an edit with their request, which names the source picture.

    What lies at one of their paths is kept, and all get the next free number; with --force it is replaced.
    """
    request = dataclasses.replace(result.request, image=_portable(arguments.image))
    names = functools.partial(_names, count=len(result.pictures), every=arguments.all)
    paths = names(out if arguments.force else free(out, lambda path: names(path).values()))
    pictures = dict(enumerate([result.reconstruction, *result.pictures]))
    for row in sorted(pictures.keys() & paths.keys(), key=lambda row: (row == 0, row)):
        print(dataclasses.replace(request, row=row).save(pictures[row], paths[row], arguments.force))
    if arguments.all and result.source is not None:
        print(keep(paths["source"], result.source.save, arguments.force))


def _names(out: Path, count: int, every: bool) -> dict[Any, Path]:
    """The paths of an edit's pictures, by row, and of its source."""
    named: dict[Any, Path] = {row: _beside(out, str(row)) for row in range(1, count + 1)}
    named = named if count > 1 else {count: out}
    return {0: _beside(out, "reconstruction"), **named, "source": _beside(out, "source")} if every else named


def _files(*values: Any) -> Iterator[str]:
    """The files that a run reads, among its picture, its trajectory and the values of its methods."""
    for value in values:
        if isinstance(value, str | os.PathLike):
            yield os.fspath(value)
        elif isinstance(value, tuple | list):
            yield from _files(*value)
        elif dataclasses.is_dataclass(value):
            yield from _files(*vars(value).values())


def run_invert(arguments: argparse.Namespace) -> None:
    """Invert a picture and save its trajectory."""
    from nmg.pipelines import load

    out, inversion = _writable(arguments.out, ".safetensors"), made("inversion", arguments)
    texts = arguments.save_null_texts and _writable(arguments.save_null_texts, ".safetensors", "--save-null-texts")
    if texts is None and arguments.text_scale is not None:
        raise ValueError("--text-scale needs --save-null-texts: an inversion alone has no text guidance")
    apart([path for path in (out, texts) if path], [arguments.image or ""] if arguments.force else [])
    image, source, _ = _inputs(arguments)
    pipe = load(_model(arguments), arguments.device, DTYPES.get(arguments.dtype))
    source = _described(arguments, pipe, image, source)
    names = ("steps", "size", "convention", "offset")
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    trajectory = nmg.invert(pipe, image, source or "", inversion=inversion, **options)
    print(keep(out, trajectory.save, arguments.force))
    if texts:
        own = settings_of(pipe).scales
        given = arguments.text_scale
        scale = own.get("text_scale", NullText.text_scale) if given is None else given
        print(keep(texts, nmg.find_null_texts(pipe, trajectory, NullText(scale)).save, arguments.force))


def run_replay(arguments: argparse.Namespace) -> None:
    """Make a picture again from its request."""
    from nmg.pipelines import load

    request = Request.read(arguments.picture)
    if arguments.show:
        print(request.to_json())
        return
    out = _writable(arguments.out or arguments.picture.with_name(f"{arguments.picture.stem}-replay.png"), ".png")
    if arguments.force:
        apart(
            [out], [arguments.picture, arguments.image or "", *_files(request.image, request.guidance, request.editor)]
        )
    model = arguments.model or _trusted(request.model, arguments.trust_model)
    image = _opened(arguments.image or request.image)
    if image is None:
        raise ValueError("the picture was made from a trajectory alone; give its source with --image")
    pipe = load(model, arguments.device, DTYPES.get(arguments.dtype or request.dtype))
    result = nmg.edit(pipe, dataclasses.replace(request, image=image))
    rows = [result.reconstruction, *result.pictures]
    if request.row >= len(rows):
        raise ValueError(f"the settings ask for picture {request.row}, and the edit makes {len(rows) - 1}")
    print(request.save(rows[request.row], out, arguments.force))


def _trusted(model: str, trusted: bool) -> str:
    """A model that a picture names, which may come from anyone.

    Raises:
        ValueError: for one that is not this package's own, unless it is trusted.
    """
    from nmg.pipelines import PAPER_MODEL

    if not (trusted or model in (menagerie.NAME, PAPER_MODEL)):
        raise ValueError(
            f"the picture asks for the model {model!r}; if you trust it, add --trust-model, or name one by --model"
        )
    return model


def run_models(arguments: argparse.Namespace) -> None:
    """List the models that can be named."""
    from nmg.pipelines import PAPER_MODEL

    print(f"{menagerie.NAME:32} bundled; a drawn world at {SIZE}×{SIZE}, runs anywhere (default without CUDA)")
    print(f"{PAPER_MODEL:32} Stable Diffusion 1.4, the paper's model (default with CUDA)")
    print(f"{'any hub id or folder':32} a Stable Diffusion 1 or 2 pipeline in diffusers' layout")


def run_demo(arguments: argparse.Namespace) -> None:
    """Edit held-out scenes with the bundled model and draw sheets."""
    from nmg.lab.demo import demo

    for path in demo(arguments.out, arguments.steps):
        print(path)


# ---------------------------------------------------------------- what the commands share


def _inputs(arguments: argparse.Namespace) -> tuple[Any, str | None, list[str]]:
    """The source picture, the source prompt and the targets."""
    scene, trajectory = _scene(arguments.image), getattr(arguments, "trajectory", None)
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
    if arguments.command == "edit" and not targets and not arguments.direction:
        warnings.warn("no --target is given, so this writes the reconstruction", stacklevel=2)
    return _opened(arguments.image), source, targets


def _described(arguments: argparse.Namespace, pipe: Any, image: Any, source: str | None) -> str | None:
    """The source prompt, by the captioning model if that was asked for."""
    if arguments.caption is None:
        return source
    from nmg.lab import captioning

    source = captioning.describe(pipe, image, arguments.caption or captioning.BLIP, arguments.size)
    print(f"nmg: the picture is captioned {source!r}", file=sys.stderr)
    return source


def _model(arguments: argparse.Namespace) -> str | None:
    """The model that was named; scenes belong to the bundled one."""
    return arguments.model or (menagerie.NAME if _scene(arguments.image) else None)


def _writable(path: Path, suffix: str, option: str = "--out") -> Path:
    """`path` with its folder made, found out before any work is done."""
    path = path if path.suffix or path.is_dir() else path.with_suffix(suffix)
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f"{option} {path} can't be written; give the path of a {suffix} file")
    return writable(path)


def _scene(image: str | None) -> Scene | None:
    return parse(image.removeprefix("scene:")) if image and image.startswith("scene:") else None


def _opened(image: str | None) -> Any:
    from nmg import images

    scene = _scene(image)
    return scene.render() if scene else images.load(image) if image else None


def _portable(image: str | None) -> str:
    return "" if image is None else image if image.startswith("scene:") else str(Path(image).resolve())


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}-{suffix}{path.suffix}")


COMMANDS = {
    "edit": run_edit,
    "invert": run_invert,
    "replay": run_replay,
    "bench": run_bench,
    "paper": run_paper,
    "models": run_models,
    "demo": run_demo,
}
