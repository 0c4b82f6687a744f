"""Figures that papers report, as they stand there, to compare with. None of them was measured here."""

from __future__ import annotations

from dataclasses import dataclass

from nmg.lab.bench.groups import EDITORS

PICTURES = 700
SETTING = f"Stable Diffusion 1.4, 50 steps, the {PICTURES} pictures of PIE-Bench"
"""What the rows of `PIE_BENCH` were measured on."""

JU = "Ju et al. 2024, arXiv 2310.01506, table 1"
CHO = "Cho et al. 2024, arXiv 2402.04625"
H_EDIT = "h-Edit, CVPR 2025, arXiv 2503.02187, table 1"
DCI = "DCI, NeurIPS 2025, arXiv 2506.02560, table 1"

TIMESTEPS = "The published runs stand on timesteps 0, 20, …, 980, those measured here on the model's own"
CAPTION = (
    "The published runs have a caption by BLIP where the source prompt stands here, "
    "and an inverse scheduler of their own"
)
OFFSET = "Direct adds the source's offset to the target there, and leaves the target alone here"

H_EDIT_NOTE = "h-Edit runs its own port of NMG: aligned levels, text scale 7.5 on both rows"
DCI_NOTE = (
    "DCI's mean MSE is 4.1 times the geometric mean that its PSNR implies, which tells of a few very wrong pictures"
)

UNITS = {
    "structure": 1e3,
    "psnr_outside": 1.0,
    "lpips_outside": 1e3,
    "mse_outside": 1e4,
    "ssim_outside": 1e2,
    "clip": 1.0,
    "clip_edited": 1.0,
}
"""The published columns in order, and what each metric is multiplied by to stand in its column."""


@dataclass(frozen=True)
class Published:
    """A row of a paper's table.

    Attributes:
        editor: class name of the editor.
        method: name of the method, as in this package's tables.
        values: metric to value, in the units of the paper's column (see `UNITS`); what it leaves out is absent.
        source: the paper and its table.
        note: what a reader should know beside it, such as how the run differs from those of `nmg.lab.bench.pie`.
    """

    editor: str
    method: str
    values: dict[str, float]
    source: str
    note: str = ""


def _row(editor: str, method: str, *values: float, note: str = TIMESTEPS) -> Published:
    return Published(editor, method, dict(zip(UNITS, values, strict=True)), JU, note)


def _noise_map(source: str, note: str, **values: float) -> Published:
    return Published("PromptToPrompt", "NMG", values, source, f"The two published rows of NMG disagree. {note}")


PIE_BENCH: tuple[Published, ...] = (
    _row("PromptToPrompt", "DDIM", 69.43, 17.87, 208.80, 219.88, 71.14, 25.01, 22.44),
    _row("PromptToPrompt", "NTI", 13.44, 27.03, 60.67, 35.86, 84.11, 24.75, 21.86),
    _row("PromptToPrompt", "NPI", 16.17, 26.21, 69.01, 39.73, 83.40, 24.61, 21.87),
    _row("PromptToPrompt", "Direct", 11.65, 27.22, 54.55, 32.86, 84.76, 25.02, 22.10),
    _noise_map(
        H_EDIT, H_EDIT_NOTE, structure=13.2, psnr_outside=27.05, lpips_outside=55.9, ssim_outside=84.7, clip=24.9
    ),
    _noise_map(
        DCI,
        DCI_NOTE,
        structure=23.50,
        psnr_outside=25.83,
        lpips_outside=81.58,
        mse_outside=107.95,
        ssim_outside=82.31,
        clip=24.05,
    ),
    _row("MasaCtrl", "DDIM", 28.38, 22.17, 106.62, 86.97, 79.67, 23.96, 21.16),
    _row("MasaCtrl", "Direct", 24.70, 22.64, 87.94, 81.09, 81.33, 24.38, 21.35),
    _row("Pix2PixZero", "DDIM", 61.68, 20.44, 172.22, 144.12, 74.67, 22.80, 20.54, note=CAPTION),
    _row("Pix2PixZero", "Direct", 49.22, 21.53, 138.98, 127.32, 77.05, 23.31, 21.05, note=f"{CAPTION}. {OFFSET}"),
    _row("PlugAndPlay", "DDIM", 28.22, 22.28, 113.46, 83.64, 79.05, 25.41, 22.55),
    _row("PlugAndPlay", "Direct", 24.29, 22.46, 106.06, 80.45, 79.68, 25.41, 22.62),
)
"""PIE-Bench by editor and method, on `SETTING`."""

ANCHORS: dict[str, dict[str, float]] = {
    "Stable Diffusion 1.4 with Prompt-to-Prompt": {"DCI": 29.38, "SPDInv": 28.60, "ENM": 28.19},
    "FLUX": {"UniEdit-Flow": 29.54, "ProEdit": 30.08},
    "Stable Diffusion 3": {"FlowEdit": 22.13},
    "FLUX or Stable Diffusion 3.5 (its paper has both)": {"DirectEdit": 32.63},
}
"""Background PSNR on PIE-Bench of 2024 to 2026 by what it ran on; of which of the 700 pictures, each paper decides.

ProEdit is arXiv 2512.22118, DirectEdit arXiv 2605.02417.
"""

RECONSTRUCTION: dict[str, dict[str, float]] = {
    "NTI": {"mse": 0.033, "ssim": 0.812},
    "NMG": {"mse": 0.032, "ssim": 0.811},
}
"""Reconstruction of 100 COCO pictures by Stable Diffusion 1.4, in Cho et al. 2024."""

SPEED_UP = 20.0
"""How many times faster than null-text inversion NMG is, about, in Cho et al. 2024."""
NULL_TEXT_SECONDS = 148.0
"""Seconds that null-text inversion takes for a picture on an NVIDIA RTX 3090, about."""
NOTEBOOK_GB = {"PromptToPrompt": 15.0, "MasaCtrl": 23.0, "Pix2PixZero": 11.0}
"""GPU memory that the notebooks of Cho et al. 2024 ask for, by editor."""


def rows(editor: str) -> list[Published]:
    """The published PIE-Bench rows of an editor, by its class name; none for another editor."""
    return [row for row in PIE_BENCH if row.editor == editor]


def anchors() -> str:
    """What other methods reach, in a sentence."""
    listed = "; ".join(
        f"on {model} {', '.join(f'{name} {value:.2f}' for name, value in found.items())}"
        for model, found in ANCHORS.items()
    )
    return f"Published by others, background PSNR, each on the pictures that its paper counts: {listed}."


def rebuilt() -> str:
    """The published reconstructions, in a sentence."""
    listed = "; ".join(f"{name} {1e3 * row['mse']:.3g} and {row['ssim']:g}" for name, row in RECONSTRUCTION.items())
    return f"Published, on 100 COCO pictures by Stable Diffusion 1.4 ({CHO}): MSE ×10³ and SSIM of {listed}."


def costs() -> str:
    """The published time and memory, in sentences."""
    asked = "; ".join(f"{EDITORS.get(name, name)} {gb:g} GB" for name, gb in NOTEBOOK_GB.items())
    return (
        f"Published ({CHO}): NMG is about {SPEED_UP:g} times faster than null-text inversion; its notebooks ask for "
        f"{asked} of GPU memory. The published time of null-text inversion is about {NULL_TEXT_SECONDS:g} s a picture "
        "on an RTX 3090; it need not be of the same measurement."
    )
