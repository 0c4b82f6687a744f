"""The command line: `nmg edit`, `nmg invert`, `nmg replay`, `nmg models`, `nmg demo`."""

from __future__ import annotations

import argparse
import dataclasses
import os
import sys
import warnings
from collections.abc import Callable
from itertools import chain
from pathlib import Path
from typing import Any

import torch

import nmg
from nmg.editors import Editor, LocalBlend, MasaCtrl, Pix2PixZero, PromptToPrompt
from nmg.guidance import CFG
from nmg.guidance.noise_map import ENERGIES, LEVELS
from nmg.inversion import CONVENTIONS, DDIM, Regularised, Trajectory
from nmg.menagerie import caption
from nmg.menagerie import model as menagerie
from nmg.menagerie.scene import Scene, parse, parse_changes
from nmg.recipe import Recipe, digest

INVERSIONS = {"ddim": DDIM(), "regularised": Regularised()}
DTYPES = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}

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
    p = argparse.ArgumentParser("nmg", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--version", action="version", version=f"nmg {nmg.__version__}")
    commands = p.add_subparsers(dest="command", required=True, metavar="COMMAND")

    for add in (_edit_command, _invert_command, _replay_command, _other_commands):
        add(commands)
    return p


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
        "--out",
        type=Path,
        default=Path("edit.png"),
        help="PNG to write (default: %(default)s); several targets get numbers",
    )
    edit.add_argument("--all", action="store_true", help="also write the source and its reconstruction")
    _guidance(edit)
    _editor(edit)
    edit.set_defaults(run=run_edit)


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
    invert.set_defaults(run=run_invert)


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
    replay.set_defaults(run=run_replay)


def _other_commands(commands: Any) -> None:
    models = commands.add_parser(
        "models", help="list the models that can be named", description="List the models that can be named."
    )
    models.set_defaults(run=run_models)

    demo = commands.add_parser(
        "demo",
        help="edit scenes with the bundled model and draw a sheet",
        description="Edit held-out scenes with the bundled model and draw sheets of the results.",
    )
    demo.add_argument("--out", type=Path, default=Path("outputs"), help="folder to write (default: %(default)s)")
    demo.add_argument("--steps", type=int, default=50)
    demo.set_defaults(run=run_demo)


def _picture(p: argparse.ArgumentParser) -> None:
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
        help=f"hub id, folder, or {menagerie.NAME} (default: Stable Diffusion 1.4 with CUDA, else {menagerie.NAME})",
    )
    p.add_argument("--device", help="cuda, cpu, …")
    p.add_argument("--dtype", choices=DTYPES, help="of the network (default: float16 with CUDA, else float32)")
    p.add_argument("--steps", type=int, help="DDIM steps (default: 50)")
    p.add_argument("--size", type=_size, metavar="WIDTHxHEIGHT", help="in pixels (default: the model's own)")
    p.add_argument("--inversion", choices=INVERSIONS, help="regularised is pix2pix-zero's (default: ddim)")
    p.add_argument("--convention", choices=CONVENTIONS, help="of the inversion (default: aligned)")
    p.add_argument("--offset", type=int, help="the schedule's steps_offset (default: the model's)")


def _guidance(p: argparse.ArgumentParser) -> None:
    g = p.add_argument_group("guidance: keeping the source on its path")
    g.add_argument(
        "--guidance",
        choices=("noise-map", "none"),
        default="noise-map",
        help="none is plain DDIM (default: %(default)s)",
    )
    g.add_argument(
        "--noise-map-scale", type=float, metavar="S_N", help="acts as S_N · S_G; turn this one (default: 10)"
    )
    g.add_argument("--gradient-scale", type=float, metavar="S_G", help="(default: 5000)")
    g.add_argument(
        "--text-scale",
        type=float,
        metavar="S_T",
        help="classifier-free guidance (default: 10; 7.5 without noise maps; 3 on the bundled model)",
    )
    g.add_argument(
        "--level",
        choices=LEVELS,
        help="noise map to compare with: where a step ends, or where it starts, as the authors' MasaCtrl does "
        "(default: end)",
    )
    g.add_argument("--energy", choices=ENERGIES, help="distance to the noise maps (default: l1)")


def _editor(p: argparse.ArgumentParser) -> None:
    p.add_argument("--editor", choices=EDITORS, default="prompt-to-prompt", help="(default: %(default)s)")
    g = p.add_argument_group("--editor prompt-to-prompt: words look where they looked in the source")
    g.add_argument(
        "--mode", choices=("replace", "refine"), help="default: replace for prompts of equally many words, else refine"
    )
    g.add_argument(
        "--cross-replace",
        type=float,
        metavar="F",
        help="share of the steps in which words look where they looked in the source (default: 0.8)",
    )
    g.add_argument(
        "--self-replace",
        type=float,
        metavar="F",
        help="share of the steps in which the layout is the source's (default: 0.6)",
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

    g = p.add_argument_group("--editor masactrl: another pose or viewpoint, the same look")
    g.add_argument(
        "--start-step",
        type=_step,
        metavar="N",
        help="first step of mutual self-attention, or its share of the steps, such as 0.2 (default: 4)",
    )
    g.add_argument(
        "--start-layer",
        type=int,
        metavar="N",
        help="its first self-attention layer (default: 10 of 16, as deep elsewhere)",
    )
    g.add_argument(
        "--words",
        nargs="+",
        metavar="WORDS",
        help="find the foreground by words: the source's, then one per target",
    )
    g.add_argument("--source-mask", metavar="FILE", help="the source's foreground, white on black")
    g.add_argument("--target-mask", metavar="FILE", help="the targets' foreground")

    g = p.add_argument_group("--editor pix2pix-zero: move the text along a direction")
    g.add_argument(
        "--direction",
        nargs="+",
        metavar="FROM TO",
        help="two words, phrases or .txt files of sentences; or one saved direction (default: the prompts' difference)",
    )
    g.add_argument("--amount", type=float, metavar="A", help="of cross-attention guidance (default: 0.15)")

    g = p.add_argument_group("--editor prompt-to-prompt and masactrl")
    g.add_argument("--threshold", type=float, help="of the blend's mask (default: 0.3) or of the foreground's (0.1)")


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


# ---------------------------------------------------------------- commands


def run_edit(arguments: argparse.Namespace) -> None:
    """Edit a picture and write every target as a PNG with its recipe."""
    from nmg.pipelines import load

    # All that can be wrong without the model is found before it is loaded.
    out = _writable(arguments.out, ".png")
    editor, (image, source, targets) = _editor_of(arguments), _inputs(arguments)
    trajectory = Trajectory.load(arguments.trajectory) if arguments.trajectory else None
    pipe = load(_model(arguments), arguments.device, DTYPES.get(arguments.dtype))
    source = _described(arguments, pipe, image, source)
    targets = targets or list(editor.targets(trajectory.prompt if trajectory else source or ""))
    guidance = _guidance_of(arguments, pipe)
    sides = [side for side in arguments.direction or () if not side.endswith(".txt")]
    _note_words(pipe, [source or "", *arguments.target, *(sides if len(sides) == 2 else ())])
    result = nmg.edit(
        pipe,
        trajectory or image,
        source,
        targets,
        guidance=guidance,
        editor=editor,
        steps=arguments.steps,
        size=arguments.size,
        negative=arguments.negative,
        inversion=INVERSIONS.get(arguments.inversion),
        convention=arguments.convention,
        offset=arguments.offset,
    )
    recipe = _recipe(arguments, pipe, result, targets, guidance, editor)
    rows = list(enumerate(result.pictures, 1)) or [(0, result.reconstruction)]
    for row, edited in rows:
        print(_saved(recipe, row, edited, out if len(rows) == 1 else _beside(out, str(row))))
    if arguments.all:
        print(_saved(recipe, 0, result.reconstruction, _beside(out, "reconstruction")))
        if result.source is not None:
            path = _beside(out, "source")
            result.source.save(path)
            print(path)


def _recipe(
    arguments: argparse.Namespace, pipe: Any, result: nmg.Edit, targets: list[str], guidance: CFG, editor: Editor
) -> Recipe:
    """All settings of an edit."""
    trajectory, backbone = result.trajectory, nmg.Backbone(pipe)
    height, width = (n * backbone.pixels_per_latent for n in trajectory.latent_size)
    return Recipe(
        model=backbone.name,
        image=_portable(arguments.image),
        digest="" if result.source is None else digest(result.source),
        source=trajectory.prompt,
        targets=tuple(targets),
        guidance=guidance,
        editor=editor,
        steps=len(trajectory.steps),
        width=width,
        height=height,
        negative=editor.negative(trajectory.prompt) if arguments.negative is None else arguments.negative,
        inversion=trajectory.inversion,
        convention=trajectory.convention,
        offset=_offset(backbone, trajectory),
        dtype=str(pipe.unet.dtype).removeprefix("torch."),
        version=nmg.__version__,
    )


def _saved(recipe: Recipe, row: int, picture: Any, path: Path) -> Path:
    return dataclasses.replace(recipe, row=row).save(picture, path)


def run_invert(arguments: argparse.Namespace) -> None:
    """Invert a picture and save its trajectory."""
    from nmg.pipelines import load

    out = _writable(arguments.out, ".safetensors")
    image, source, _ = _inputs(arguments)
    pipe = load(_model(arguments), arguments.device, DTYPES.get(arguments.dtype))
    steps = 50 if arguments.steps is None else arguments.steps
    source = _described(arguments, pipe, image, source)
    inversion = INVERSIONS.get(arguments.inversion)
    options = {"steps": steps, "size": arguments.size, "inversion": inversion, "offset": arguments.offset}
    nmg.invert(pipe, image, source or "", convention=arguments.convention or "aligned", **options).save(out)
    print(out)


def run_replay(arguments: argparse.Namespace) -> None:
    """Make a picture again from its recipe."""
    from nmg.pipelines import load

    recipe = Recipe.read(arguments.picture)
    if arguments.show:
        print(recipe.to_json())
        return
    image = _opened(arguments.image or recipe.image)
    if image is None:
        raise ValueError("the picture was made from a trajectory alone; give its source with --image")
    pipe = load(arguments.model or recipe.model, arguments.device, DTYPES[arguments.dtype or recipe.dtype])
    picture = nmg.Backbone(pipe).prepare(image, (recipe.width, recipe.height))
    if recipe.digest and digest(picture) != recipe.digest:
        raise ValueError(
            f"{arguments.image or recipe.image!r} is not the picture that was edited; give that one with --image"
        )
    result = nmg.edit(
        pipe,
        picture,
        recipe.source,
        recipe.targets,
        guidance=recipe.guidance,
        editor=recipe.editor,
        steps=recipe.steps,
        size=picture.size,
        negative=recipe.negative,
        inversion=recipe.inversion,
        convention=recipe.convention,
        offset=recipe.offset,
    )
    out = arguments.out or arguments.picture.with_name(f"{arguments.picture.stem}-replay.png")
    print(recipe.save([result.reconstruction, *result.pictures][recipe.row], out))


def run_models(arguments: argparse.Namespace) -> None:
    """List the models that can be named."""
    from nmg.pipelines import PAPER_MODEL

    print(f"{menagerie.NAME:32} bundled; a drawn world at 64×64, runs anywhere (default without CUDA)")
    print(f"{PAPER_MODEL:32} Stable Diffusion 1.4, the paper's model (default with CUDA)")
    print(f"{'any hub id or folder':32} a Stable Diffusion 1 or 2 pipeline in diffusers' layout")


def run_demo(arguments: argparse.Namespace) -> None:
    """Edit held-out scenes with the bundled model and draw sheets."""
    from nmg.menagerie.demo import demo

    for path in demo(arguments.out, arguments.steps):
        print(path)


# ---------------------------------------------------------------- what the commands share


def _inputs(arguments: argparse.Namespace) -> tuple[Any, str | None, list[str]]:
    """The source picture, the source prompt and the targets."""
    scene, trajectory = _scene(arguments.image), getattr(arguments, "trajectory", None)
    source, targets = arguments.source, list(getattr(arguments, "target", []))
    changes = parse_changes(dict(getattr(arguments, "change", [])))
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
    from nmg import captioning

    source = captioning.describe(pipe, image, arguments.caption or captioning.BLIP, arguments.size)
    print(f"nmg: the picture is captioned {source!r}", file=sys.stderr)
    return source


def _model(arguments: argparse.Namespace) -> str | None:
    """The model that was named; scenes belong to the bundled one."""
    return arguments.model or (menagerie.NAME if _scene(arguments.image) else None)


def _note_words(pipe: Any, prompts: list[str]) -> None:
    if menagerie.describe(pipe) and (warning := menagerie.check_words(prompts)):
        warnings.warn(warning, stacklevel=2)


def _writable(path: Path, suffix: str) -> Path:
    """`path` with its folder made, found out before any work is done."""
    path = path if path.suffix or path.is_dir() else path.with_suffix(suffix)
    if path.suffix != suffix or path.is_dir():
        raise ValueError(f"--out {path} can't be written; give the path of a {suffix} file")
    path.parent.mkdir(parents=True, exist_ok=True)
    if not os.access(path.parent, os.W_OK):
        raise ValueError(f"the folder {path.parent} is not writable; give another --out")
    return path


def _scene(image: str | None) -> Scene | None:
    return parse(image.removeprefix("scene:")) if image and image.startswith("scene:") else None


def _opened(image: str | None) -> Any:
    from nmg import images

    scene = _scene(image)
    return scene.render() if scene else images.load(image) if image else None


def _portable(image: str | None) -> str:
    return "" if image is None else image if image.startswith("scene:") else str(Path(image).resolve())


def _guidance_of(arguments: argparse.Namespace, pipe: Any) -> CFG:
    """Guidance by its options, with the bundled model's own scales where it runs."""
    from nmg.pipelines import suited

    if arguments.guidance == "none":
        for name in ("noise_map_scale", "gradient_scale", "energy", "level"):
            if getattr(arguments, name) is not None:
                raise ValueError(f"--{name.replace('_', '-')} belongs to --guidance noise-map, not to none")
        own = menagerie.SCALES["text_scale"] if menagerie.describe(pipe) else CFG.text_scale
        return CFG(own if arguments.text_scale is None else arguments.text_scale)
    return suited(
        pipe,
        noise_map_scale=arguments.noise_map_scale,
        gradient_scale=arguments.gradient_scale,
        text_scale=arguments.text_scale,
        energy=arguments.energy,
        level=arguments.level,
    )


def _editor_of(arguments: argparse.Namespace) -> Editor:
    """Editor by its options.

    Raises:
        ValueError: for an option of another editor, and as the editors do.
    """
    given = {name: v for name in sorted({*chain(*OPTIONS.values())}) if (v := getattr(arguments, name)) is not None}
    for name in given:
        if name not in OPTIONS[arguments.editor]:
            owners = " or ".join(editor for editor, options in OPTIONS.items() if name in options)
            raise ValueError(f"--{name.replace('_', '-')} belongs to --editor {owners}, not to {arguments.editor}")
    return EDITORS[arguments.editor](given)


def _prompt_to_prompt(given: dict[str, Any]) -> Editor:
    blend, subtract, threshold = (given.pop(name, None) for name in ("blend", "subtract", "threshold"))
    if (subtract or threshold is not None) and not blend:
        name = "--subtract" if subtract else "--threshold"
        raise ValueError(f"{name} needs --blend: give the words that the edit is restricted to")
    if blend:
        subtract = tuple(subtract) if subtract else None
        given["local_blend"] = LocalBlend(tuple(blend), subtract, 0.3 if threshold is None else threshold)
    return PromptToPrompt(weights=dict(given.pop("weight", ())), **given)


def _masactrl(given: dict[str, Any]) -> Editor:
    words = given.get("words")
    if "threshold" in given and not words:
        raise ValueError("--threshold needs --words: give the words that the foreground is found by")
    for name in given.keys() & {"source_mask", "target_mask"}:
        given[name] = str(Path(given[name]).resolve())
    return MasaCtrl(**{**given, "words": tuple(words) if words else None})


def _pix2pix_zero(given: dict[str, Any]) -> Editor:
    direction = given.pop("direction", ())
    if len(direction) > 2:
        raise ValueError(
            f"--direction takes two sides or one file, got {len(direction)}: put phrases in quotes, and IMAGE before it"
        )
    # Whole paths, so that a recipe finds the files from anywhere.
    sides = tuple(
        str(Path(side).resolve()) if len(direction) == 1 or side.endswith(".txt") else side for side in direction
    )
    if sides:
        given["direction"] = sides[0] if len(sides) == 1 else sides
    return Pix2PixZero(**given)


EDITORS: dict[str, Callable[[dict[str, Any]], Editor]] = {
    "prompt-to-prompt": _prompt_to_prompt,
    "masactrl": _masactrl,
    "pix2pix-zero": _pix2pix_zero,
    "none": lambda given: Editor(),
}
OPTIONS: dict[str, tuple[str, ...]] = {
    "prompt-to-prompt": ("mode", "cross_replace", "self_replace", "weight", "blend", "subtract", "threshold"),
    "masactrl": ("start_step", "start_layer", "words", "source_mask", "target_mask", "threshold"),
    "pix2pix-zero": ("direction", "amount"),
    "none": (),
}
"""The options that each editor takes."""


def _offset(backbone: nmg.Backbone, trajectory: Trajectory) -> int | None:
    """The `steps_offset` that a trajectory was made with, if it is not the model's own."""
    own = nmg.steps(backbone.scheduler, len(trajectory.steps)) == trajectory.steps
    return None if own else trajectory.steps[-1].timestep


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.stem}-{suffix}{path.suffix}")


def main(argv: list[str] | None = None) -> int:
    """Run a command; an input that can't be used ends with one clear line and exit status 2."""
    arguments = parser().parse_args(argv)
    with warnings.catch_warnings():
        warnings.showwarning = lambda message, *_, **__: print(f"nmg: note: {message}", file=sys.stderr)
        try:
            arguments.run(arguments)
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
