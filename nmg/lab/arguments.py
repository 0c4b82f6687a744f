"""The parser of every command; its options are made of `nmg.lab.controls`, and `nmg.lab.cli` runs what they ask for."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch

from nmg.editors import (
    FlowEdit,
    GuideAndRescale,
    LocalBlend,
    MasaCtrl,
    Pix2PixZero,
    PlugAndPlay,
    PromptToPrompt,
    UniEdit,
)
from nmg.guidance import Guidance, NoiseMap, NullText, ProxNegativePrompt
from nmg.inversion import Inversion
from nmg.lab.bench import command as bench
from nmg.lab.bench import paper, trust
from nmg.lab.controls import CONTROLS, Control, add_option
from nmg.lab.panel import app
from nmg.lab.top import HELP, top
from nmg.lab.values import pair
from nmg.menagerie.model import NAME
from nmg.request import Request

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STEPS = 50
OUT = Path("edit.png")
PICTURE = ("source", "steps", "size", "inversion", "convention", "offset")
"""Controls of every command that inverts a picture, beside those of the inversions."""
HEADINGS: dict[type, str] = {
    Guidance: "guidance: keeping the source on its noise maps",
    NoiseMap: "--guidance noise-map, and with it: steer the source back to its noise maps",
    NullText: "--guidance null-text, and with it: optimise the null prompt of every step",
    ProxNegativePrompt: "--guidance proximal: the source prompt as null prompt, and small differences left out",
    PromptToPrompt: "--editor prompt-to-prompt: words keep the source's attention maps",
    LocalBlend: "--editor prompt-to-prompt: words keep the source's attention maps",
    MasaCtrl: "--editor masactrl: another pose or viewpoint, the same appearance",
    Pix2PixZero: "--editor pix2pix-zero: move the text along a direction",
    PlugAndPlay: "--editor plug-and-play: the source's features and self-attention in the decoder",
    FlowEdit: "--editor flow-edit: targets move by their difference to the source, without an inversion",
    GuideAndRescale: "--editor guide-and-rescale: a gradient towards the source's self-attention and features",
    UniEdit: "--editor uni-edit: the source's prompt, and the prompts' difference where it is large",
}
"""What the help says above the options of a class."""
FIRST = (
    *("--source", "--target", "--change", "--editor", "--guidance", "--noise-map-scale", "--text-scale", "--steps"),
    *("--model", "--out"),
)
"""What most edits need: the help of `nmg edit` says it first."""

EDIT = """\
IMAGE is a file, or a scene of the bundled world: scene:SEED or scene:SEED,kind=cat,place=snow. Several of them, a
folder, or a table are many edits, which go on where they were stopped, and which torchrun shares among processes or
GPUs:

  nmg edit photos --source "a photo of a cat" --target "a photo of a dog" --out dogs
  nmg edit photos --table edits.csv        # columns: image, source, target, and any option, such as text-scale
  torchrun --nproc_per_node 2 -m nmg edit photos --table edits.csv

Which settings? All of them on one sheet, and the sampling as a film:

  nmg edit scene:7 --change colour=blue --grid text-scale=3,5,7.5 noise-map-scale=0,10,3000
  nmg edit scene:7 --change colour=blue --gif

How to choose: if the reconstruction drifts from the source, lower --text-scale; if the edit is too weak, lower
--cross-replace and --self-replace, or give the new word a weight (--weight tiger=2); if it changes too much, raise
them, or restrict it to words (--blend SOURCE_WORD TARGET_WORD). With --editor masactrl, a later --start-step or
--start-layer leaves the prompt more room, an earlier one keeps more of the source. With --editor pix2pix-zero, a higher
--text-scale changes more.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of every command; the command's name comes out as `command`."""
    p, commands = top()
    adds = (bench.add, paper.add, trust.add, app.add, _other_commands)
    for add in (_edit_command, _invert_command, _replay_command, *adds):
        add(commands)
    return p


# ---------------------------------------------------------------- commands


def _edit_command(commands: Any) -> None:
    edit = commands.add_parser(
        "edit",
        usage="nmg edit IMAGE --source PROMPT --target PROMPT [options]",
        help=HELP["edit"],
        description="Edit a picture.",
        epilog=EDIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _picture(edit, "*")
    edit.add_argument(
        "--table",
        metavar="FILE",
        help="a CSV of edits: a column image, and columns named after options, such as source, target and text-scale; "
        "options on the command line hold for rows without their own",
    )
    edit.add_argument(
        "--grid",
        nargs="+",
        type=_axis,
        metavar="OPTION=VALUES",
        help="edit with every combination of the values of one or two options, such as text-scale=3,7.5, on one sheet",
    )
    edit.add_argument("--gif", action="store_true", help="also write the sampling as a moving picture")
    edit.add_argument(
        "--change",
        action="append",
        default=[],
        type=pair,
        metavar="FACTOR=VALUE",
        help="for a scene: the target prompt with a factor changed, such as place=beach",
    )
    edit.add_argument("--trajectory", metavar="FILE", help="edit a trajectory of `nmg invert` instead of IMAGE's")
    edit.add_argument(
        "--keep-path",
        action="store_true",
        help="leave the source row in the file of --trajectory: later edits with the same guidance replay it, faster",
    )
    _out(edit, OUT, "PNG to write (default: %(default)s), or folder of many; several targets get numbers")
    edit.add_argument("--all", action="store_true", help="also write the source and its reconstruction")
    add_options(edit, lambda row: not _of_picture(row))
    _show_first(edit, "what most edits need", FIRST)


def _invert_command(commands: Any) -> None:
    invert = commands.add_parser(
        "invert",
        help=HELP["invert"],
        description="Invert a picture by DDIM and save its noise maps for later edits.",
    )
    _picture(invert)
    _out(invert, Path("trajectory.safetensors"), "file to write (default: %(default)s)")
    invert.add_argument(
        "--save-null-texts",
        type=Path,
        metavar="FILE",
        help="also search the null texts of null-text inversion and write them to FILE, for --null-texts",
    )
    add_options(invert, lambda row: row.name == "text_scale", {Guidance: "with --save-null-texts"})


def _replay_command(commands: Any) -> None:
    replay = commands.add_parser(
        "replay",
        help=HELP["replay"],
        description="Make a picture again from the settings that `nmg edit` wrote into its PNG.",
    )
    replay.add_argument("picture", type=Path)
    replay.add_argument("--image", help="the source picture, if it has moved")
    replay.add_argument("--model", help="the model, if it has moved")
    replay.add_argument(
        "--trust-model", action="store_true", help="load the model that the PNG names, though it is not nmg's own"
    )
    _force(replay)
    replay.add_argument("--device", help="cuda, cpu, …")
    replay.add_argument("--dtype", choices=DTYPES, help="of the network (default: as it was)")
    replay.add_argument("--out", type=Path, help="PNG to write (default: PICTURE-replay.png)")
    replay.add_argument("--show", action="store_true", help="print the settings and make nothing")


def _other_commands(commands: Any) -> None:
    commands.add_parser("models", help=HELP["models"], description="List the models that can be named.")
    demo = commands.add_parser(
        "demo",
        help=HELP["demo"],
        description="Edit held-out scenes with the bundled model and draw sheets of the results.",
    )
    demo.add_argument("--out", type=Path, default=Path("outputs"), help="folder to write (default: %(default)s)")
    demo.add_argument("--steps", type=int, default=STEPS, help="DDIM steps (default: %(default)s)")


# ---------------------------------------------------------------- groups of options


def add_options(
    parser: argparse.ArgumentParser, chosen: Callable[[Control], bool], headings: Mapping[type, str] = HEADINGS
) -> None:
    """Add the options of some controls, in the groups of their classes."""
    rows = [row for row in CONTROLS if chosen(row)]
    named = {row.of[0]: headings.get(row.of[0], row.of[0].__name__) for row in rows if not _ungrouped(row)}
    titles = dict.fromkeys(title for title in (*headings.values(), *named.values()) if title in named.values())
    groups = {title: parser.add_argument_group(title) for title in titles}
    for row in rows:
        add_option(parser if _ungrouped(row) else groups[named[row.of[0]]], row)


def _show_first(p: argparse.ArgumentParser, title: str, flags: Sequence[str]) -> None:
    """Move options to a group of their own, before all others."""
    group = p.add_argument_group(title)
    p._action_groups.insert(1, p._action_groups.pop())
    for flag in flags:
        action = p._option_string_actions[flag]
        home = next(home for home in p._action_groups if action in home._group_actions)
        home._group_actions.remove(action)
        group._group_actions.append(action)


def _ungrouped(row: Control) -> bool:
    return issubclass(row.of[0], (Request, Inversion))


def _of_picture(row: Control) -> bool:
    """Whether a control belongs to a picture and its inversion."""
    return row.name in PICTURE or any(issubclass(kind, Inversion) for kind in row.of)


def _picture(p: argparse.ArgumentParser, count: str = "?") -> None:
    """The picture, the model, and the inversion."""
    p.add_argument("image", nargs=count, metavar="IMAGE", help="a picture file, or scene:SEED of the bundled world")
    p.add_argument(
        "--caption",
        nargs="?",
        const="",
        metavar="MODEL",
        help="instead of --source: let a captioning model describe the picture (BLIP, or a hub id or folder)",
    )
    p.add_argument(
        "--model",
        help=f"hub id, folder, or {NAME} (default: Stable Diffusion 1.4 with CUDA, else {NAME})",
    )
    p.add_argument("--device", help="cuda, mps (untested), cpu, … (default: the first of these that is there)")
    p.add_argument("--dtype", choices=DTYPES, help="of the network (default: float16 with CUDA, else float32)")
    add_options(p, _of_picture)


def _axis(text: str) -> tuple[str, str]:
    """OPTION=VALUE,VALUE."""
    name, equals, values = text.partition("=")
    if not (name.strip() and equals and values.strip()):
        raise argparse.ArgumentTypeError(f"{text!r} must look like text-scale=3,7.5")
    return name.strip(), values


def _out(p: argparse.ArgumentParser, default: Path, words: str) -> None:
    p.add_argument("--out", type=Path, default=default, help=words)
    _force(p)


def _force(p: argparse.ArgumentParser) -> None:
    p.add_argument("--force", action="store_true", help="write over files that exist, instead of numbering the new one")
