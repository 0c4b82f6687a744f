"""Charts of a benchmark's records: methods side by side, and reconstruction against editing.

Drawn on matplotlib's own canvas, without pyplot, as in `nmg.lab.figures`.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from matplotlib.artist import Artist
from matplotlib.axes import Axes
from matplotlib.axis import Axis
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.transforms import ScaledTranslation

from nmg.lab import figures
from nmg.lab.bench.columns import COLUMNS
from nmg.lab.bench.groups import BOUNDS, Group, gather, group, place
from nmg.lab.bench.records import Record
from nmg.lab.bench.sheets import sheet
from nmg.lab.bench.statistics import Estimate, pooled

K = TypeVar("K")

COLOURS = {
    "DDIM": "#6b6b6b",
    "NMG": "#d55e00",
    "NTI": "#0072b2",
    "NPI": "#56b4e9",
    "ProxNPI": "#009e73",
    "Direct": "#cc79a7",
    "NTI + NMG": "#e69f00",
    "Direct + NMG": "#882255",
}
"""A method's colour in every figure; told apart with colour-blind eyes too (Okabe & Ito 2008, and Tol's wine)."""
MARKERS = {"": "o", "regularised": "s", "fixed point": "^", "edit-friendly": "D", "authors' levels": "v"}
"""The marker of an inversion variant, which keeps the colour of its guidance."""
OTHER = "#222222"

PANELS = {
    "menagerie": ("psnr", "success"),
    "pie": ("psnr_outside", "clip"),
    "pictures": ("reconstruction_psnr", "psnr", "clip"),
}
"""The metrics that a suite's methods are shown side by side by."""
PLANES = {
    "menagerie": ("reconstruction_psnr", ("psnr", "success")),
    "pie": ("psnr_outside", ("clip", "clip_edited")),
    "pictures": ("reconstruction_psnr", ("psnr", "clip")),
}
"""How close a suite's methods keep to the source, against how well they edit."""
SHARES = ("success", "kept", "tifa")
"""Metrics whose axis goes from 0 to 1."""
NEAR, ASIDE = 0.03, 8.0
"""Methods whose horizontal places differ by less than a share of all stand side by side, so many points of the page
apart, so that none covers another."""


def style(label: str) -> tuple[str, str]:
    """Colour and marker of a method, by its label."""
    base, _, variant = label.partition(", ")
    return COLOURS.get(base, OTHER), MARKERS.get("" if variant.startswith("scale") else variant, "P")


def write_figures(folder: str | Path, source: Iterable[Record] | None = None, split: str | None = None) -> list[Path]:
    """Write the figures of a folder's records beside them, per suite and editor, and return their paths.

    `methods-EDITOR.png`, `plane-EDITOR.png`, and `sheet-EDITOR.png` where pictures were kept.

    Args:
        source: records, if not the folder's; their pictures lie in the folder.
        split: see `groups.gather`.
    """
    folder, paths = Path(folder), []
    groups = [one for one in group(gather(folder if source is None else source, split)) if one.task is None]
    suites = {one.suite for one in groups}
    for one in groups:
        drawn = {"methods": methods(one), "plane": plane(one), "sheet": sheet(one, folder)}
        for name, figure in drawn.items():
            if figure is not None:
                parts = (name, *(one.suite,) * (len(suites) > 1), one.editor)
                paths.append(folder / f"{'-'.join(parts).lower().replace(' ', '-')}.png")
                figures.save(figure, paths[-1])
    return paths


def methods(group: Group, metrics: Sequence[str] = ()) -> Figure | None:
    """A dot per method with its interval, a panel per metric; None if no metric was measured.

    Args:
        metrics: the panels; the suite's own if not given.
    """
    found = _measured(group, metrics or PANELS.get(group.suite, ()))
    if not found:
        return None
    labels = [label for label in group.rows if any(label in estimates for estimates in found.values())]
    figure = _figure(2.2 + 2.9 * len(found), 0.9 + 0.27 * len(labels), _title(group))
    panels = figure.subplots(1, len(found), sharey=True, squeeze=False)[0]
    for axes, (metric, estimates) in zip(panels, found.items(), strict=True):
        placed, edge = _placed(estimates)
        for row, label in enumerate(labels):
            if label in placed:
                _dot(axes, label, placed[label], row)
        axes.locator_params(axis="x", nbins=5)
        _mark(axes.xaxis, estimates, edge)
        axes.set_xlabel(_heading(metric))
        if metric in SHARES:
            axes.set_xlim(-0.03, 1.03)
        axes.grid(axis="x", alpha=0.25)
        axes.spines[["top", "right", "left"]].set_visible(False)
        axes.tick_params(axis="y", length=0)
    panels[0].set_yticks(range(len(labels)), [_counted(group, label) for label in labels])
    panels[0].set_ylim(len(labels) - 0.5, -0.5)
    return figure


def response(curves: Mapping[str, Mapping[float, Sequence[Record]]], setting: str, metrics: Sequence[str]) -> Figure:
    """What metrics do as a setting is turned, a panel per metric and a line with its intervals per method.

    An infinite mean stands at the edge, as in `plane`.

    Args:
        curves: records by the setting's value, by method.
        setting: what is turned; its axis is logarithmic where the values span more than a factor of 20.
    """
    values = sorted({value for points in curves.values() for value in points})
    figure = _figure(1.6 + 2.9 * len(metrics), 3.0, "")
    panels = figure.subplots(1, len(metrics), squeeze=False)[0]
    for axes, metric in zip(panels, metrics, strict=True):
        estimates = {
            (label, value): estimate
            for label, points in curves.items()
            for value, rows in sorted(points.items())
            if (estimate := _estimated(rows, metric))
        }
        placed, edge = _placed(estimates)
        for under, label in zip(reversed(range(len(curves))), curves, strict=True):
            known = {value: estimate for (name, value), estimate in placed.items() if name == label}
            means, low, high = ([getattr(e, end) for e in known.values()] for end in ("mean", "low", "high"))
            axes.plot(list(known), means, label=label, **_line(label, under))
            colour, _ = style(label)
            axes.fill_between(list(known), low, high, color=colour, alpha=0.12, linewidth=0)
        _mark(axes.yaxis, estimates, edge)
        if metric in SHARES:
            axes.set_ylim(-0.03, 1.03)
        if min(values) > 0 and max(values) > 20 * min(values):
            axes.set_xscale("log")
        axes.set_xlabel(setting)
        axes.set_ylabel(_heading(metric))
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure)
    return figure


def _line(label: str, under: int) -> dict[str, Any]:
    """How a method's curve is drawn: the wider the more lie over it, so that those that coincide are seen."""
    colour, marker = style(label)
    width = 1.3 + 0.9 * under
    look = {"color": colour, "marker": marker, "linestyle": "-" if marker == "o" else "--"}
    return {**look, "linewidth": width, "markersize": 3 + width}


def _estimated(rows: Iterable[Record], metric: str) -> Estimate | None:
    values = {place(record): value for record in rows if (value := record.value(metric)) is not None}
    return pooled(values) if values else None


def _dot(axes: Axes, label: str, estimate: Estimate, row: int) -> None:
    if label in BOUNDS:
        axes.axvline(estimate.mean, color="#aaaaaa", linewidth=0.9, linestyle=(0, (4, 3)), zorder=1)
        colour, marker, face = "#777777", "o", "white"
    else:
        (colour, marker), face = style(label), ""
    axes.hlines(row, estimate.low, estimate.high, color=colour, linewidth=1.8, alpha=0.75)
    axes.plot(estimate.mean, row, marker, color=colour, markerfacecolor=face or colour, markersize=6)


def plane(group: Group, metrics: tuple[str, Sequence[str]] | None = None) -> Figure | None:
    """Closeness to the source against quality of the edit: a point per method, a curve over a method's scales.

    An infinite mean stands at the edge, marked "exact", or "∞" where some method has it from only some of its items.
    Points that would cover one another stand side by side.

    Args:
        metrics: the horizontal metric, and a vertical one per panel; the suite's own if not given.
    """
    across, up = metrics or PLANES.get(group.suite, ("", ()))
    found = _measured(group, [across, *up])
    panels = [metric for metric in up if metric in found]
    if across not in found or not panels:
        return None
    shown = [label for label in group.rows if label in found[across] and label not in BOUNDS]
    figure = _figure(1.9 + 3.1 * len(panels), max(3.3, 0.9 + 0.2 * len(shown)), _title(group))
    for axes, metric in zip(figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True):
        (x, right), (y, top) = (
            _placed({label: found[name][label] for label in shown if label in found[name]}) for name in (across, metric)
        )
        _scatter(axes, group, x, y, shown)
        _mark(axes.xaxis, found[across], right)
        _mark(axes.yaxis, found[metric], top)
        axes.set_xlabel(_heading(across))
        axes.set_ylabel(_heading(metric))
        if metric in SHARES:
            axes.set_ylim(-0.03, 1.03)
        axes.grid(alpha=0.25)
        axes.spines[["top", "right"]].set_visible(False)
    _legend(figure)
    return figure


def _legend(figure: Figure) -> None:
    """The methods of the first panel, beside the panels."""
    handles, names = figure.axes[0].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside right center", frameon=False, fontsize=9)


def _scatter(
    axes: Axes, group: Group, across: dict[str, Estimate], up: dict[str, Estimate], shown: Sequence[str]
) -> None:
    curves: dict[str, list[str]] = {}
    for label in shown:
        if label in up:
            curves.setdefault(group.rows[label][0].method, []).append(label)
    aside = _aside({labels[0]: across[labels[0]].mean for labels in curves.values() if len(labels) == 1})
    for method, labels in curves.items():
        colour, marker = style(method)
        x, y = [across[label] for label in labels], [up[label] for label in labels]
        thin: dict[str, Any] = {"color": colour, "linewidth": 1, "alpha": 0.4}
        line: dict[str, Any] = {"color": colour, "marker": marker, "linewidth": 1.3 if len(labels) > 1 else 0}
        drawn: list[Artist] = [
            axes.hlines([e.mean for e in y], [e.low for e in x], [e.high for e in x], **thin),
            axes.vlines([e.mean for e in x], [e.low for e in y], [e.high for e in y], **thin),
            *axes.plot([e.mean for e in x], [e.mean for e in y], label=_named(group, labels), **line),
        ]
        # Moved afterwards, so that the axes fit the true places.
        beside = axes.transData + ScaledTranslation(aside.get(labels[0], 0.0) / 72, 0, axes.figure.dpi_scale_trans)
        for artist in drawn:
            artist.set_transform(beside)
        for label in labels if len(labels) > 1 else ():
            scale, place = group.rows[label][0].scale, (across[label].mean, up[label].mean)
            axes.annotate(f"{scale:g}", place, (4, 4), textcoords="offset points", fontsize=7, color=colour)


def _aside(places: Mapping[str, float]) -> dict[str, float]:
    """How many points of the page each method stands beside its place, those at one place in their order."""
    near = NEAR * (max(places.values(), default=0.0) - min(places.values(), default=0.0))
    order, clusters, last = list(places), list[list[str]](), -math.inf
    for label in sorted(places, key=lambda label: places[label]):
        clusters += [[]] if places[label] - last > near else []
        clusters[-1].append(label)
        last = places[label]
    return {
        label: ASIDE * (i - (len(own) - 1) / 2)
        for own in clusters
        for i, label in enumerate(sorted(own, key=order.index))
    }


def _named(group: Group, labels: Sequence[str]) -> str:
    """A method in the legend: without its scale where a curve shows several."""
    return _counted(group, labels[0]) if len(labels) == 1 else group.rows[labels[0]][0].method


def _counted(group: Group, label: str) -> str:
    """A row's name, with its number of items where others have more: their means are of other items, too."""
    counts = {name: len(rows) for name, rows in group.rows.items()}
    return group.named(label) + (f", n = {counts[label]}" if counts[label] < max(counts.values()) else "")


def _measured(group: Group, metrics: Iterable[str]) -> dict[str, dict[str, Estimate]]:
    """Metric to the estimates of the methods that have one."""
    found = {metric: {label: group.estimate(label, metric) for label in group.rows} for metric in metrics}
    given = {metric: {label: e for label, e in estimates.items() if e} for metric, estimates in found.items()}
    return {metric: estimates for metric, estimates in given.items() if estimates}


def _placed(estimates: Mapping[K, Estimate]) -> tuple[dict[K, Estimate], float | None]:
    """Estimates with an edge beyond all finite ends in place of infinity; and the edge, None if all are finite."""
    ends = [end for e in estimates.values() for end in (e.mean, e.low, e.high) if not math.isnan(end)]
    finite = [end for end in ends if math.isfinite(end)]
    if len(finite) == len(ends):
        return dict(estimates), None
    finite = finite or [0.0]
    edge = max(finite) + (0.2 * (max(finite) - min(finite)) or 1.0)
    bounded = {
        label: dataclasses.replace(e, mean=min(e.mean, edge), low=min(e.low, edge), high=min(e.high, edge))
        for label, e in estimates.items()
    }
    return bounded, edge


def _mark(axis: Axis, estimates: Mapping[Any, Estimate], edge: float | None) -> None:
    """End the scale before the edge that stands for infinity, which lies in a band of its own and says so."""
    if edge is None:
        return
    ends = [end for e in estimates.values() for end in (e.mean, e.low, e.high) if math.isfinite(end)]
    ticks = [tick for tick in axis.get_majorticklocs() if ends and min(ends) <= tick <= max(ends)]
    whole = all(e.exact in (0, e.n) for e in estimates.values())
    axis.set_ticks([*ticks, edge], [*(f"{tick:g}" for tick in ticks), "exact" if whole else "∞"])
    half = (edge - max(ends, default=edge - 1.0)) / 2
    across = axis is axis.axes.xaxis
    span, limit = (axis.axes.axvspan, axis.axes.set_xlim) if across else (axis.axes.axhspan, axis.axes.set_ylim)
    span(edge - half, edge + half, color="#eeeeee", linewidth=0, zorder=0)
    limit(None, edge + half)


def _heading(metric: str) -> str:
    """What an axis shows, in the record's own unit."""
    words = COLUMNS[metric].heading.split(" ×")[0].rstrip(" ↑↓")
    return f"{words} [dB]" if "PSNR" in words else words


def _title(group: Group) -> str:
    found = [record for rows in group.rows.values() for record in rows]
    items, steps = len(set(map(place, found))), ", ".join(str(steps) for steps in sorted({r.steps for r in found}))
    scales = {scale for r in found if (scale := r.settings.get("guidance", {}).get("text_scale")) is not None}
    text = f", text scale {', '.join(f'{scale:g}' for scale in sorted(scales))}" if scales else ""
    return f"{group.title}\n{items} item{'s' * (items != 1)}, {group.split} split, {steps} steps{text}"


def _figure(width: float, height: float, title: str) -> Figure:
    figure = Figure((width, height), dpi=150, facecolor="white", layout="constrained")
    FigureCanvasAgg(figure)
    figure.suptitle(title, fontsize=9)
    return figure
