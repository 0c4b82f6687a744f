"""One network trained to a budget: optimizers, averaged weights, checkpoints, a log, and a watch on what moves."""

from __future__ import annotations

import copy
import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from scripts.training.muon import optimizers

Loss = Callable[[Any, torch.Generator], tuple[Tensor, dict[str, Tensor]]]
Watch = Callable[[Any], dict[str, float]]


@dataclass
class Budget:
    """How long a stage trains, over all its runs: `samples` or `minutes`, whichever ends first."""

    samples: float = math.inf
    minutes: float = math.inf

    def spent(self, samples: int, seconds: float) -> float:
        """Fraction of the budget that is used, from 0 to 1."""
        return min(1.0, max(samples / self.samples, seconds / 60 / self.minutes))


FOLLOWED = 2.0
"""Seconds between two looks at what has been rendered since."""
WARM_UP = 1600
"""Samples until the learning rate is at its peak."""


def learning_rate(spent: float, samples: int, warmup: int = WARM_UP) -> float:
    """Share of the peak: a linear warm-up, then a cosine down to 3 %."""
    return min(1.0, (samples + 1) / max(1, warmup)) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * spent)))


# ---------------------------------------------------------------- what a training may not hide


def unmoved(start: Mapping[str, Tensor], now: Mapping[str, Tensor], least: float = 1e-4) -> list[str]:
    """Names of tensors that are still their initial values, or those shrunk by weight decay alone.

    What no decay explains is the part of a tensor that does not point along its start; it must be `least` of its norm.
    """
    found = []
    for name, first in start.items():
        first, last = first.double().flatten(), now[name].double().flatten()
        along = (last @ first) / (first @ first) if first.any() else 0.0
        moved = (last - along * first).norm()
        if not moved > least * last.norm().clamp_min(1e-12):
            found.append(name)
    return found


def compare_gradients(network: nn.Module, eager: Callable[[], Tensor], compiled: Callable[[], Tensor]) -> None:
    """Raise if a compiled loss gives another gradient than the eager one, parameter by parameter.

    On CPUs, PyTorch 2.13 compiled under bf16 autocast silently gives none through nearest-neighbour upsampling.

    Raises:
        RuntimeError: naming the parameters.
    """
    found = []
    for loss in (eager, compiled):
        network.zero_grad()
        loss().backward()
        found.append({n: p.grad.clone() for n, p in network.named_parameters() if p.grad is not None})
    network.zero_grad()
    plain, fast = found
    lost = [n for n, g in plain.items() if n not in fast or (fast[n] - g).norm() > 0.05 * g.norm() + 1e-8]
    if lost:
        raise RuntimeError(
            f"the compiled network loses the gradient of {len(lost)} of {len(plain)} parameters "
            f"({', '.join(lost[:3])} …); train with --no-compile"
        )


# ---------------------------------------------------------------- the loop


class Stage:
    """Trains a network to a budget, alone or averaged over the processes that torchrun started.

    On a GPU a step is captured once and replayed, since launching so small a network's kernels one by one takes longer
    than they do.

    Args:
        name: of the checkpoint `<folder>/<name>.pt` and of the log `<name>.jsonl`.
        loss: maps the network and a step's random generator to a scalar and figures to log.
        watch: maps the averaged network to figures on scenes that are not trained on; logged at every save.
        rates: peak learning rates of matrices (Muon) and of the rest (AdamW).
        batch: samples of one step in one process.
        follow: called now and then between steps, to take over scenes that were rendered since.
        capture: whether steps are captured; None where the network is on a GPU.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        loss: Loss | None,
        watch: Watch | None,
        folder: Path,
        rates: tuple[float, float],
        batch: int,
        seed: int = 0,
        decay: float = 0.998,
        warmup: int = WARM_UP,
        follow: Callable[[], object] | None = None,
        capture: bool | None = None,
    ):
        self.name, self.network, self.loss, self.watch, self.folder = name, network, loss, watch, folder
        self.peaks, self.batch, self.decay, self.warmup = rates, batch, decay, warmup
        self.device = next(network.parameters()).device
        self.follow = follow or (lambda: None)
        self.capture = self.device.type == "cuda" if capture is None else capture
        self.start = {n: p.detach().clone() for n, p in network.named_parameters() if p.requires_grad}
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.rates = tuple(torch.zeros((), device=self.device) for _ in rates)
        self.kept = torch.zeros((), device=self.device)
        self.optimizers = optimizers(network, self.rates)  # type: ignore[arg-type]
        self.rank, self.processes = (dist.get_rank(), dist.get_world_size()) if dist.is_initialized() else (0, 1)
        self.generator = torch.Generator(self.device).manual_seed(seed + 1000 * self.rank)
        self.samples, self.seconds = 0, 0.0
        if self.path.exists():
            self._load()

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def run(self, budget: Budget, every: float = 120) -> Any:
        """Train until the budget is spent and return the averaged network.

        Raises:
            RuntimeError: if, after the warm-up, a tensor has not moved beyond what weight decay does; or if the loss
                is no longer finite, which leaves the last checkpoint as it was.
        """
        if budget.spent(self.samples, self.seconds) >= 1:
            return self.average
        self.network.train()
        began, saved, followed, window = time.time() - self.seconds, time.time(), time.time(), []
        bar = tqdm(desc=self.name, unit="sample", initial=self.samples, mininterval=10, disable=self.rank > 0)
        self._pace(budget.spent(self.samples, self.seconds))
        step = self._captured() if self.capture else self._step
        while (spent := self._agreed(budget.spent(self.samples, self.seconds))) < 1:
            self._pace(spent)
            window.append({name: value.clone() for name, value in step().items()})
            self.samples += self.batch * self.processes
            bar.update(self.batch * self.processes)
            if self.capture and len(window) % 8 == 0:
                torch.cuda.synchronize()  # The clock must not run ahead of the device.
            self.seconds = time.time() - began
            if time.time() - followed > FOLLOWED:
                self.follow()
                followed = time.time()
            if self.rank == 0 and time.time() - saved > every:
                bar.set_postfix({k: f"{v:.4f}" for k, v in self._save(window).items()})
                saved, window = time.time(), []
        if self.rank == 0:
            self._save(window)
        if self.processes > 1:
            dist.barrier()
        return self.average

    def _pace(self, spent: float) -> None:
        """Set the learning rates and how much of the average stays, for the next step."""
        share = learning_rate(spent, self.samples, self.warmup)
        for rate, peak in zip(self.rates, self.peaks, strict=True):
            rate.fill_(peak * share)
        if pace := getattr(self.loss, "pace", None):
            pace(spent)
        steps = self.samples / self.batch / self.processes + 1
        self.kept.fill_(min(self.decay, (1 + steps) / (10 + steps)))

    def _step(self) -> dict[str, Tensor]:
        """One step of the network, its optimizers and its average; the loss and the figures to log."""
        for optimizer in self.optimizers:
            optimizer.zero_grad()
        loss, figures = self.loss(self.network, self.generator)  # type: ignore[misc]
        loss.backward()
        self._share_gradients()
        nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
        for optimizer in self.optimizers:
            optimizer.step()
        self._mean()
        return {"loss": loss.detach(), **figures}

    def _captured(self) -> Callable[[], dict[str, Tensor]]:
        """A step as a CUDA graph, after a few that warm up what it calls."""
        beside = torch.cuda.Stream()
        beside.wait_stream(torch.cuda.current_stream())
        with torch.cuda.stream(beside):
            for _ in range(3):
                self._step()
        torch.cuda.current_stream().wait_stream(beside)
        graph = torch.cuda.CUDAGraph()
        graph.register_generator_state(self.generator)
        with torch.cuda.graph(graph):
            figures = self._step()

        def replay() -> dict[str, Tensor]:
            graph.replay()
            return figures

        return replay

    def _share_gradients(self) -> None:
        if self.processes == 1:
            return
        gradients = [p.grad for p in self.network.parameters() if p.grad is not None]
        together = torch.cat([gradient.reshape(-1) for gradient in gradients])
        dist.all_reduce(together)
        start = 0
        for gradient in gradients:
            part = together[start : start + gradient.numel()]
            gradient.copy_(part.view_as(gradient)).div_(self.processes)
            start += gradient.numel()

    def _agreed(self, spent: float) -> float:
        """The first process's clock, so that all of them end at the same step."""
        if self.processes == 1:
            return spent
        shared = torch.tensor(spent)
        dist.broadcast(shared, 0)
        return shared.item()

    @torch.no_grad()
    def _mean(self) -> None:
        now, average = self.network.state_dict(), self.average.state_dict()
        floats = [name for name, tensor in average.items() if tensor.is_floating_point()]
        means = [average[name] for name in floats]
        torch._foreach_mul_(means, self.kept)
        torch._foreach_add_(means, torch._foreach_mul([now[name] for name in floats], 1 - self.kept))
        for name in average.keys() - set(floats):
            average[name].copy_(now[name])

    def _save(self, window: list[dict[str, Tensor]]) -> dict[str, float]:
        means = {key: torch.stack([row[key] for row in window]).mean().item() for key in window[0]} if window else {}
        if not np.isfinite(means.get("loss", 0.0)):
            raise RuntimeError(
                f"{self.name}: the loss is {means['loss']} at {self.samples:,} samples; the checkpoint {self.path} is "
                "of before: go on from it with lower rates"
            )
        trained = dict(self.network.named_parameters())
        if self.samples >= self.warmup and (still := unmoved(self.start, trained)):
            raise RuntimeError(
                f"{self.name}: {len(still)} of {len(self.start)} tensors did not move in {self.samples:,} samples, "
                f"but for weight decay: {', '.join(still[:4])} …; no gradient reaches them"
            )
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "start": self.start,
            "optimizers": [optimizer.state_dict() for optimizer in self.optimizers],
            "generator": self.generator.get_state(),
            "samples": self.samples,
            "seconds": self.seconds,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.rename(self.path)
        with torch.no_grad():
            row = {"samples": self.samples, "minutes": round(self.seconds / 60, 2), **means, **self.watch(self.average)}  # type: ignore[misc]
        with self.path.with_suffix(".jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")
        return row

    def _load(self) -> None:
        state = torch.load(self.path, map_location=self.device, weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.start = state["start"]
        for optimizer, saved in zip(self.optimizers, state["optimizers"], strict=True):
            # What belongs to the device and to this run stays, such as the rates.
            own: dict[str, Any]
            own = {name: optimizer.param_groups[0][name] for name in ("lr", "capturable") if name in optimizer.defaults}
            optimizer.load_state_dict(saved)
            optimizer.param_groups[0].update(own)
        if self.rank == 0 and state["generator"].numel() == self.generator.get_state().numel():
            self.generator.set_state(state["generator"].cpu())
        self.samples, self.seconds = state["samples"], state["seconds"]
