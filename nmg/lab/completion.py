"""What a shell needs to complete the command line: `nmg --print-completion bash`, by shtab (`nmg[completion]`)."""

from __future__ import annotations

import argparse
from pathlib import Path

FILES = ("FILE", "FOLDER", "IMAGE")
"""What stands for a path in the help."""


def completion(parser: argparse.ArgumentParser, shell: str) -> str:
    """The script that makes a shell complete a parser's commands, options, choices and paths.

    Raises:
        ValueError: without shtab, with what to install.
    """
    try:
        import shtab
    except ModuleNotFoundError as error:
        raise ValueError("--print-completion needs shtab; pip install 'nmg[completion]'") from error
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    for command in commands.choices.values():
        for action in command._actions:
            if action.type is Path or action.metavar in FILES:
                action.complete = shtab.FILE  # type: ignore[attr-defined]
    return shtab.complete(parser, shell=shell)
