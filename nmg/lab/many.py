"""`nmg edit FOLDER`, or with a table of prompts: many pictures, resumed where a run was stopped, by several processes.

The rows are checked before anything is computed. They are shared and locked as the benchmark's items are: under
torchrun each process takes its part, on its own GPU. A row is done when its PNG holds the settings that the row asks
for.
"""

from __future__ import annotations

import argparse
import csv
import dataclasses
import itertools
import os
import re
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from tqdm.auto import tqdm

import nmg
from nmg.backbones import Backbone
from nmg.files import folder, keep
from nmg.lab import inputs, memory
from nmg.lab.arguments import OUT, parser
from nmg.lab.bench.processes import Processes, joined, own_device
from nmg.lab.bench.records import held
from nmg.lab.controls import made
from nmg.lab.overrides import command, option, overridden
from nmg.request import Request, digest

ENDINGS = (".png", ".jpg", ".jpeg", ".webp", ".bmp", ".tif", ".tiff")
"""Files of a folder that are pictures."""
WHOLE = ("model", "device", "dtype", "table", "grid", "gif", "out", "force", "all", "trajectory", "keep-path")
"""Options that all rows share."""
FOLDER = Path("edits")
"""What is written to where --out is not given."""
SHOWN = 3
"""Wrong rows that are said."""


@dataclass(frozen=True)
class Row:
    """One picture of a run.

    Attributes:
        where: what it is called in messages.
        arguments: the command line's, with the row's own.
        out: the PNG of its edit; several targets get numbers.
    """

    where: str
    arguments: argparse.Namespace
    out: Path


def asked(arguments: argparse.Namespace) -> bool:
    """Whether the command line asks for many pictures."""
    return bool(arguments.table) or len(arguments.image) > 1 or any(map(os.path.isdir, arguments.image))


def run(arguments: argparse.Namespace) -> None:
    """Edit what is not done yet and print every picture's path.

    Raises:
        ValueError: for wrong rows, all of them before anything is computed; and at the end, if edits failed.
    """
    if arguments.grid or arguments.gif or arguments.trajectory:
        raise ValueError("--grid, --gif and --trajectory are for one picture; give its file in the place of many")
    place = FOLDER if arguments.out == OUT else arguments.out
    if place.suffix:
        raise ValueError(f"--out {place} is a file's name; many pictures need a folder, such as --out {FOLDER}")
    rows = _rows(arguments, folder(place))
    _together(rows, _check)
    scenes = all(row.arguments.image.startswith("scene:") for row in rows)
    pipe = inputs.loaded(arguments, scenes, own_device(arguments.device))
    backbone = Backbone(pipe)
    if arguments.caption is None:
        _together(rows, lambda row: _request(row, pipe).resolved(backbone).opened().check(backbone))
    processes = joined(backbone.device.type == "cpu")
    with held(place, processes.first):
        failed = _edited(rows, pipe, processes)
    if failed:
        raise ValueError(f"{failed} of {len(rows)} edits failed, as said above; the same command makes what is missing")


def _edited(rows: Sequence[Row], pipe: Any, processes: Processes) -> int:
    """Edit this process's share of the rows, and count those that failed."""
    failed, share, notes = 0, processes.share(rows), memory.Notes()
    for row in tqdm(share, "pictures", disable=not processes.first):
        try:
            for path in _edit(row, pipe, notes):
                tqdm.write(str(path))
        except (ValueError, OSError, FloatingPointError) as error:
            tqdm.write(f"nmg: {row.where}: {error}", file=sys.stderr)
            failed += 1
    processes.wait()
    return failed


def _edit(row: Row, pipe: Any, notes: memory.Notes) -> Iterator[Path]:
    """Edit a row that is not done, and write its pictures with their request."""
    arguments, backbone = row.arguments, Backbone(pipe)
    image = inputs.opened(arguments.image)
    source = inputs.described(arguments, pipe, image, inputs.prompts(arguments)[0])
    request = dataclasses.replace(_request(row, pipe), image=image, source=source)
    named = dataclasses.replace(request.resolved(backbone), image=inputs.portable(arguments.image))
    named = dataclasses.replace(named, digest=digest(backbone.prepare(image, named.size)))
    paths = inputs.outputs(row.out, len(named.targets), arguments.all)
    if not arguments.force and all(_done(path, number, named) for number, path in paths.items()):
        return
    if note := notes.new(pipe, request):
        tqdm.write(f"nmg: note: {row.where}: {note}", file=sys.stderr)
    result = nmg.edit(pipe, request, progress=False)
    named = dataclasses.replace(result.request, image=named.image)
    for number, picture in enumerate([result.reconstruction, *result.pictures]):
        if number in paths:
            yield dataclasses.replace(named, row=number).save(picture, paths[number], arguments.force)
    if "source" in paths and result.source is not None:
        yield keep(paths["source"], result.source.save, arguments.force)


def _done(path: Path, number: int | str, asked: Request) -> bool:
    """Whether a file, or one of the same name with a number, is the picture of a request; of the source it is enough
    that it is there."""
    if number == "source":
        return path.is_file()
    wanted = Request.from_json(dataclasses.replace(asked, row=int(number)).to_json())
    numbered = (path.with_name(f"{path.stem}-{i}{path.suffix}") for i in itertools.count(2))
    places = itertools.takewhile(Path.is_file, itertools.chain([path], numbered))
    return any(_read(place) == wanted for place in places)


def _read(path: Path) -> Request | None:
    try:
        return Request.read(path)
    except ValueError:
        return None


# ---------------------------------------------------------------- rows


def _rows(arguments: argparse.Namespace, place: Path) -> list[Row]:
    """The pictures with their options and the files that they are written to.

    Raises:
        ValueError: if there are none, or rows of the table can't be read.
    """
    given = [Path(image) for image in arguments.image]
    if arguments.table:
        if len(given) > 1 or any(not path.is_dir() for path in given):
            raise ValueError("with --table, IMAGE is the folder of the table's pictures, or left out")
        found = _tabled(arguments, (given or [Path(arguments.table).parent])[0])
    else:
        pictures = [path for image in arguments.image for path in _pictures(image)]
        found = [(str(path), _with(arguments, path)) for path in pictures]
    if not found:
        raise ValueError(
            f"there is no picture in {arguments.table or arguments.image[0]}; {', '.join(ENDINGS)} are read"
        )
    stems = [_stem(own.image) for _, own in found]
    count = Counter(stems)
    names = [stem if count[stem] == 1 else f"{stem}-{i}" for i, stem in enumerate(stems, 1)]
    return [Row(where, own, place / f"{name}.png") for (where, own), name in zip(found, names, strict=True)]


def _pictures(image: str) -> list[str]:
    if not os.path.isdir(image):
        return [image]
    return sorted(str(path) for path in Path(image).iterdir() if path.suffix.lower() in ENDINGS)


def _with(arguments: argparse.Namespace, image: str) -> argparse.Namespace:
    return argparse.Namespace(**{**vars(arguments), "image": image})


def _stem(image: str) -> str:
    """What a picture's files are called; a scene's after its seed and factors."""
    return re.sub(r"[^\w.]+", "-", image) if image.startswith("scene:") else Path(image).stem


def _tabled(arguments: argparse.Namespace, home: Path) -> list[tuple[str, argparse.Namespace]]:
    """The rows of a table: its column "image" is read from `home`, each other column is an option of `nmg edit`."""
    edit = command(parser(), "edit")
    lines = _lines(arguments.table)
    names = [name.strip().lower() for name in lines[0]] if lines else []
    if names.count("image") != 1:
        raise ValueError(
            f'{arguments.table} needs one column "image"; its first row has {", ".join(names) or "nothing"}'
        )
    actions = [None if name == "image" else option(edit, name, WHOLE) for name in names]

    def read(number: int, cells: Sequence[str]) -> argparse.Namespace:
        if len(cells) > len(names):
            raise ValueError(f"it has {len(cells)} cells for {len(names)} columns; put commas inside of quotes")
        pairs = [(action, cell.strip()) for action, cell in zip(actions, cells, strict=False) if cell.strip()]
        image = next((cell for action, cell in pairs if action is None), "")
        if not image:
            raise ValueError("its image is missing")
        own = overridden(edit, arguments, [(action, cell) for action, cell in pairs if action is not None])
        return _with(own, image if image.startswith("scene:") else str(home / image))

    rows = [
        (f"{arguments.table}, row {i}", i, cells) for i, cells in enumerate(lines[1:], 2) if any(map(str.strip, cells))
    ]
    return list(zip([where for where, _, _ in rows], _together(rows, lambda row: read(*row[1:])), strict=True))


def _lines(table: str) -> list[list[str]]:
    """The cells of a CSV file.

    Raises:
        ValueError: for a file that is none.
    """
    try:
        with open(table, newline="", encoding="utf-8-sig") as file:
            return list(csv.reader(file, strict=True))
    except (csv.Error, UnicodeDecodeError) as error:
        raise ValueError(f"{table} can't be read as a table ({error}); save it as CSV in UTF-8") from error


# ---------------------------------------------------------------- what is wrong with them


def _check(row: Row) -> None:
    """What can be wrong with a row without the model."""
    source, targets = inputs.prompts(row.arguments)
    if not (row.arguments.image.startswith("scene:") or os.path.isfile(row.arguments.image)):
        raise ValueError(f"there is no picture at {row.arguments.image!r}")
    inputs.scene_of(row.arguments.image)
    for role in inputs.ROLES:
        made(role, row.arguments)
    if not targets and not row.arguments.direction:
        raise ValueError("it has no target prompt; give a column target, or --target for all")


def _request(row: Row, pipe: Any) -> Request:
    source, targets = inputs.prompts(row.arguments)
    return inputs.request_of(row.arguments, pipe, row.arguments.image, source, targets)


def _together(rows: Sequence[Any], check: Any) -> list[Any]:
    """What `check` gives for every row.

    Raises:
        ValueError: with what is wrong with each of them.
    """
    found, wrong = [], []
    for row in rows:
        try:
            found.append(check(row))
        except (ValueError, TypeError, OSError) as error:
            wrong.append(f"{row.where if isinstance(row, Row) else row[0]}: {error}")
    if wrong:
        more = [f"and {len(wrong) - SHOWN} more"] if len(wrong) > SHOWN else []
        raise ValueError("; ".join([*wrong[:SHOWN], *more]))
    return found
