"""Every file is written here: whole or not at all, and over another one only where that was asked for."""

from __future__ import annotations

import os
import secrets
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from safetensors import SafetensorError

CURE = "free some space, or give another place"


@contextmanager
def replacing(path: str | os.PathLike, over: bool = True) -> Iterator[Path]:
    """Where to write a file; it takes the place of `path` when the block ends, and is gone if the block fails.

    It lies in the same folder, under a name that nobody can foresee and so put a link at. A link at `path` is replaced,
    not followed.

    Args:
        over: whether a file that lies at `path` is replaced.

    Raises:
        FileExistsError: where one lies there and may not be replaced.
        OSError: for a file that can't be written, with the reason.
    """
    path = Path(path)
    part = path.with_name(f".{secrets.token_hex(16)}{path.suffix}")
    try:
        yield part
        (os.replace if over else _placed)(part, path)
    except FileExistsError:
        raise
    except (OSError, SafetensorError) as error:
        raise unwritten(path, error) from error
    finally:
        part.unlink(missing_ok=True)


def _placed(part: Path, path: Path) -> None:
    """Give a file a name that no other has: a hard link is refused where one has it."""
    try:
        os.link(part, path)
    except FileExistsError:
        raise
    except OSError:
        # A file system without hard links.
        if os.path.lexists(path):
            raise FileExistsError(f"there is a file at {path}") from None
        os.replace(part, path)


def unwritten(path: Path, error: Exception) -> OSError:
    """The one line that says why a file can't be written."""
    reason = getattr(error, "strerror", None) or str(error)
    return OSError(f"{os.fspath(path)!r} can't be written: {reason}; {CURE}")


def keep(path: Path, write: Callable[[Path], object], over: bool = False) -> Path:
    """Write a file by `write`, which is given where; where a file lies at `path`, under the next free number.

    Args:
        over: replace that file instead.

    Returns:
        Where it lies.
    """
    while True:
        place = path if over else free(path)
        try:
            with replacing(place, over) as part:
                write(part)
            return place
        except FileExistsError:  # Another process was faster: the next number.
            continue


def free(path: Path, names: Callable[[Path], Iterable[Path]] = lambda path: (path,)) -> Path:
    """The path, or the first with a number added, for which nothing lies at any of its `names`."""
    found, number = path, 2
    while any(map(os.path.lexists, names(found))):
        found, number = path.with_name(f"{path.stem}-{number}{path.suffix}"), number + 1
    return found


def folder(path: str | os.PathLike) -> Path:
    """A folder that is there and can be written to, made if need be.

    Raises:
        OSError: if it can't be, with the reason.
    """
    path = Path(path)
    try:
        path.mkdir(parents=True, exist_ok=True)
        (probe := path / f".{secrets.token_hex(16)}").touch(exist_ok=False)
        probe.unlink()
    except OSError as error:
        raise unwritten(path, error) from error
    return path


LONGEST = 200
"""Bytes of a file's name, so that numbers and endings can be added."""


def writable(path: Path) -> Path:
    """A path that a file can be written to, with its folder made, so that no work is done in vain.

    Raises:
        OSError: if none can, with the reason.
    """
    if len(os.fsencode(path.name)) > LONGEST:
        raise OSError(f"the name {path.name[:40]!r}… can't be written: it has more than {LONGEST} bytes; shorten it")
    return folder(path.parent) / path.name


def apart(outputs: Sequence[Path], inputs: Iterable[str | os.PathLike]) -> None:
    """See that no output is another one or one of the inputs.

    Raises:
        ValueError: for one that is.
    """
    if len({os.path.realpath(path) for path in outputs}) < len(outputs):
        raise ValueError(f"two files would be written to one path, of {', '.join(map(str, outputs))}; give two names")
    read = {os.path.realpath(path) for path in inputs}
    if taken := [path for path in outputs if os.path.realpath(path) in read]:
        raise ValueError(f"{str(taken[0])!r} is read, and would be written over; give another name")
