"""What the commands do. `nmg.lab.cli` reads the command line, and imports this once it can be run."""

from __future__ import annotations

import argparse
import dataclasses
import functools
import warnings
from pathlib import Path
from typing import Any

import nmg
from nmg.backbones import settings_of
from nmg.files import apart, free, keep
from nmg.guidance import NullText
from nmg.inversion import Trajectory
from nmg.inversion.run import Callback
from nmg.lab import grids, inputs, many, memory
from nmg.lab.arguments import DTYPES
from nmg.lab.bench.command import run_bench
from nmg.lab.bench.paper import run_paper
from nmg.lab.bench.trust import run_proxies
from nmg.lab.controls import made
from nmg.lab.devices import device_for
from nmg.lab.films import Film
from nmg.lab.inputs import outputs, portable, read_by, writable
from nmg.lab.panel.app import run_app
from nmg.menagerie import model as menagerie
from nmg.menagerie.scene import SIZE
from nmg.request import Request

# ---------------------------------------------------------------- commands


def run_edit(arguments: argparse.Namespace) -> None:
    """Edit a picture and write every target as a PNG with its request; or many pictures, or a grid of settings."""
    if many.asked(arguments):
        return many.run(arguments)
    arguments.image = arguments.image[0] if arguments.image else None
    if arguments.grid:
        return grids.run(arguments)
    # All that can be wrong without the model is found before it is loaded.
    out = writable(arguments.out, ".png")
    methods = [made(role, arguments) for role in inputs.ROLES]
    source, targets = inputs.prompts(arguments)
    inputs.note_reconstruction(arguments, targets)
    image = inputs.opened(arguments.image)
    if arguments.force:
        names = outputs(out, len(targets) or bool(arguments.direction), arguments.all)
        apart(list(names.values()), read_by(arguments.image, arguments.trajectory, *methods))
    trajectory = Trajectory.load(arguments.trajectory) if arguments.trajectory else None
    pipe = inputs.loaded(arguments, inputs.scene_of(arguments.image) is not None)
    source = inputs.described(arguments, pipe, image, source)
    request = inputs.request_of(arguments, pipe, trajectory or image, source, targets)
    film = Film() if arguments.gif else None
    result = _edited(pipe, request, film)
    if arguments.keep_path:
        result.trajectory.save(arguments.trajectory)
    first = _write(result, arguments, out)
    if film is not None:
        print(film.save(pipe, result, first.with_suffix(".gif"), arguments.force))


def _edited(pipe: Any, request: Request, callback: Callback | None = None) -> nmg.Edit:
    """An edit, before which is said whether it fits the card."""
    if note := memory.said(pipe, request):
        warnings.warn(note, stacklevel=2)
    return nmg.edit(pipe, request, callback=callback)


def _write(result: nmg.Edit, arguments: argparse.Namespace, out: Path) -> Path:
    """Write the pictures of an edit with their request, which names the source picture.

    What lies at one of their paths is kept, and all get the next free number; with --force it is replaced.

    Returns:
        The path of the first.
    """
    request = dataclasses.replace(result.request, image=portable(arguments.image))
    names = functools.partial(outputs, count=len(result.pictures), every=arguments.all)
    paths = names(out if arguments.force else free(out, lambda path: names(path).values()))
    pictures = dict(enumerate([result.reconstruction, *result.pictures]))
    written = []
    for row in sorted(pictures.keys() & paths.keys(), key=lambda row: (row == 0, row)):
        written.append(dataclasses.replace(request, row=row).save(pictures[row], paths[row], arguments.force))
        print(written[-1])
    if arguments.all and result.source is not None:
        print(keep(paths["source"], result.source.save, arguments.force))
    return written[0]


def run_invert(arguments: argparse.Namespace) -> None:
    """Invert a picture and save its trajectory."""
    out, inversion = writable(arguments.out, ".safetensors"), made("inversion", arguments)
    texts = arguments.save_null_texts and writable(arguments.save_null_texts, ".safetensors", "--save-null-texts")
    if texts is None and arguments.text_scale is not None:
        raise ValueError("--text-scale needs --save-null-texts: an inversion alone has no text guidance")
    apart([path for path in (out, texts) if path], [arguments.image or ""] if arguments.force else [])
    source, _ = inputs.prompts(arguments)
    image = inputs.opened(arguments.image)
    pipe = inputs.loaded(arguments, inputs.scene_of(arguments.image) is not None)
    source = inputs.described(arguments, pipe, image, source)
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
    out = writable(arguments.out or arguments.picture.with_name(f"{arguments.picture.stem}-replay.png"), ".png")
    if arguments.force:
        apart(
            [out], [arguments.picture, arguments.image or "", *read_by(request.image, request.guidance, request.editor)]
        )
    model = arguments.model or _trusted(request.model, arguments.trust_model)
    image = inputs.opened(arguments.image or request.image)
    if image is None:
        raise ValueError("the picture was made from a trajectory alone; give its source with --image")
    pipe = load(model, device_for(arguments.device), DTYPES.get(arguments.dtype or request.dtype))
    result = _edited(pipe, dataclasses.replace(request, image=image))
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
    print(f"{'any hub id or folder':32} a Stable Diffusion, FLUX.1 or Qwen-Image pipeline in diffusers' layout")


def run_demo(arguments: argparse.Namespace) -> None:
    """Edit held-out scenes with the bundled model and draw sheets."""
    from nmg.lab.demo import demo

    for path in demo(arguments.out, arguments.steps):
        print(path)


COMMANDS = {
    "edit": run_edit,
    "invert": run_invert,
    "replay": run_replay,
    "bench": run_bench,
    "paper": run_paper,
    "app": run_app,
    "proxies": run_proxies,
    "models": run_models,
    "demo": run_demo,
}
