"""`nmg paper`: make the paper's tables and figures."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import torch

from nmg.lab.bench.artefacts import ARTEFACTS, COMPARED, Paper
from nmg.lab.bench.pictures import CAPTIONS, Pictures
from nmg.lab.bench.processes import own_device
from nmg.lab.top import HELP

DESCRIPTION = """\
Make the paper's tables and figures, on held-out scenes of the bundled model or on photographs.

  nmg paper editing --scenes 2 --methods DDIM NMG
  nmg paper all --out outputs/paper
  nmg paper reconstruction --model CompVis/stable-diffusion-v1-4 --images photographs

A folder of photographs holds captions.json: {"cat.png": {"source": "a photo of a cat", "target": "a photo of a dog"}}.
What was measured is kept in the folder: a run that was stopped goes on, and artefacts share their edits, with those
of `nmg bench --out` in the same folder too. Under torchrun the processes share the work.
"""


def add(commands: Any) -> None:
    """Add `nmg paper` to the commands."""
    p = commands.add_parser(
        "paper",
        help=HELP["paper"],
        description=DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    p.add_argument("artefact", choices=[*ARTEFACTS, "all"], metavar="NAME", help=", ".join([*ARTEFACTS, "or all"]))
    p.add_argument("--out", type=Path, default=Path("outputs/paper"), help="folder to write (default: %(default)s)")
    p.add_argument("--images", type=Path, metavar="FOLDER", help=f"photographs, with their prompts in {CAPTIONS}")
    p.add_argument("--tasks", nargs="+", metavar="TASK", help="kinds of edit (default: all)")
    p.add_argument("--methods", nargs="+", metavar="METHOD", default=COMPARED, help=f"(default: {' '.join(COMPARED)})")
    p.add_argument(
        "--scenes", type=int, metavar="N", help="scenes or pictures of each task (default: 4 scenes, all pictures)"
    )
    p.add_argument("--steps", type=int, default=Paper.steps, help="DDIM steps (default: %(default)s)")
    p.add_argument(
        "--noise-map-scale", type=float, metavar="S_N", help="for all (default: chosen in --out, or the model's)"
    )
    p.add_argument("--text-scale", type=float, metavar="S_T", help="of every method (default: the model's)")
    p.add_argument("--model", help="hub id, folder, or menagerie (default: as for nmg edit)")
    p.add_argument("--device", help="cuda, cpu, …")
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the network")


def run_paper(arguments: argparse.Namespace) -> None:
    """Make one artefact, or all, and print the paths."""
    from nmg.pipelines import load

    suite = Pictures.read(arguments.images) if arguments.images else None
    pipe = load(
        arguments.model, own_device(arguments.device), getattr(torch, arguments.dtype) if arguments.dtype else None
    )
    paper = Paper(
        pipe,
        arguments.out,
        suite,
        arguments.methods,
        arguments.tasks,
        (None if suite else Paper.count) if arguments.scenes is None else arguments.scenes,
        arguments.steps,
        arguments.noise_map_scale,
        arguments.text_scale,
    )
    for make in ARTEFACTS.values() if arguments.artefact == "all" else [ARTEFACTS[arguments.artefact]]:
        for path in make(paper):
            print(path)
