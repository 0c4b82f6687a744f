"""What a benchmark measured: one JSON object a line, in a folder that a killed run can be resumed in."""

from __future__ import annotations

import dataclasses
import errno
import json
import math
import os
import platform
import re
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Annotated, Any

from filelock import FileLock, Timeout
from pydantic import Field

from nmg import files
from nmg.files import replacing, unwritten
from nmg.lab.scoring import INFINITE
from nmg.schema import MOST, Form, Number, Text, Whole, checked, parsed

CONFIGURATION = "run.json"
"""What all records of a folder were measured with."""
TABLES = ("table.md", "table.csv")
"""What is written again whenever a folder's records are."""


@dataclass(frozen=True)
class Item:
    """What is measured once.

    Attributes:
        suite: "menagerie" or "pie".
        split: "validation" chooses settings, "test" is reported.
        task: a kind of edit.
        item: the seed of a scene, or the name of a picture.
        method: a name in `METHODS`, or "identity" or "ceiling".
        scale: the noise-map scale, for methods that have one.
    """

    suite: str
    split: str
    task: str
    item: int | str
    method: str
    scale: float | None = None

    @property
    def key(self) -> str:
        """The same text for the same item in every run."""
        scale = "-" if self.scale is None else f"{self.scale:g}"
        return "/".join([self.suite, self.split, self.task, str(self.item), self.method, scale])


Finite = Annotated[float, Field(allow_inf_nan=False)]
Amount = Annotated[float, Field(ge=0, le=1e9)]


class _Fields(Form):
    """What a line may hold: the fields of a `Record`."""

    key: Text
    suite: Text
    split: Text
    task: Text
    item: Whole | Text
    editor: Text
    method: Text
    scale: Number | None
    steps: Annotated[int, Field(ge=0, le=MOST)]
    source: Text
    target: Text
    device: Text
    version: Text
    model: Text
    settings: dict[str, Any] = {}
    metrics: dict[Text, Finite] = {}
    missing: dict[Text, Text] = {}
    seconds: Amount | None = None
    inversion_seconds: Amount | None = None
    peak_mib: Amount | None = None
    pictures: dict[Text, Text] = {}
    refused: Text | None = None
    failed: bool = False


@dataclass(frozen=True)
class Record:
    """One measured item.

    Attributes:
        key, suite, split, task, item, method, scale: see `Item`.
        editor: name of the editor's class.
        steps: of the inversion and of the edit.
        settings: guidance, inversion and editor as `nmg.serialize.packed` gives them, and the inversion's convention
            and offset; empty for "identity" and "ceiling".
        source, target: the prompts.
        metrics: values by name.
        missing: why a metric has no value, by its name; see `value`.
        seconds: of the edit without the inversion.
        inversion_seconds: of the inversion, which serves every method of the same inversion.
        peak_mib: the edit's peak memory in MiB: allocated on a CUDA device, or resident of the process on Linux's CPU.
        device, version, model: what measured it; the model's name ends in a digest of the UNet's weights.
        pictures: paths of "edit" and "reconstruction", relative to the folder.
        refused: why there is no result, or None.
        failed: whether that is a failure on this item, whose values were not finite, and no refusal of the combination.
    """

    key: str
    suite: str
    split: str
    task: str
    item: int | str
    editor: str
    method: str
    scale: float | None
    steps: int
    source: str
    target: str
    device: str
    version: str
    model: str
    settings: dict[str, Any] = field(default_factory=dict)
    metrics: dict[str, float] = field(default_factory=dict)
    missing: dict[str, str] = field(default_factory=dict)
    seconds: float | None = None
    inversion_seconds: float | None = None
    peak_mib: float | None = None
    pictures: dict[str, str] = field(default_factory=dict)
    refused: str | None = None
    failed: bool = False

    def value(self, metric: str) -> float | None:
        """A metric, infinite where it is missing because the pictures are equal; None where it has no value."""
        return math.inf if self.missing.get(metric) == INFINITE else self.metrics.get(metric)

    def to_json(self) -> str:
        """One line without its end."""
        return json.dumps(dataclasses.asdict(self), allow_nan=False)

    @classmethod
    def from_json(cls, text: str | bytes) -> Record:
        """Read a line.

        Raises:
            ValueError: for a line that holds no record of this version.
        """
        try:
            return cls(**dict(checked(parsed(text), _Fields)))
        except ValueError as error:
            raise ValueError(
                f"a record can't be read by this version ({error}); give another folder, or delete this one"
            ) from error


def read(folder: str | os.PathLike) -> list[Record]:
    """Every record of a folder, of all processes; of the same key the first.

    A last line without its end was torn by a kill: it is left out, and its item is measured again.

    Raises:
        ValueError: for a whole line that holds no record.
    """
    found: dict[str, Record] = {}
    for path in sorted(Path(folder).glob("records-*.jsonl"), key=_rank):
        for line in path.read_bytes().split(b"\n")[:-1]:
            record = Record.from_json(line)
            found.setdefault(record.key, record)
    return list(found.values())


def _rank(path: Path) -> tuple[int, str]:
    number = re.search(r"\d+", path.stem)
    return int(number.group()) if number else 0, path.name


class Writer:
    """Appends records to the file of one process.

    Args:
        folder: of the run.
        rank: of the process; no other writes to the same file.
    """

    def __init__(self, folder: Path, rank: int = 0):
        self.path = folder / f"records-{rank}.jsonl"
        # What a killed run left of its last line would spoil the next one.
        if self.path.exists():
            whole = self.path.read_bytes().rfind(b"\n") + 1
            if whole < self.path.stat().st_size:
                os.truncate(self.path, whole)

    def write(self, record: Record) -> None:
        """Append one record in one call, so that a kill tears the last line at most.

        Raises:
            OSError: if it can't be written, with the reason; nothing of it is then left.
        """
        line = record.to_json().encode() + b"\n"
        try:
            with open(self.path, "ab", buffering=0) as file:
                before = file.tell()
                if file.write(line) < len(line):  # A full disk takes a part.
                    file.truncate(before)
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        except OSError as error:
            raise unwritten(self.path, error) from error


@contextmanager
def held(folder: Path, first: bool = True) -> Iterator[None]:
    """Keep a folder to one run inside the block.

    Args:
        first: whether this process holds it for those that share the run.

    Raises:
        ValueError: if another run has it, with which.
    """
    if not first:
        yield
        return
    files.folder(folder)
    lock, holder = FileLock(folder / ".lock"), folder / ".holder"
    try:
        lock.acquire(timeout=0)
    except Timeout:
        raise ValueError(
            f"{folder} is being written by {_said(holder)}; wait, or give another folder (--out)"
        ) from None
    try:
        with files.replacing(holder) as part:
            part.write_text(f"process {os.getpid()} on {platform.node()} since {datetime.now():%Y-%m-%d %H:%M}")
        yield
    finally:
        holder.unlink(missing_ok=True)
        lock.release()


def _said(holder: Path) -> str:
    try:
        return holder.read_text()
    except OSError:
        return "another run"


def configure(folder: Path, configuration: dict[str, Any], first: bool = True) -> None:
    """Write what a run is measured with, or compare it with what the folder's records were measured with.

    Args:
        first: whether this process may write.

    Raises:
        ValueError: if they differ, with the difference; or if the folder holds other things than a run's.
    """
    path = folder / CONFIGURATION
    if first and not path.is_file() and (foreign := [name for name in TABLES if (folder / name).exists()]):
        raise ValueError(f"{folder} holds {foreign[0]} and no benchmark, which would write over it; {CURE}")
    if path.is_file():
        known = _configuration(path)
        differing = [name for name in {**known, **configuration} if known.get(name) != configuration.get(name)]
        if differing:
            listed = "; ".join(
                f"{name} {known.get(name)!r} there, {configuration.get(name)!r} now" for name in differing
            )
            raise ValueError(f"{folder} holds records of another configuration ({listed}); {CURE}")
    elif first:
        folder.mkdir(parents=True, exist_ok=True)
        with replacing(path) as part:
            part.write_text(json.dumps(configuration, indent=2))


CURE = "give another folder (--out), or delete this one"


def _configuration(path: Path) -> dict[str, Any]:
    try:
        return checked(parsed(path.read_text(encoding="utf-8")), dict)
    except (OSError, ValueError) as error:
        raise ValueError(f"{path} is damaged ({error}); {CURE}") from error


def agree(known: Iterable[Record], settings: dict[str, dict[str, Any]], folder: Path) -> None:
    """Compare the settings of records with those that a run would measure them with.

    Args:
        settings: by key.

    Raises:
        ValueError: if some differ, with the first of them.
    """
    for record in known:
        wanted = json.loads(json.dumps(settings[record.key]))
        if record.settings != wanted:
            names = [name for name in wanted if record.settings.get(name) != wanted[name]]
            name = names[0] if names else next(iter(record.settings))
            raise ValueError(
                f"{folder} holds {record.key!r} with another {name}: {record.settings.get(name)} there, "
                f"{wanted.get(name)} now; {CURE}"
            )
