"""The command line: `nmg edit` and the other commands that `nmg.lab.top` lists.

What needs no network is answered here, in a moment: help, and inputs that are not there. `nmg.lab.arguments` has the
options, `nmg.lab.commands` what the commands do, and both take seconds to import.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections.abc import Sequence

from nmg.lab.top import COMPLETION, HELP, SHELLS, top

PROMPTED = ("--so", "--ca", "--tr", "scene:", "-h", "--h")
"""How the arguments begin that say what a picture shows, or ask for help; options may be shortened."""


def _answered(argv: Sequence[str]) -> None:
    """Print the help or the version, or say that there is no such command, and end."""
    p, commands = top()
    for name, words in HELP.items():
        commands.add_parser(name, help=words)
    p.parse_args(argv)


def _early(command: str, *given: str) -> None:
    """Raise for an input that is surely missing, before anything heavy is imported."""
    image = given[0] if given and not given[0].startswith("-") else None
    if image is None or command not in ("edit", "invert", "replay", "app") or image.startswith("scene:"):
        return
    if command == "edit" and (os.path.isdir(image) or any(word.startswith("--tab") for word in given)):
        return
    if not os.path.isfile(image):
        raise FileNotFoundError(f"there is no picture at {image!r}; give the path of a PNG, JPEG or WebP file")
    if command != "replay" and not any(word.startswith(PROMPTED) for word in given):
        raise ValueError(
            '--source is missing; say what the picture shows, such as --source "a photo of a cat", or give --caption'
        )


def _run(argv: Sequence[str]) -> None:
    _early(*argv)
    from nmg.lab.arguments import parser

    if argv[0] == COMPLETION and len(argv) == 2 and argv[1] in SHELLS:
        from nmg.lab.completion import completion

        print(completion(parser(), argv[1]))
        return
    from nmg.lab.commands import COMMANDS

    arguments = parser().parse_args(argv)
    COMMANDS[arguments.command](arguments)


def printable(text: object) -> str:
    """A text in one line; characters that would steer a terminal are spelled out."""
    return "".join(c if c.isprintable() else c.encode("unicode_escape").decode() for c in str(text).strip())


def _say(kind: str, text: object) -> None:
    print(f"nmg: {kind}{printable(text)}", file=sys.stderr)


def main(argv: Sequence[str] | None = None) -> int:
    """Run a command; an input that can't be used ends with one clear line and exit status 2."""
    argv = list(sys.argv[1:] if argv is None else argv)
    if not argv or argv[0] not in (*HELP, COMPLETION):
        _answered(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: _say("note: ", message)
        try:
            _run(argv)
        except (ValueError, TypeError, OSError, FloatingPointError) as error:
            _say("error: ", error)
            return 2
        except RuntimeError as error:
            hint = "; try a smaller --size, or --dtype float16" if "out of memory" in str(error).lower() else ""
            _say("error: ", (str(error).strip().splitlines() or ["no reason is given"])[0] + hint)
            return 2
        except KeyboardInterrupt:
            _say("", "interrupted")
            return 130
    return 0


if __name__ == "__main__":
    sys.exit(main())
