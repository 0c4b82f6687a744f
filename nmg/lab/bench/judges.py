"""Metrics of the pictures that a benchmark kept, measured afterwards."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor

from nmg import files, images
from nmg.lab import metrics
from nmg.lab.bench import records
from nmg.lab.bench.records import Record

Judge = Callable[[Record, Path], float | None]
"""A metric of a record's pictures, which lie in a folder; None where it means nothing."""


VIESCORE = "viescore"
UNASKED = "VIEScore is a judge's; name a model that sees and reads by --judge"


class Lacking(ValueError):
    """A single picture lacks what a metric needs."""


def judged(found: Iterable[Record], folder: Path, judges: Mapping[str, Judge]) -> list[Record]:
    """Records with further metrics, measured on the pictures that were kept.

    One that can't be measured here is missing everywhere, with its reason.
    """
    lacking: dict[str, str] = {}
    done = []
    for record in found:
        values: dict[str, float] = {}
        missing: dict[str, str] = {}
        for name, judge in judges.items() if not record.refused else ():
            try:
                if name in lacking:
                    raise metrics.Missing(lacking[name])
                value = judge(record, folder)
                values |= {} if value is None else {name: value}
            except metrics.Missing as error:
                lacking[name] = missing[name] = str(error)
            except Lacking as error:
                missing[name] = str(error)
        known = {**record.metrics, **values}
        missing = {name: why for name, why in {**record.missing, **missing}.items() if name not in values}
        done.append(dataclasses.replace(record, metrics=known, missing=missing))
    return done


def opened(record: Record, kind: str, folder: Path) -> Tensor:
    """A picture that a record names, [1, 3, height, width].

    Raises:
        Lacking: if it was not kept.
    """
    if kind not in record.pictures:
        raise Lacking("its picture was not kept; measure it again in another folder, with pictures")
    return images.to_tensor(images.load(folder / record.pictures[kind]))


def clip_judge(device: str) -> Judge:
    """How well an edit fits its target prompt."""
    score = metrics.ClipScore(device=device)
    return lambda record, folder: score(opened(record, "edit", folder), [record.target]).item()


def vie_judge(
    model: str, sources: Callable[[Record], Tensor], device: str | None = None
) -> Callable[[Record, Path], float]:
    """How good an edit is, in the judgement of a model that sees and reads.

    Args:
        model: its hub id or folder.
        sources: the source picture of a record.
    """
    score = metrics.VieScore(model, device)

    def judge(record: Record, folder: Path) -> float:
        try:
            return score(opened(record, "edit", folder), sources(record), [record.target]).item()
        except metrics.Unreadable as error:
            raise Lacking(str(error)) from error

    return judge


def vie_judged(
    found: Sequence[Record], folder: Path, model: str, sources: Callable[[Record], Tensor], device: str | None = None
) -> list[Record]:
    """Records with VIEScore; see `vie_judge`.

    Its answers are kept in a folder of the model's beside the records, since they take seconds each: a run that was
    killed goes on, and an edit that was measured again is judged again.
    """
    own = folder / f"judged-{re.sub(r'[^a-z0-9.]+', '-', model.lower()).strip('-')}"
    kept = {_edit_of(record): record.metrics[VIESCORE] for record in records.read(own)}
    judge, writer = vie_judge(model, sources, device), records.Writer(own)

    def answered(record: Record, folder: Path) -> float:
        value = judge(record, folder)
        files.folder(own)
        writer.write(dataclasses.replace(record, metrics={VIESCORE: value}, missing={}))
        return value

    known = judged([r for r in found if _edit_of(r) in kept], folder, {VIESCORE: lambda r, _: kept[_edit_of(r)]})
    asked = judged([r for r in found if _edit_of(r) not in kept], folder, {VIESCORE: answered})
    every = {record.key: record for record in (*known, *asked)}
    return [every[record.key] for record in found]


def _edit_of(record: Record) -> str:
    """What tells a measured edit from another: the record without its metrics."""
    return dataclasses.replace(record, metrics={}, missing={}).to_json()


def tifa_judge(questions: Mapping[str, Sequence[Mapping[str, Any]]]) -> Judge:
    """How many questions about the target prompt an edit answers right; `questions` are by the picture's name."""
    answer = metrics.Tifa()

    def judge(record: Record, folder: Path) -> float:
        if not questions.get(str(record.item)):
            raise Lacking("TIFA needs questions about the prompt; only pictures of a captions.json can bring them")
        return answer(opened(record, "edit", folder), [questions[str(record.item)]]).item()

    return judge
