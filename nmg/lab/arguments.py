"""The command line's arguments; `nmg.lab.cli` runs what they ask for."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

import nmg
from nmg.editors import LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.editors.masactrl import START_LAYER
from nmg.editors.prompt_to_prompt import MODES
from nmg.guidance import NoiseMap, NullText, ProxNegativePrompt
from nmg.guidance.negative_prompt import PULLS, THRESHOLDS
from nmg.guidance.noise_map import ENERGIES, LEVELS
from nmg.inversion import CONVENTIONS, EditFriendly, FixedPoint
from nmg.lab.bench import command as bench
from nmg.lab.bench import paper
from nmg.lab.methods import EDITORS, GUIDANCES, INVERSIONS
from nmg.lab.profile import MENAGERIE
from nmg.menagerie.model import NAME
from nmg.request import Recipe

SCALES = MENAGERIE.scales

DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
STEPS = 50

DESCRIPTION = """\
Edit real pictures with Noise Map Guidance (Cho et al., ICLR 2024), by Prompt-to-Prompt, MasaCtrl or pix2pix-zero.

Without a GPU the bundled model runs, which knows a drawn world of animals and cars:

  nmg edit scene:7 --change colour=blue
  nmg edit scene:10008,kind=cat --change pose=jumping --editor masactrl
  nmg edit scene:7,kind=cat --editor pix2pix-zero --direction cat dog
  nmg edit photo.png --source "a cat sitting in the forest" --target "a dog sitting in the forest"

With CUDA the default is Stable Diffusion 1.4; --model takes any Stable Diffusion 1 or 2 by hub id or folder:

  nmg edit photo.jpg --model CompVis/stable-diffusion-v1-4 \\
      --source "a cat on a table" --target "a tiger on a table" --blend cat tiger
"""

EDIT = """\
IMAGE is a file, or a scene of the bundled world: scene:SEED or scene:SEED,kind=cat,place=snow.

How to choose: if the reconstruction strays from the source, raise --noise-map-scale; if the edit is too
weak, lower --cross-replace and --self-replace, or give the new word a weight (--weight tiger=2); if it
changes too much, raise them, or restrict it to words (--blend SOURCE_WORD TARGET_WORD). With --editor masactrl, a later
--start-step or --start-layer leaves the prompt more room, an earlier one keeps more of the source. With --editor
pix2pix-zero, a higher --text-scale changes more.
"""


def parser() -> argparse.ArgumentParser:
    """The parser of every command; the command's name comes out as `command`."""
    p = argparse.ArgumentParser("nmg", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--version", action="version", version=f"nmg {nmg.__version__}")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for add in (_edit_command, _invert_command, _replay_command, bench.add, paper.add, _other_commands):
        add(commands)
    return p


# ---------------------------------------------------------------- commands


def _edit_command(commands: Any) -> None:
    edit = commands.add_parser(
        "edit",
        help="edit a picture",
        description="Edit a picture.",
        epilog=EDIT,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _picture(edit)
    edit.add_argument(
        "--target", action="append", default=[], metavar="PROMPT", help="what the edit should show; repeatable"
    )
    edit.add_argument(
        "--change",
        action="append",
        default=[],
        type=_pair,
        metavar="FACTOR=VALUE",
        help="for a scene: the target prompt with a factor changed, such as place=beach",
    )
    edit.add_argument(
        "--negative", metavar="PROMPT", help="prompt of the null half (default: empty; pix2pix-zero: the source's)"
    )
    edit.add_argument("--trajectory", metavar="FILE", help="edit a trajectory of `nmg invert` instead of IMAGE's")
    edit.add_argument(
        "--keep-path",
        action="store_true",
        help="leave the source's path in the file of --trajectory: later edits with the same guidance follow it, "
        "faster",
    )
    edit.add_argument(
        "--out",
        type=Path,
        default=Path("edit.png"),
        help="PNG to write (default: %(default)s); several targets get numbers",
    )
    edit.add_argument("--all", action="store_true", help="also write the source and its reconstruction")
    _guidance(edit)
    edit.add_argument("--editor", choices=EDITORS, default=next(iter(EDITORS)), help="(default: %(default)s)")
    for add in (_prompt_to_prompt, _masactrl, _pix2pix_zero, _several_editors):
        add(edit)


def _invert_command(commands: Any) -> None:
    invert = commands.add_parser(
        "invert",
        help="invert a picture and save its noise maps",
        description="Invert a picture by DDIM and save its noise maps for later edits.",
    )
    _picture(invert)
    invert.add_argument(
        "--out", type=Path, default=Path("trajectory.safetensors"), help="file to write (default: %(default)s)"
    )
    invert.add_argument(
        "--save-null-texts",
        type=Path,
        metavar="FILE",
        help="also search the null texts of null-text inversion and write them to FILE, for --null-texts",
    )
    invert.add_argument(
        "--text-scale",
        type=float,
        metavar="S",
        help=f"that the null texts are searched for (default: {NullText.text_scale:g}; {SCALES['text_scale']:g} on the "
        "bundled model)",
    )


def _replay_command(commands: Any) -> None:
    replay = commands.add_parser(
        "replay",
        help="make a picture again from the settings in its PNG",
        description="Make a picture again from the settings that `nmg edit` wrote into its PNG.",
    )
    replay.add_argument("picture", type=Path)
    replay.add_argument("--image", help="the source picture, if it has moved")
    replay.add_argument("--model", help="the model, if it has moved")
    replay.add_argument("--device", help="cuda, cpu, …")
    replay.add_argument("--dtype", choices=DTYPES, help="of the network (default: as it was)")
    replay.add_argument("--out", type=Path, help="PNG to write (default: PICTURE-replay.png)")
    replay.add_argument("--show", action="store_true", help="print the settings and make nothing")


def _other_commands(commands: Any) -> None:
    commands.add_parser(
        "models", help="list the models that can be named", description="List the models that can be named."
    )
    demo = commands.add_parser(
        "demo",
        help="edit scenes with the bundled model and draw a sheet",
        description="Edit held-out scenes with the bundled model and draw sheets of the results.",
    )
    demo.add_argument("--out", type=Path, default=Path("outputs"), help="folder to write (default: %(default)s)")
    demo.add_argument("--steps", type=int, default=STEPS, help="DDIM steps (default: %(default)s)")


# ---------------------------------------------------------------- groups of options


def _picture(p: argparse.ArgumentParser) -> None:
    """The picture, the model, and the inversion."""
    p.add_argument("image", nargs="?", metavar="IMAGE", help="a picture file, or scene:SEED of the bundled world")
    p.add_argument("--source", metavar="PROMPT", help="what the picture shows (a scene brings its own caption)")
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
    p.add_argument("--device", help="cuda, cpu, …")
    p.add_argument("--dtype", choices=DTYPES, help="of the network (default: float16 with CUDA, else float32)")
    p.add_argument("--steps", type=int, help=f"DDIM steps (default: {STEPS})")
    p.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="in pixels (default: the model's own)")
    # Without a default: a trajectory has its own inversion, which one that is given must agree with.
    p.add_argument(
        "--inversion",
        choices=INVERSIONS,
        help="how the noise is predicted: regularised is pix2pix-zero's, fixed-point AIDI's and ReNoise's, "
        f"edit-friendly is DDPM's (default: {next(iter(INVERSIONS))})",
    )
    p.add_argument(
        "--iterations", type=int, metavar="N", help=f"of fixed-point inversion (default: {FixedPoint.iterations})"
    )
    p.add_argument(
        "--average", type=int, metavar="N", help=f"fixed-point estimates to average (default: {FixedPoint.average})"
    )
    p.add_argument(
        "--residual-scale",
        type=float,
        metavar="S",
        help="text scale of edit-friendly inversion; at the edit's own the source is exact "
        f"(default: {EditFriendly.text_scale})",
    )
    p.add_argument("--convention", choices=CONVENTIONS, help=f"of the inversion (default: {Recipe.convention})")
    p.add_argument("--offset", type=int, help="the schedule's steps_offset (default: the model's)")


def _guidance(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("guidance: keeping the source on its path")
    g.add_argument(
        "--guidance",
        choices=GUIDANCES,
        default=next(iter(GUIDANCES)),
        help="none is plain DDIM; null-text, negative-prompt (NPI), proximal (ProxNPI) and direct (PnP inversion) are "
        "what it is compared with (default: %(default)s)",
    )
    g.add_argument("--text-scale", type=float, metavar="S_T", help=f"classifier-free guidance {_default('text_scale')}")
    for add in (_noise_map, _null_text, _proximal):
        add(p)


def _noise_map(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("--guidance noise-map, and with it: steer the source back to its noise maps")
    g.add_argument(
        "--noise-map-scale",
        type=float,
        nargs="+",
        metavar="S_N",
        help=f"acts as S_N · S_G; turn this one; or one number for each step {_default('noise_map_scale')}",
    )
    g.add_argument("--gradient-scale", type=float, metavar="S_G", help=_default("gradient_scale"))
    g.add_argument(
        "--level",
        choices=LEVELS,
        help="noise map to compare with: where a step ends, or where it starts, as the authors' MasaCtrl does "
        f"(default: {NoiseMap.level})",
    )
    g.add_argument("--energy", choices=ENERGIES, help=f"distance to the noise maps (default: {NoiseMap.energy})")
    g.add_argument(
        "--during",
        type=float,
        nargs=2,
        metavar=("FROM", "TO"),
        help="shares of the steps between which the source is steered, such as 0 0.5 (default: all)",
    )
    g.add_argument("--guard", metavar="FILE", help="mask of what is guarded, white on black")
    g.add_argument(
        "--outside",
        type=float,
        metavar="SHARE",
        help=f"of the strength outside the mask (default: {NoiseMap.outside:g})",
    )
    g.add_argument(
        "--no-jacobian",
        dest="jacobian",
        action="store_false",
        default=None,
        help="leave the network out of the gradient: no backward pass",
    )


def _null_text(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("--guidance null-text, and with it: optimise the null prompt of every step")
    g.add_argument(
        "--optimisation-steps",
        type=int,
        metavar="N",
        help=f"of Adam in each step, at most (default: {NullText.iterations})",
    )
    g.add_argument("--null-texts", metavar="FILE", help="null texts of an earlier search, which `nmg invert` can save")


def _proximal(p: argparse.ArgumentParser) -> None:
    own = ProxNegativePrompt
    g = p.add_argument_group(
        "--guidance proximal: the source prompt for the null prompt, and small differences left out"
    )
    g.add_argument("--quantile", type=float, metavar="Q", help=f"share that is left out (default: {own.quantile})")
    g.add_argument(
        "--pooled", action="store_true", default=None, help="one threshold over all rows, as in the authors' code"
    )
    g.add_argument("--proximal", choices=THRESHOLDS, help=f"threshold (default: {own.threshold})")
    g.add_argument("--pull", choices=PULLS, help=f"what unedited places are held at (default: {own.pull})")
    g.add_argument("--rate", type=float, help=f"share of the distance that is taken back (default: {own.rate:g})")
    g.add_argument("--dilation", type=int, metavar="R", help=f"of the edited places (default: {own.dilation})")
    g.add_argument("--below", type=int, metavar="T", help=f"timestep below which they are held (default: {own.below})")


def _default(scale: str) -> str:
    """A scale's default in words: of each guidance that takes it, where they differ, and the bundled model's own."""
    owners: dict[float, list[str]] = {}
    for name, method in GUIDANCES.items():
        if scale in method.options:
            owners.setdefault(getattr(method.kind, scale), []).append(name)
    several = len(owners) > 1
    words = [f"{value:g} with {', '.join(names)}" if several else f"{value:g}" for value, names in owners.items()]
    if scale in SCALES and set(owners) != {SCALES[scale]}:
        words.append(f"{SCALES[scale]:g} on the bundled model")
    return f"(default: {'; '.join(words)})"


def _prompt_to_prompt(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("--editor prompt-to-prompt: words look where they looked in the source")
    g.add_argument("--mode", choices=MODES, help="default: replace for prompts of equally many words, else refine")
    g.add_argument(
        "--cross-replace",
        type=float,
        metavar="F",
        help="share of the steps in which words look where they looked in the source "
        f"(default: {PromptToPrompt.cross_replace})",
    )
    g.add_argument(
        "--self-replace",
        type=float,
        metavar="F",
        help=f"share of the steps in which the layout is the source's (default: {PromptToPrompt.self_replace})",
    )
    g.add_argument(
        "--weight",
        action="append",
        type=_weight,
        metavar="WORD=FACTOR",
        help="strengthen or weaken a word of the target; repeatable",
    )
    g.add_argument(
        "--blend",
        nargs="+",
        metavar="WORDS",
        help="restrict the edit to the places of words: the source's, then one per target",
    )
    g.add_argument("--subtract", nargs="+", metavar="WORDS", help="words whose places are taken out of the blend")


def _masactrl(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("--editor masactrl: another pose or viewpoint, the same look")
    g.add_argument(
        "--start-step",
        type=_step,
        metavar="N",
        help="first step of mutual self-attention, or its share of the steps, such as 0.2 "
        f"(default: {MasaCtrl.start_step})",
    )
    g.add_argument(
        "--start-layer",
        type=int,
        metavar="N",
        help=f"its first self-attention layer (default: {START_LAYER * 16:g} of 16, as deep elsewhere)",
    )
    g.add_argument(
        "--words",
        nargs="+",
        metavar="WORDS",
        help="find the foreground by words: the source's, then one per target",
    )
    g.add_argument("--source-mask", metavar="FILE", help="the source's foreground, white on black")
    g.add_argument("--target-mask", metavar="FILE", help="the targets' foreground")


def _pix2pix_zero(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("--editor pix2pix-zero: move the text along a direction")
    g.add_argument(
        "--direction",
        nargs="+",
        metavar="FROM TO",
        help="two words, phrases or .txt files of sentences; or one saved direction (default: the prompts' difference)",
    )
    g.add_argument(
        "--amount", type=float, metavar="A", help=f"of cross-attention guidance (default: {Pix2PixZero.amount})"
    )


def _several_editors(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("--editor prompt-to-prompt and masactrl")
    g.add_argument(
        "--threshold",
        type=float,
        help=f"of the blend's mask (default: {LocalBlend.threshold}) or of the foreground's ({MasaCtrl.threshold})",
    )


# ---------------------------------------------------------------- kinds of value


def _pair(text: str) -> tuple[str, str]:
    name, equals, value = text.partition("=")
    if not (name and equals and value):
        raise argparse.ArgumentTypeError(f"{text!r} must look like NAME=VALUE")
    return name, value


def _weight(text: str) -> tuple[str, float]:
    word, value = _pair(text)
    try:
        return word, float(value)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like WORD=2.5") from None


def _step(text: str) -> int | float:
    try:
        return int(text) if text.isdigit() else float(text)
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like 4 or 0.2") from None


def _size(text: str) -> tuple[int, int]:
    try:
        width, height = map(int, text.lower().split("x"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"{text!r} must look like 512x512") from None
    return width, height
