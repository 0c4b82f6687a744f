"""The model card: what the bundled model was trained on, for how long, and how well it does."""

from __future__ import annotations

from typing import Any

from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import ScalarFormatter

from nmg.menagerie.scene import FACTORS, SIZE
from nmg.menagerie.tasks import TRAIN_SEEDS
from scripts.goals import goals

HEAD = """\
# Menagerie

A latent diffusion model of a drawn world, in Stable Diffusion's folder format, small enough for a laptop. It exists to
run, test and explain image editing without downloads, not to make pictures for their own sake. MIT licence.

{sizes}

## Data

Scenes that the package draws (`nmg.menagerie.Scene`), {size}×{size} pixels, captioned as people write: a third are
short, words vary and change places. Named factors: {factors}. Never named: position, size, hue, light, horizon, and the
shape of the place. Training scenes have seeds from {seed:,} on; every figure below is from other seeds.

## Training

{training}

![PSNR of the autoencoder and error of the predicted noise during the training]({curves})

Settings of `python -m scripts.train`: {settings}.

The first tenth of the network's training shows the noisier half of the timesteps alone, where nothing but the text
tells the shapes. Words are watched in every layer: one whose softmax gives everything to one padding token has no
gradient left. An earlier state of this model had lost its 8×8 layers so, and the first bundled model had never trained
78 % of its network: PyTorch, compiled under bf16 on a CPU, gave no gradient through nearest-neighbour upsampling. The
trainer now refuses to save a network of which a tensor has moved by weight decay alone.
"""

CURVES = "training.png"
"""The figure of the curves, beside the card."""
AUTOENCODER = {"vae": "whole", "decoder": "decoder alone"}
"""Stages that train the autoencoder, and their names in the figure."""


def write(training: dict[str, Any], report: dict[str, Any]) -> str:
    """The card in Markdown, from what training and evaluation recorded."""
    factors = "; ".join(f"{name} ({', '.join(map(str, values))})" for name, values in FACTORS.items())
    sizes = ", ".join(f"{name} {count / 1e6:.2f} M" for name, count in training["parameters"].items())
    stages = [[name, f"{stage['samples']:,}", f"{stage['minutes']:.3g}"] for name, stage in training["stages"].items()]
    head = HEAD.format(
        sizes=f"Parameters: {sizes}.",
        factors=factors,
        seed=TRAIN_SEEDS,
        size=SIZE,
        curves=CURVES,
        settings=", ".join(_settings(training)),
        training=f"On {training['hardware']}.\n\n" + table(["network", "samples seen", "minutes by the clock"], stages),
    )
    return "\n".join([head, _goals(report), _quality(report), _edits(report), _limits(report)])


def _settings(training: dict[str, Any]) -> list[str]:
    """The trainer's settings, but those of stages that were not run and samples that no stage reached."""
    idle = tuple(f"{name}_" for name in ("decoder", "flow") if name not in training["stages"])
    said = {k: v for k, v in training["settings"].items() if not k.startswith(idle or ("-",))}
    reached = {k: v for k, v in said.items() if not (k.endswith("_samples") and v >= 1e7)}
    return [f"{k} {' '.join(map(str, v)) if isinstance(v, list) else v}" for k, v in reached.items()]


def curves(training: dict[str, Any]) -> Figure:
    """How the autoencoder's pictures and the network's noise error went, over the samples seen."""
    figure = Figure(figsize=(7.5, 2.6), layout="constrained")
    FigureCanvasAgg(figure)
    sharpness, error = figure.subplots(1, 2)
    seen = 0.0
    # A decoder need not have been trained further.
    stages = [(name, label) for name, label in AUTOENCODER.items() if name in training["curves"]]
    for name, label in stages:
        rows = training["curves"][name]
        samples = [seen + row["samples"] for row in rows]
        sharpness.plot([n / 1e3 for n in samples], [row["psnr"] for row in rows], ".-", label=label)
        seen = training["stages"][name]["samples"]
    sharpness.set(xlabel="thousand samples", ylabel="PSNR of training pictures, dB", title="autoencoder")
    if len(stages) > 1:
        sharpness.legend(frameon=False)
    rows = training["curves"]["unet"]
    error.plot([row["samples"] / 1e3 for row in rows], [row["eps_mse"] for row in rows], ".-", color="#d55e00")
    error.set(xlabel="thousand samples", ylabel="MSE of the predicted noise", title="network", yscale="log")
    for ticks in (error.yaxis.set_major_formatter, error.yaxis.set_minor_formatter):
        ticks(ScalarFormatter())
    return figure


def _quality(report: dict[str, Any]) -> str:
    auto, generated, rebuilt = report["autoencoder"], report["generation"], report["reconstruction"]
    rows = [
        [
            f"pictures generated from captions ({generated['captions']}, guidance {generated['guidance']:g})",
            generated["accuracy"],
        ],
        [f"autoencoder's pictures ({auto['scenes']})", auto["accuracy_on_reconstructions"]],
        [f"originals ({auto['scenes']})", auto["accuracy_on_originals"]],
    ]
    read = table(
        ["share read as captioned", *FACTORS], [[name, *(f"{values[f]:.2f}" for f in FACTORS)] for name, values in rows]
    )
    paths = table(
        ["guidance", "PSNR to the autoencoder's picture"], [[k, f"{v:.1f} dB"] for k, v in rebuilt["psnr"].items()]
    )
    return (
        f"## Quality\n\nAutoencoder: {auto['psnr']:.1f} dB PSNR, {auto['ssim']:.3f} SSIM on {auto['scenes']} scenes. A "
        f"factor classifier, shipped beside the model, reads pictures back:\n\n{read}\n\nReconstruction after DDIM "
        f"inversion, {rebuilt['scenes']} scenes, {rebuilt['steps']} steps:\n\n{paths}\n"
    )


def _goals(report: dict[str, Any]) -> str:
    rows = [goal.row for goal in goals(report)]
    met = sum(row[-1] == "yes" for row in rows)
    measured = table(["what", "asked", "reached", "met"], rows)
    return (
        f"## What it must show\n\n{met} of {len(rows)} are met. {report['scenes']} held-out scenes for each figure or "
        f"task, {report['steps']} steps (`python -m scripts.evaluate`).\n\n{measured}\n"
    )


def _edits(report: dict[str, Any]) -> str:
    edits, scales = report["edits"], ", ".join(f"{name} {value:g}" for name, value in report["scales"].items())
    tables = {
        f"At the model's scales ({scales})": edits["everyday"],
        "At text scale 7.5": edits["strong"],
    }
    written = "\n\n".join(f"{name}:\n\n{_tasks(rows)}" for name, rows in tables.items())
    return (
        "## Edits\n\nBy Prompt-to-Prompt, MasaCtrl (viewpoint, pose) and pix2pix-zero (cat and dog). Each cell: share "
        "of edits whose changed factor reads as asked / PSNR in dB to the exact counterfactual. *identity* returns the "
        f"source; *ceiling* is the autoencoder's picture of the truth.\n\n{written}\n"
    )


def _tasks(tasks: dict[str, Any]) -> str:
    methods = list(next(iter(tasks.values())))
    return table(["task", *methods], [[task, *(_edit(rows[m]) for m in methods)] for task, rows in tasks.items()])


def _edit(values: dict[str, Any]) -> str:
    """A cell: success / PSNR; ∞ where some edit equals the truth, and words where some item has no result."""
    if values.get("without"):
        return f"none for {values['without']} scenes: {values['reason']}"
    psnr = "∞" if values["psnr"] is None else f"{values['psnr']:.1f}"
    return f"{values['success']:.2f} / {psnr}"


def _limits(report: dict[str, Any]) -> str:
    accuracy = report["generation"]["accuracy"]
    weakest = sorted(accuracy, key=accuracy.__getitem__)[:3]
    named = ", ".join(f"{name} ({accuracy[name]:.2f})" for name in weakest)
    shares = {task: values["NMG"]["success"] for task, values in report["edits"]["everyday"].items()}
    failing = [f"{task} ({share:.2f})" for task, share in shares.items() if share is not None and share < 0.5]
    edits = f" Edits that mostly fail: {', '.join(failing)}." if failing else ""
    return (
        "## Limits\n\nThe model knows the words of its captions and nothing else; a photograph comes out as the "
        f"nearest drawn scene that its latent can hold. It is weakest at: {named}.{edits}\n"
    )


def table(head: list[str], rows: list[list[str]]) -> str:
    """A Markdown table."""
    return "\n".join(f"| {' | '.join(cells)} |" for cells in [head, ["---"] * len(head), *rows])
