"""The command line: `nmg edit`, `nmg invert`, `nmg replay`, `nmg bench`, `nmg paper`, `nmg models`, `nmg demo`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from pathlib import Path
from typing import Any

import nmg
from nmg.backbones import settings_of
from nmg.guidance import NullText
from nmg.inversion import Trajectory
from nmg.lab.arguments import DTYPES, parser
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
    editor, inversion, _ = (made(role, arguments) for role in ("editor", "inversion", "guidance"))
    image, source, targets = _inputs(arguments)
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
    _write(result, _portable(arguments.image), out, arguments.all)


def _write(result: nmg.Edit, image: str, out: Path, every: bool) -> None:
    """Write the pictures of an edit with their request, which names the source picture as `image`."""
    request = dataclasses.replace(result.request, image=image)
    numbered = list(enumerate(result.pictures, 1)) or [(0, result.reconstruction)]
    paths = {row: out if len(numbered) == 1 else _beside(out, str(row)) for row, _ in numbered}
    if every:
        numbered.append((0, result.reconstruction))
        paths[0] = _beside(out, "reconstruction")
    for row, picture in numbered:
        print(dataclasses.replace(request, row=row).save(picture, paths[row]))
    if every and result.source is not None:
        result.source.save(path := _beside(out, "source"))
        print(path)


def run_invert(arguments: argparse.Namespace) -> None:
    """Invert a picture and save its trajectory."""
    from nmg.pipelines import load

    out, inversion = _writable(arguments.out, ".safetensors"), made("inversion", arguments)
    texts = arguments.save_null_texts and _writable(arguments.save_null_texts, ".safetensors", "--save-null-texts")
    if texts is None and arguments.text_scale is not None:
        raise ValueError("--text-scale needs --save-null-texts: an inversion alone has no text guidance")
    image, source, _ = _inputs(arguments)
    pipe = load(_model(arguments), arguments.device, DTYPES.get(arguments.dtype))
    source = _described(arguments, pipe, image, source)
    names = ("steps", "size", "convention", "offset")
    options = {name: value for name in names if (value := getattr(arguments, name)) is not None}
    trajectory = nmg.invert(pipe, image, source or "", inversion=inversion, **options)
    trajectory.save(out)
    print(out)
    if texts:
        own = settings_of(pipe).scales
        given = arguments.text_scale
        scale = own.get("text_scale", NullText.text_scale) if given is None else given
        nmg.find_null_texts(pipe, trajectory, NullText(scale)).save(texts)
        print(texts)


def run_replay(arguments: argparse.Namespace) -> None:
    """Make a picture again from its request."""
    from nmg.pipelines import load

    request = Request.read(arguments.picture)
    if arguments.show:
        print(request.to_json())
        return
    out = _writable(arguments.out or arguments.picture.with_name(f"{arguments.picture.stem}-replay.png"), ".png")
    image = _opened(arguments.image or request.image)
    if image is None:
        raise ValueError("the picture was made from a trajectory alone; give its source with --image")
    pipe = load(arguments.model or request.model, arguments.device, DTYPES[arguments.dtype or request.dtype])
    result = nmg.edit(pipe, dataclasses.replace(request, image=image))
    print(request.save([result.reconstruction, *result.pictures][request.row], out))


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
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the folder {path.parent} is not writable; give another {option}")
    return path


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


def main(argv: list[str] | None = None) -> int:
    """Run a command; an input that can't be used ends with one clear line and exit status 2."""
    arguments = parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"nmg: note: {message}", file=sys.stderr)
        try:
            COMMANDS[arguments.command](arguments)
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            print(f"nmg: error: {error}", file=sys.stderr)
            return 2
        except RuntimeError as error:
            hint = "; try a smaller --size, or --dtype float16" if "out of memory" in str(error).lower() else ""
            print(f"nmg: error: {str(error).strip().splitlines()[0]}{hint}", file=sys.stderr)
            return 2
        except KeyboardInterrupt:
            print("nmg: interrupted", file=sys.stderr)
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
