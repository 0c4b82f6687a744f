"""`nmg app`: the panel as a page of its own, which Voilà serves on this machine alone (`pip install 'nmg[app]'`)."""

from __future__ import annotations

import argparse
import importlib.util
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from nmg.lab.devices import device_for
from nmg.lab.top import HELP
from nmg.menagerie.model import NAME

SCENE = "scene:7,kind=cat,colour=orange,place=forest,style=plain,pose=sitting"
TARGET = "a blue cat sitting in the forest, facing forward"
"""What the bundled model begins with where no picture is given."""
PORT = 8866
DATA = Path(__file__).parent / "jupyter"
"""Jupyter's data folder of the page: its template."""
FRONT = ("@voila-dashboards/widgets-manager8", "@jupyter-widgets/jupyterlab-manager", "anywidget")
"""What of JupyterLab's extensions the page loads; others may belong to another version than Voilà's."""


def add(commands: Any) -> None:
    """Add `nmg app` to the commands."""
    p = commands.add_parser(
        "app",
        help=HELP["app"],
        description="Open the panel as a page of its own, on 127.0.0.1: nobody else on the network reaches it.",
    )
    p.add_argument("image", nargs="?", metavar="IMAGE", help="a picture file, or scene:SEED of the bundled world")
    p.add_argument("--source", metavar="PROMPT", help="what the picture shows (a scene brings its own caption)")
    p.add_argument("--target", metavar="PROMPT", help="what the edit should show")
    p.add_argument("--model", help=f"hub id, folder, or {NAME} (default: Stable Diffusion 1.4 with CUDA, else {NAME})")
    p.add_argument("--device", help="cuda, mps (untested), cpu, … (default: the first of these that is there)")
    p.add_argument("--dtype", choices=("float32", "bfloat16", "float16"), help="of the network")
    p.add_argument("--steps", type=int, default=50, help="DDIM steps (default: %(default)s)")
    p.add_argument("--port", type=int, default=PORT, help="of the page (default: %(default)s)")
    p.add_argument("--dark", action="store_true", help="a dark page")
    p.add_argument("--no-browser", action="store_true", help="open no browser; the page's address is printed")


def run_app(arguments: argparse.Namespace) -> None:
    """Serve the page until it is interrupted.

    Raises:
        ValueError: without Voilà, or without a picture for a model that has none of its own.
        OSError: if the page can't be served.
    """
    if missing := [name for name in ("voila", "ipywidgets", "anywidget") if importlib.util.find_spec(name) is None]:
        raise ValueError(f"nmg app needs {', '.join(missing)}; pip install 'nmg[app]'")
    device = device_for(arguments.device)
    image = arguments.image
    if image is None:
        if arguments.model not in (None, NAME) or (arguments.model is None and device.startswith("cuda")):
            raise ValueError(f"IMAGE is missing; give a picture file, or --model {NAME} for its drawn world")
        image, arguments.target = SCENE, arguments.target or ("" if arguments.source else TARGET)
    if not image.startswith("scene:"):
        image = str(Path(image).resolve())
    model = arguments.model or (NAME if image.startswith("scene:") else None)
    names = ("source", "target", "dtype", "steps")
    settings = {"image": image, "model": model, "device": device} | {name: getattr(arguments, name) for name in names}
    with tempfile.TemporaryDirectory() as folder:
        notebook = Path(folder) / "nmg.ipynb"
        notebook.write_text(json.dumps(_notebook(settings)))
        ended = subprocess.run(_command(notebook, arguments), env=_environment(), check=False)
    if ended.returncode:
        raise OSError(f"the page can't be served on port {arguments.port}; is it taken? Give another with --port")


def _notebook(settings: dict[str, Any]) -> dict[str, Any]:
    """A notebook of one cell, which opens the panel."""
    source = f"from nmg.lab.panel.app import opened\n\nopened(**{settings!r})"
    cell: dict[str, Any] = {
        "cell_type": "code",
        "id": "panel",
        "metadata": {},
        "source": source,
        "outputs": [],
        "execution_count": None,
    }
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    return {"cells": [cell], "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}


def _command(notebook: Path, arguments: argparse.Namespace) -> list[str]:
    """How Voilà is started."""
    settings = {
        "Voila.ip": "127.0.0.1",
        "Voila.port_retries": 0,
        "VoilaConfiguration.extension_allowlist": list(FRONT),
        "port": arguments.port,
        "template": "nmg",
        "theme": "dark" if arguments.dark else "light",
        "show_tracebacks": True,
    }
    options = [f"--{name}={value}" for name, value in settings.items()]
    return [sys.executable, "-m", "voila", str(notebook), *options, *["--no-browser"] * arguments.no_browser]


def _environment() -> dict[str, str]:
    """This process's, in which Voilà finds the page's template, and a kernel the same package wherever it starts."""
    found = {"PYTHONPATH": Path(__file__).parents[3], "JUPYTER_PATH": DATA}
    paths = {name: [str(path), *filter(None, [os.environ.get(name)])] for name, path in found.items()}
    return {**os.environ, **{name: os.pathsep.join(several) for name, several in paths.items()}}


def opened(
    image: str, model: str | None, device: str, dtype: str | None, source: str | None, target: str | None, steps: int
) -> Any:
    """The panel of the page, with its model loaded."""
    import torch
    from diffusers.utils import logging
    from transformers.utils import logging as transformers_logging

    from nmg.lab.panel.widgets import panel
    from nmg.pipelines import load

    # The page says itself that it is loading.
    logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()
    pipe = load(model, device, None if dtype is None else getattr(torch, dtype))
    return panel(pipe, image, source, target, steps=steps)
