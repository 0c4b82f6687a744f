"""Which measures of an edit to trust: their rank correlation with the exact answer, which the bundled world has.

Papers on editing compare methods by proxies: how much of the background stays, how well the picture fits its prompt. On
the bundled world the picture that an edit should give is known, so that it can be asked whether a proxy puts methods in
the order in which they are right.
"""

from __future__ import annotations

import csv
import functools
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

EXACT = {"psnr": "PSNR to the true counterfactual", "success": "the changed factor read as the target's"}
"""The exact answers, and what they are."""
FEWEST = 3
"""Edits of a scene below which their order says nothing."""


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


def spearman(a: Sequence[float], b: Sequence[float]) -> float | None:
    """Spearman's rank correlation, equal values by their mean rank; None where either is the same everywhere."""
    first, second = _ranks(a), _ranks(b)
    if first.std() == 0 or second.std() == 0:
        return None
    return float(np.corrcoef(first, second)[0, 1])


def _ranks(values: Sequence[float]) -> np.ndarray:
    _, inverse, counts = np.unique(np.asarray(values, float), return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def correlations(found: Sequence[Record], proxy: str, exact: str, better: int = 1) -> dict[Item, float]:
    """For each scene of each kind of edit, the rank correlation over its edits, by whatever editor, of a proxy with the
    exact answer: 1 where the proxy puts them in the right order, -1 in the opposite one. Scenes whose edits are too few
    or all alike have none."""
    scenes: dict[Item, list[tuple[float, float]]] = {}
    for record in found:
        values = record.value(proxy), record.value(exact)
        if values[0] is not None and values[1] is not None:
            scenes.setdefault(_scene_of(record), []).append((better * values[0], values[1]))
    each = {item: spearman(*zip(*pairs, strict=True)) for item, pairs in scenes.items() if len(pairs) >= FEWEST}
    return {item: value for item, value in each.items() if value is not None}


def _scene_of(record: Record) -> Item:
    return kind_of(record.task), str(record.item)


def agreement(found: Sequence[Record], proxy: str, exact: str, task: str | None = None) -> Estimate | None:
    """The mean correlation over the scenes of a kind of edit, or of all, with its bootstrap interval over scenes; None
    without a scene."""
    chosen = [record for record in found if task in (None, kind_of(record.task))]
    values = correlations(chosen, proxy, exact, PROXIES[proxy].better)
    return pooled(values) if values else None


# ---------------------------------------------------------------- tables


def write(folder: Path, found: Sequence[Record], out: Path) -> list[Path]:
    """Write proxies.md, a table per exact answer, and proxies.csv, a line per answer, task and proxy.

    Args:
        folder: that the records are of.
        found: what `measured` gave.
    """
    tasks = (*dict.fromkeys(kind_of(record.task) for record in found), None)
    per_scene = len(found) / max(1, len(set(map(_scene_of, found))))
    text = [
        "# Which measure to trust",
        "",
        f"Rank correlation (Spearman) of proxies with the exact answer, within a scene over its {per_scene:.3g} edits, "
        "mean over scenes with the 95 % bootstrap interval over scenes: 1 where a proxy puts the edits of a scene in "
        f"the right order, 0 where it says nothing. {len(found)} edits of {folder}; a scene whose edits are all alike "
        "has no order.",
        "",
    ]
    lines = []
    for exact, what in EXACT.items():
        heads = ["proxy", *(task or "all" for task in tasks)]
        text += [f"## By {what}", "", _row(heads), _row(["---"] * len(heads))]
        for name, proxy in PROXIES.items():
            estimates = {task: agreement(found, name, exact, task) for task in tasks}
            text.append(_row([proxy.heading, *map(_cell, estimates.values())]))
            lines += [_line(exact, name, task, estimate) for task, estimate in estimates.items() if estimate]
        text.append("")
    reasons = {proxy.heading: _lacking(found, name) for name, proxy in PROXIES.items()}
    text += [line for heading, why in reasons.items() if why for line in (f"{heading} is missing: {why}.", "")]
    out.mkdir(parents=True, exist_ok=True)
    with replacing(out / "proxies.md") as part:
        part.write_text("\n".join(text).rstrip() + "\n")
    with replacing(out / "proxies.csv") as part, part.open("w", newline="") as file:
        writer = csv.DictWriter(file, ("exact", "task", "proxy", "scenes", "mean", "low", "high", "median"))
        writer.writeheader()
        writer.writerows(lines)
    return [out / "proxies.md", out / "proxies.csv"]


def _lacking(found: Sequence[Record], proxy: str) -> str:
    """Why a proxy has no value on any record; empty where it has some."""
    if any(record.value(proxy) is not None for record in found):
        return ""
    return "; ".join(sorted({record.missing[proxy] for record in found if proxy in record.missing}))


def _cell(estimate: Estimate | None) -> str:
    if estimate is None:
        return "–"
    bare = number(estimate.mean, 2)
    return bare if np.isnan(estimate.low) else f"{bare} [{number(estimate.low, 2)}, {number(estimate.high, 2)}]"


def _row(cells: Sequence[str]) -> str:
    return f"| {' | '.join(cells)} |"


def _line(exact: str, proxy: str, task: str | None, estimate: Estimate) -> dict[str, str | int]:
    values = {name: f"{getattr(estimate, name):.6g}" for name in ("mean", "low", "high", "median")}
    return {"exact": exact, "task": task or "all", "proxy": PROXIES[proxy].heading, "scenes": estimate.n, **values}
