"""Which measures of an edit to trust: their rank correlation with the exact answer, which the bundled world has.

Papers on editing compare methods by proxies: how much of the background stays, how well the picture fits its prompt. On
the bundled world the picture that an edit should give is known, so that it can be asked whether a proxy puts methods in
the order in which they are right.
"""

from __future__ import annotations

import csv
import dataclasses
import functools
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from jaxtyping import Bool
from torch import Tensor

from nmg import images
from nmg.files import replacing
from nmg.lab import metrics
from nmg.lab.bench.columns import number
from nmg.lab.bench.groups import BOUNDS, gather
from nmg.lab.bench.judges import Judge, Lacking, judged, opened
from nmg.lab.bench.records import Record
from nmg.lab.bench.statistics import Estimate, Item, pooled
from nmg.lab.bench.suites import Menagerie, kind_of
from nmg.lab.scoring import EMPTY

EXACT = {
    "psnr": ("PSNR to the true counterfactual", 0.1),
    "success": ("the changed factor read as the target's", 0.5),
}
"""The exact answers: what they are, and by how much those of two edits must differ to have an order.

Methods that put the source row on its maps make nearly the same edit: which of those is nearer to the truth is noise.
"""
FEWEST = 3
"""Edits of a scene below which their order says nothing."""
SCENES = 5
"""Scenes below which a bootstrap interval over scenes means nothing."""


@dataclass(frozen=True, eq=False)
class Seen:
    """What a proxy is given: an edit, its source, the prompts, and where the edit belongs.

    Attributes:
        region: true where the truth differs from the source, [1, 1, height, width].
    """

    edited: Tensor
    source: Tensor
    prompts: tuple[str, str]
    region: Bool[Tensor, "1 1 height width"]

    def outside(self, distance: Callable[[Tensor, Tensor], Tensor]) -> Tensor:
        """A distance of both pictures black inside the region, as PIE-Bench has it."""
        return distance(metrics.masked(self.edited, ~self.region), metrics.masked(self.source, ~self.region))


@dataclass(frozen=True)
class Proxy:
    """A measure that papers use.

    Attributes:
        heading: in tables.
        measure: one value of an edit.
        better: 1 where a larger value is better, -1 where a smaller one is.
    """

    heading: str
    measure: Callable[[Seen], Tensor]
    better: int = 1


PROXIES: dict[str, Proxy] = {
    "proxy_psnr": Proxy("PSNR outside", lambda seen: seen.outside(metrics.psnr)),
    "proxy_ssim": Proxy("SSIM outside", lambda seen: seen.outside(metrics.ssim)),
    "proxy_lpips": Proxy("LPIPS outside", lambda seen: seen.outside(metrics.Lpips("squeeze", "cpu")), -1),
    "proxy_structure": Proxy(
        "structure distance",
        lambda seen: metrics.StructureDistance(device="cpu", peak=255)(seen.edited, seen.source),
        -1,
    ),
    "proxy_clip": Proxy("CLIP", lambda seen: metrics.ClipScore(device="cpu")(seen.edited, [seen.prompts[1]])),
    "proxy_direction": Proxy(
        "CLIP direction",
        lambda seen: metrics.ClipDirection(device="cpu")(
            seen.edited, seen.source, [seen.prompts[1]], [seen.prompts[0]]
        ),
    ),
    "proxy_dino": Proxy(
        "DINOv2 to the source", lambda seen: metrics.DinoSimilarity(device="cpu")(seen.edited, seen.source)
    ),
    "proxy_dreamsim": Proxy(
        "DreamSim to the source", lambda seen: metrics.DreamSim("cpu")(seen.edited, seen.source), -1
    ),
    # A judge of several billion parameters: on a GPU where there is one.
    "proxy_viescore": Proxy("VIEScore", lambda seen: metrics.VieScore()(seen.edited, seen.source, [seen.prompts[1]])),
}
"""The proxies by the name that records give them."""


# ---------------------------------------------------------------- measuring


def judge_of(proxy: Proxy, suite: Menagerie) -> Judge:
    """A proxy of the pictures that a benchmark of the bundled world kept."""

    def judge(record: Record, folder: Path) -> float:
        edited = opened(record, "edit", folder)
        source, region = _scene(suite, record.task, int(record.item), edited.shape[-1])
        if region.all():
            raise Lacking(EMPTY)
        try:
            return proxy.measure(Seen(edited, source, (record.source, record.target), region)).item()
        except metrics.Unreadable as error:
            raise Lacking(str(error)) from error

    return judge


@functools.lru_cache(maxsize=512)
def _scene(suite: Menagerie, task: str, seed: int, size: int) -> tuple[Tensor, Tensor]:
    """A task's source picture at a size, and where its truth differs."""
    ((scene, target),) = suite.task(task).scenes(seed, 1)
    return images.to_tensor(scene.render(size)), torch.from_numpy(scene.changed(target, size))[None, None]


def measured(folder: Path, suite: Menagerie, proxies: Mapping[str, Proxy] = PROXIES) -> list[Record]:
    """The records of a folder's edits with every proxy; one that can't be had is missing, with its reason.

    Raises:
        ValueError: for a folder without records of the bundled world.
    """
    found = [record for record in gather(folder) if record.suite == suite.name and record.method not in BOUNDS]
    if not found:
        raise ValueError(f"{folder} holds no edits of the bundled world; run `nmg bench --out {folder}` first")
    return judged(found, folder, {name: judge_of(proxy, suite) for name, proxy in proxies.items()})


# ---------------------------------------------------------------- correlation


def somers(proxy: Sequence[float], exact: Sequence[float], margin: float = 0.0) -> float | None:
    """Somers' D of a proxy, given the exact answer: of the pairs whose exact answers differ, by `margin` at least, the
    share that the proxy puts in the right order minus the share that it puts in the wrong one; its ties are neither.
    None without such a pair.

    Somers 1962, "A New Asymmetric Measure of Association for Ordinal Variables", American Sociological Review 27(6). Of
    an answer that is yes or no it is twice the area under the ROC curve, minus 1.
    """
    given, true = np.asarray(proxy, float), np.asarray(exact, float)
    # Equal infinities, of exact pictures, differ by nothing.
    higher = true[:, None] > true[None]
    with np.errstate(invalid="ignore"):
        counted = higher & (true[:, None] - true[None] >= margin)
    agreeing = (given[:, None] > given[None]).astype(int) - (given[:, None] < given[None])
    return float(agreeing[counted].mean()) if counted.any() else None


def correlations(found: Sequence[Record], proxy: str, exact: str, better: int = 1) -> dict[Item, float]:
    """For each scene of each kind of edit, the rank correlation (`somers`) over its edits, by whatever editor, of a
    proxy with the exact answer: 1 where the proxy puts them in the right order, -1 in the opposite one. Scenes whose
    edits are too few or all alike have none."""
    scenes: dict[Item, tuple[list[float], list[float]]] = {}
    for record in found:
        given, true = record.value(proxy), record.value(exact)
        if given is not None and true is not None:
            columns = scenes.setdefault(_scene_of(record), ([], []))
            columns[0].append(better * given)
            columns[1].append(true)
    margin = EXACT[exact][1]
    each = {item: somers(a, b, margin) for item, (a, b) in scenes.items() if len(a) >= FEWEST}
    return {item: value for item, value in each.items() if value is not None}


def _scene_of(record: Record) -> Item:
    return kind_of(record.task), str(record.item)


def agreement(found: Sequence[Record], proxy: str, exact: str, task: str | None = None) -> Estimate | None:
    """The mean correlation over the scenes of a kind of edit, or of all, with its bootstrap interval over scenes where
    they are `SCENES` at least; None without a scene."""
    chosen = [record for record in found if task in (None, kind_of(record.task))]
    values = correlations(chosen, proxy, exact, PROXIES[proxy].better)
    if not values:
        return None
    many = len({scene for _, scene in values}) >= SCENES
    return pooled(values) if many else dataclasses.replace(pooled(values), low=math.nan, high=math.nan)


# ---------------------------------------------------------------- tables


def write(folder: Path, found: Sequence[Record], out: Path) -> list[Path]:
    """Write proxies.md, a table per exact answer, and proxies.csv, a line per answer, task and proxy.

    Args:
        folder: that the records are of.
        found: what `measured` gave.
    """
    tasks = (*dict.fromkeys(kind_of(record.task) for record in found), None)
    had = [name for name in PROXIES if any(record.value(name) is not None for record in found)]
    text, lines = _head(folder, found, had), []
    for exact, (what, _) in EXACT.items():
        heads = ["proxy", *(task or "all" for task in tasks)]
        text += [f"## By {what}", "", _row(heads), _row(["---"] * len(heads))]
        for name in had:
            estimates = {task: agreement(found, name, exact, task) for task in tasks}
            text.append(_row([PROXIES[name].heading, *map(_cell, estimates.values())]))
            lines += [_line(exact, name, task, estimate) for task, estimate in estimates.items() if estimate]
        text.append("")
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "proxies.md") as part:
        part.write_text("\n".join(text).rstrip() + "\n")
    with replacing(out / "proxies.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("exact", "task", "proxy", "scenes", "mean", "low", "high", "median"))
        writer.writeheader()
        writer.writerows(lines)
    return [out / "proxies.md", out / "proxies.csv"]


def _head(folder: Path, found: Sequence[Record], had: Sequence[str]) -> list[str]:
    """What the tables show, of which edits, and which proxies could be had."""
    per_scene = len(found) / max(1, len(set(map(_scene_of, found))))
    measured = ", ".join(PROXIES[name].heading for name in had) or "none"
    reasons = {name: "; ".join(sorted({r.missing[name] for r in found if name in r.missing})) for name in PROXIES}
    missing = [f"- {PROXIES[name].heading}: {why}" for name, why in reasons.items() if why and name not in had]
    return [
        "# Which measure to trust",
        "",
        f"{len(found)} edits of {folder}, {per_scene:.3g} of a scene on average. A cell is the rank correlation "
        "(Somers' D) of a proxy with the exact answer, within a scene and over the pairs of its edits: the share of "
        "pairs that the proxy puts in the right order minus the share that it puts in the wrong one. It is 1 for a "
        "proxy that is always right, 0 for one that says nothing, −1 for one that is always wrong. Pairs whose PSNR "
        f"differs by less than {EXACT['psnr'][1]:g} dB have no order and are left out, as are pairs of which both "
        "succeed or both fail: several methods make nearly the same edit. An edit that several make alike still "
        "counts once for each.",
        "",
        f"Cells: the mean over scenes [its 95 % bootstrap interval over scenes, where there are {SCENES} at least] "
        "(the number of scenes that have an order; over all tasks a scene counts once for each task).",
        "",
        f"Measured here: {measured}." + (" Missing, with the reason:" if missing else ""),
        "",
        *missing,
        *[""] * bool(missing),
    ]


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    interval = "" if np.isnan(estimate.low) else f" [{number(estimate.low, 2)}, {number(estimate.high, 2)}]"
    return f"{number(estimate.mean, 2)}{interval} ({estimate.n})"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _line(exact: str, proxy: str, task: str | None, estimate: Estimate) -> dict[str, str | int]:
    ends = {name: getattr(estimate, name) for name in ("mean", "low", "high", "median")}
    values = {name: "" if math.isnan(end) else f"{end:.6g}" for name, end in ends.items()}
    return {"exact": exact, "task": task or "all", "proxy": PROXIES[proxy].heading, "scenes": estimate.n, **values}
