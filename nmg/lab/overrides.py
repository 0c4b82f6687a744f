"""Options that stand in a cell of a table, or among the values of a grid, read as the command line reads them."""

from __future__ import annotations

import argparse
import copy
import difflib
import shlex
from collections.abc import Collection, Iterable
from typing import Any, NoReturn

YES, NO = ("yes", "true", "1", "x"), ("no", "false", "0")


def command(parser: argparse.ArgumentParser, name: str) -> argparse.ArgumentParser:
    """The parser of a command, which raises a ValueError instead of ending the program."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    found = commands.choices[name]

    def error(message: str) -> NoReturn:
        raise ValueError(message.removeprefix("argument "))

    found.error = error  # type: ignore[method-assign]
    return found


def option(parser: argparse.ArgumentParser, name: str, but: Collection[str] = ()) -> argparse.Action:
    """The option of a name, as "text-scale", "text scale" or "--text-scale".

    Args:
        but: names of those that hold for the whole run.

    Raises:
        ValueError: for a name that is no option, or one of those.
    """
    plain = "-".join(name.strip().lower().removeprefix("--").replace("_", " ").split())
    options = {flag.removeprefix("--"): action for flag, action in parser._option_string_actions.items()}
    if plain in but and plain in options:
        raise ValueError(f"--{plain} holds for the whole run; give it on the command line")
    if plain not in options or plain in ("h", "-h", "help"):
        close = difflib.get_close_matches(plain, options, 1)
        raise ValueError(
            f"{name.strip()!r} is no option of {parser.prog}{f'; did you mean {close[0]}?' if close else ''}"
        )
    return options[plain]


def words(action: argparse.Action, value: str) -> list[str]:
    """What stands on the command line for a value in a cell: options of several words split it as a shell does.

    Raises:
        ValueError: for an open quotation mark, or a flag that is neither yes nor no.
    """
    flag = action.option_strings[-1]
    if action.nargs == 0:
        if value.lower() not in (*YES, *NO):
            raise ValueError(f"{flag} is {value!r}; write yes or no")
        return [flag] if value.lower() in YES else []
    # A value that begins with a dash is no option.
    return [f"{flag}={value}"] if action.nargs is None else [flag, *shlex.split(value)]


def overridden(
    parser: argparse.ArgumentParser, arguments: argparse.Namespace, given: Iterable[tuple[argparse.Action, str]]
) -> argparse.Namespace:
    """The arguments with some options set anew.

    Raises:
        ValueError: for a value that the option does not take.
    """
    changed: Any = copy.copy(arguments)
    argv = []
    for action, value in given:
        argv += words(action, value)
        # What is repeated on the command line is replaced, not added to.
        setattr(changed, action.dest, copy.copy(action.default))
    image, known = changed.image, parser.parse_args(argv, namespace=changed)
    known.image = image
    return known
