"""The commands by name, and the command line's parser without them: what the help needs, and nothing heavy."""

from __future__ import annotations

import argparse
from typing import Any

from nmg.version import __version__

HELP = {
    "edit": "edit a picture",
    "invert": "invert a picture and save its noise maps",
    "replay": "make a picture again from the settings in its PNG",
    "bench": "measure and compare methods",
    "paper": "make the paper's tables and figures",
    "app": "open the panel as a page of its own",
    "proxies": "say which measures of an edit agree with the exact answer",
    "models": "list the models that can be named",
    "demo": "edit scenes with the bundled model and draw a sheet",
}
"""The commands, and what the help says of each."""
COMPLETION, SHELLS = "--print-completion", ("bash", "zsh", "tcsh")
DESCRIPTION = """\
Edit real pictures with Noise Map Guidance (Cho et al., ICLR 2024), by Prompt-to-Prompt, MasaCtrl or pix2pix-zero.

Without a GPU the bundled model runs, which knows a drawn world of animals and cars:

  nmg edit scene:7 --change colour=blue
  nmg edit scene:10008,kind=cat --change pose=jumping --editor masactrl
  nmg edit scene:7,kind=cat --editor pix2pix-zero --direction cat dog
  nmg edit photo.png --source "a cat sitting in the forest" --target "a dog sitting in the forest"

With CUDA the default is Stable Diffusion 1.4; --model takes others, FLUX.1 and Qwen-Image too, by hub id or folder:

  nmg edit photo.jpg --model CompVis/stable-diffusion-v1-4 \\
      --source "a cat on a table" --target "a tiger on a table" --blend cat tiger
"""


def top() -> tuple[argparse.ArgumentParser, Any]:
    """The parser without its commands, and what they are added to; the command's name comes out as `command`."""
    p = argparse.ArgumentParser("nmg", description=DESCRIPTION, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--version", action="version", version=f"nmg {__version__}")
    p.add_argument(COMPLETION, choices=SHELLS, help="print what the shell needs to complete nmg (needs shtab)")
    return p, p.add_subparsers(dest="command", required=True, metavar="COMMAND")
