"""Figures: comparison sheets, curves of a run, and attention maps over a picture.

Figures are drawn on matplotlib's own canvas, without pyplot, so that they can be made in any thread.
"""

from __future__ import annotations

import io
import math
import os
import textwrap
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from PIL import Image
from torch import Tensor

from nmg import images
from nmg.editors.masactrl import foreground
from nmg.files import keep
from nmg.lab import metrics

Picture = Image.Image | None


def sheet(
    pictures: Sequence[Sequence[Picture]],
    columns: Sequence[str],
    rows: Sequence[str] = (),
    notes: Sequence[Sequence[str]] = (),
    title: str = "",
    inch: float = 1.7,
) -> Figure:
    """A table of pictures.

    Args:
        pictures: rows of pictures; None leaves a cell empty but for its note.
        columns: a heading for each column.
        rows: a label for each row, beside it; a line break starts a smaller second line.
        notes: a line below each picture.
        title: above the table.
        inch: the size of one picture.

    Raises:
        ValueError: if the rows have different lengths.
    """
    if any(len(row) != len(columns) for row in pictures):
        raise ValueError(
            f"every row needs {len(columns)} pictures, one per column; got {[len(row) for row in pictures]}"
        )
    # All lengths are in inches, from the lower left corner.
    gap, label, head = 0.08 * inch, (0.95 if rows else 0.08) * inch, _head(title, columns)
    feet = [0.18 if any(row) else 0.0 for row in notes] or [0.0] * len(pictures)
    width = label + len(columns) * (inch + gap)
    height = head + sum(feet) + len(pictures) * (inch + gap)
    figure = Figure((width, height), dpi=150, facecolor="white")
    FigureCanvasAgg(figure)
    if title:
        _text(figure, width / 2, height - 0.07, title, va="top", fontsize=10, fontweight="bold", linespacing=1.4)
    for c, heading in enumerate(columns):
        middle = label + c * (inch + gap) + inch / 2
        _text(figure, middle, height - head + 0.05, heading, va="bottom", fontsize=8.5)

    for r, row in enumerate(pictures):
        bottom = height - head - sum(feet[:r]) - (r + 1) * (inch + gap) + gap
        if rows:
            _label(figure, label - 0.1 * inch, bottom + inch / 2, rows[r])
        for c, picture in enumerate(row):
            left, note = label + c * (inch + gap), notes[r][c] if notes else ""
            if picture is not None:
                _picture(figure, left, bottom, inch, picture, note)
            elif note:
                _text(figure, left + inch / 2, bottom + inch / 2, note, va="center", fontsize=7.5, color="#777777")
    return figure


def _head(title: str, columns: Sequence[str]) -> float:
    """Inches above the first row: title and column headings."""
    return 0.12 + 0.2 * len(title.splitlines()) + 0.15 * max(len(heading.splitlines()) for heading in columns)


def _text(figure: Figure, x: float, y: float, text: str, ha: str = "center", **style: Any) -> None:
    """Text at a place in inches."""
    width, height = figure.get_size_inches()
    figure.text(x / width, y / height, text, ha=ha, **style)


def _label(figure: Figure, right: float, middle: float, text: str) -> None:
    """A row's label, its second line wrapped and smaller."""
    first, _, second = text.partition("\n")
    lines = textwrap.wrap(second, 30)
    top = middle + 0.065 * len(lines)
    _text(figure, right, top, first, ha="right", va="bottom", fontsize=9, fontweight="bold")
    for i, line in enumerate(lines):
        _text(figure, right, top - 0.13 * i - 0.02, line, ha="right", va="top", fontsize=6.6, color="#444444")


def _picture(figure: Figure, left: float, bottom: float, inch: float, picture: Image.Image, note: str) -> None:
    """A picture, as large as `inch` both ways, with a note below it."""
    width, height = figure.get_size_inches()
    axes = figure.add_axes((left / width, bottom / height, inch / width, inch / height))
    axes.imshow(np.asarray(picture), interpolation="antialiased")
    axes.set_axis_off()
    if note:
        _text(figure, left + inch / 2, bottom - 0.03, note, va="top", fontsize=7, color="#555555")


def distances(curves: dict[str, Sequence[float]], ylabel: str = "mean |source row − noise map|") -> Figure:
    """Curves over the steps of a run, one per name: the drift of the source row from its noise maps."""
    figure = Figure((5.2, 3.0), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.add_subplot()
    for name, values in curves.items():
        axes.plot(range(1, len(values) + 1), values, label=name, linewidth=1.8)
    axes.set_xlabel("step")
    axes.set_ylabel(ylabel)
    axes.set_ylim(bottom=0)
    axes.grid(alpha=0.25)
    axes.spines[["top", "right"]].set_visible(False)
    axes.legend(frameon=False)
    return figure


def drift(trajectory: Any, values: list[float]) -> Any:
    """A callback for `nmg.edit` that appends the source row's mean distance to its noise map after each step."""

    def callback(step: Any, latents: Tensor) -> None:
        values.append((latents[:1] - trajectory.target(step).to(latents.device)).abs().mean().item())

    return callback


def attention(picture: Image.Image, maps: Sequence[Tensor] | Tensor, words: Sequence[str], inch: float = 1.6) -> Figure:
    """Attention maps [height, width], one per word, laid over the picture."""
    return sheet([[picture, *(lit(picture, values) for values in maps)]], ["source", *words], inch=inch)


def lit(picture: Image.Image, values: Tensor) -> Image.Image:
    """A picture in the light of a map [height, width], whose largest value leaves it as it is."""
    values = values.detach().float().cpu().clamp_min(0)
    weights = Image.fromarray((255 * values / values.max().clamp_min(1e-12)).byte().numpy())
    picture = picture.convert("RGB")
    weights = weights.resize(picture.size, Image.Resampling.BICUBIC)
    dim = Image.blend(picture, Image.new("RGB", picture.size, (18, 18, 40)), 0.75)
    return Image.composite(picture, dim, weights)


def masks(
    pictures: Sequence[Image.Image], maps: Sequence[Tensor], threshold: float, masked: Image.Image | None = None
) -> Figure:
    """The foreground of a source and of its edit: where a word's map [height, width] reaches over a share of its range.

    Args:
        pictures, maps: the source's, then the edit's.
        threshold: the share.
        masked: the edit that keeps these foregrounds apart, if there is one.
    """
    cells: list[Picture] = []
    for picture, values in zip(pictures, maps, strict=True):
        mask = Image.fromarray((255 * (foreground(values) >= threshold)).byte().cpu().numpy())
        mask = mask.resize(picture.size, Image.Resampling.NEAREST)
        cells += [picture, Image.composite(picture, Image.new("RGB", picture.size, (18, 18, 40)), mask)]
    columns = ["source", "its foreground", "edit", "its foreground"]
    return sheet([[*cells, masked]] if masked else [cells], columns + ["edit with masks"] * bool(masked))


def closeness(a: Image.Image, b: Image.Image) -> str:
    """PSNR of two pictures, in words."""
    value = metrics.psnr(images.to_tensor(a), images.to_tensor(b)).item()
    return "exact" if math.isinf(value) else f"{value:.1f} dB"


def compared(source: Image.Image, results: Mapping[str, Any], example: Any = None) -> Figure:
    """A source, and the reconstruction and the edit by each of several methods, which name the columns; with the true
    counterfactual where the example has one. Below them PSNR: of reconstructions to the source, of edits to the truth.
    """
    rebuilt: list[Picture] = [source, *(result.reconstruction for result in results.values())]
    edits: list[Picture] = [None, *(result.pictures[0] for result in results.values())]
    notes = [["", *(f"{closeness(picture, source)} to the source" for picture in rebuilt[1:] if picture)]]
    notes.append([""] * len(edits))
    columns, title = ["source", *results], ""
    if example is not None:
        title = f"{example.source}\n→  {example.target}"
        if example.truth is not None:
            truth = example.truth.resize(source.size, Image.Resampling.LANCZOS)
            notes = [
                [*notes[0], ""],
                ["", *(f"{closeness(edit, truth)} to the truth" for edit in edits[1:] if edit), ""],
            ]
            rebuilt, edits = [*rebuilt, None], [*edits, example.truth]
            columns.append("true counterfactual")
    return sheet([rebuilt, edits], columns, ["reconstruction", "edit"], notes, title)


def edited(example: Any, result: Any) -> Figure:
    """An example beside its edit: source, reconstruction, edit, and the true counterfactual where there is one."""
    # An edit along a trajectory holds no picture of its source.
    source = result.source or images.fit(images.load(example.image), *result.reconstruction.size)
    pictures = [source, result.reconstruction, *result.pictures]
    columns = ["source", "reconstruction", *["edit"] * len(result.pictures)]
    if example.truth is not None:
        pictures, columns = [*pictures, example.truth], [*columns, "true counterfactual"]
    return sheet([pictures], columns, title=f"{example.source}\n→  {example.target}")


def show(figure: Figure) -> Any:
    """A figure as a small JPEG for a notebook's output."""
    from IPython.display import Image as Shown

    buffer = io.BytesIO()
    figure.savefig(buffer, format="jpeg", pil_kwargs={"quality": 88})
    return Shown(data=buffer.getvalue(), format="jpeg", width=int(figure.get_figwidth() * 110))


def display(paths: Iterable[Path]) -> None:
    """Show files in a notebook: tables in Markdown, and pictures as small JPEGs; others are left out."""
    from IPython.display import Image as Shown
    from IPython.display import Markdown
    from IPython.display import display as shown

    for path in paths:
        if path.suffix == ".md":
            shown(Markdown(path.read_text()))
        elif path.suffix == ".png":
            buffer = io.BytesIO()
            Image.open(path).convert("RGB").save(buffer, "JPEG", quality=88)
            shown(Shown(data=buffer.getvalue(), format="jpeg"))


def save(figure: Figure, path: str | os.PathLike, over: bool = True) -> Path:
    """Write a figure as PNG; see `nmg.files.keep`.

    Returns:
        Where it lies.
    """
    return keep(Path(path), figure.savefig, over)
