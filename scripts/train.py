"""Train Menagerie's model: `python -m scripts.train`, or `make train`.

Stages, each resumable and each skipped once its budget is spent: *render* the scenes, train the factor
*classifier*, the *vae*, then its *decoder* alone (which leaves the latents as they are, so that it may go on beside or
after the UNet), and the *unet* with its text encoder; then *export* the Stable Diffusion folder. A budget is given in
samples or in minutes, whichever ends first, and a larger one given later continues from the checkpoint. Matrices are
trained by Muon, the rest by AdamW, in float32. Several processes train together:

  torchrun --nproc_per_node 2 -m scripts.train --stages vae

Nothing fails in silence: a save refuses a network of which a tensor has moved by weight decay alone, and a compiled
network must have the eager one's gradients before its stage begins.
"""

from __future__ import annotations

import argparse
import copy
import json
import math
import multiprocessing
import os
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn
from tqdm.auto import tqdm

from nmg.lab.profile import MENAGERIE
from nmg.menagerie import networks
from nmg.menagerie.model import settings
from scripts.training import flow, losses
from scripts.training.data import Bank, render_bank, to_tensor
from scripts.training.stage import WARM_UP, Budget, Stage, compare_gradients

STAGES = ("classifier", "vae", "decoder", "unet", "flow")
DEFAULT_MINUTES = {"classifier": 6, "vae": 25, "decoder": 90, "unet": 120, "flow": 90}
BATCH = {"classifier": 32, "vae": 4, "decoder": 4, "unet": 32, "flow": 16}
RATES = {
    "classifier": (0.01, 1e-3),
    "vae": (0.02, 1e-3),
    "decoder": (0.01, 5e-4),
    "unet": (0.02, 1.2e-3),
    "flow": (0.02, 1e-3),
}
"""Peak learning rates of matrices (Muon) and of the rest (AdamW)."""


class Training:
    """The recipe with its arguments: every network from its checkpoint, trained on if its stage is asked for."""

    def __init__(self, arguments: argparse.Namespace):
        self.given, self.folder = arguments, Path(arguments.work)
        self.folder.mkdir(parents=True, exist_ok=True)
        torch.manual_seed(arguments.seed)
        self.bank: Bank = render_bank(self.folder, arguments.scenes, arguments.workers)
        self.tokenizer = networks.build_tokenizer(self.folder / "tokenizer")
        self.scheduler = networks.build_scheduler()

    def stage(self, name: str, network: nn.Module, loss: Any, watch: Any, tag: str = "") -> Any:
        """The averaged network of a stage, trained to its budget if it is among those asked for."""
        given = self.given
        rank = dist.get_rank() if dist.is_initialized() else 0
        network = network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        batch = getattr(given, f"{name}_batch")
        wanted = name in given.stages
        stage = Stage(
            f"{name}{tag}",
            network,
            loss(batch, given.seed + 10 + 100 * rank) if wanted else None,
            watch() if wanted and rank == 0 else None,
            self.folder,
            RATES[name],
            batch,
            given.seed,
            warmup=given.warmup,
        )
        if not wanted:
            return stage.average
        return stage.run(Budget(getattr(given, f"{name}_samples"), getattr(given, f"{name}_minutes")), given.every)

    def classifier(self) -> Any:
        return self.stage(
            "classifier",
            networks.FactorClassifier(),
            lambda batch, seed: losses.classifier_loss(self.bank, batch, seed),
            lambda: losses.classifier_watch(self.given.watched),
        )

    def vae(self) -> Any:
        return self.stage(
            "vae",
            networks.build_vae(tuple(self.given.vae_channels)),
            lambda batch, seed: losses.vae_loss(self.bank, batch, seed),
            lambda: losses.vae_watch(self.given.watched),
        )

    def decoder(self, vae: Any) -> Any:
        """The autoencoder with its decoder trained further, for the latents of the encoder's present state."""
        latents, scale = self.latents(vae)
        decoder = copy.deepcopy(vae).requires_grad_(True)
        for part in (decoder.encoder, decoder.quant_conv):
            part.requires_grad_(False)
        decoder = self.stage(
            "decoder",
            decoder,
            lambda batch, seed: losses.decoder_loss(self.bank, latents, scale, batch, seed),
            lambda: losses.vae_watch(self.given.watched),
            f"_{self.state_of_vae}",
        )
        decoder.register_to_config(scaling_factor=scale)
        return decoder

    def unet(self, vae: Any) -> Any:
        latents, scale = self.latents(vae)
        unet: Any = networks.build_unet(tuple(self.given.unet_channels), self.given.unet_layers)
        denoiser = losses.Denoiser(networks.build_text_encoder(self.tokenizer), unet)
        forward = self.compiled(denoiser, latents) if self.given.compile and "unet" in self.given.stages else None
        return self.stage(
            "unet",
            denoiser,
            lambda batch, seed: losses.denoiser_loss(
                self.bank, latents, self.tokenizer, self.scheduler, batch, seed, forward, self.given.unet_least_timestep
            ),
            lambda: losses.denoiser_watch(
                lambda pictures: vae.encode(pictures).latent_dist.mean * scale,
                self.tokenizer,
                self.scheduler,
                self.given.watched,
            ),
        )

    def flow(self, vae: Any) -> Any:
        latents, scale = self.latents(vae)
        encoders = tuple(networks.build_projected_text_encoder(self.tokenizer) for _ in range(2))
        denoiser = flow.FlowDenoiser(
            encoders, networks.build_transformer(self.given.flow_width, self.given.flow_layers)
        )
        return self.stage(
            "flow",
            denoiser,
            lambda batch, seed: flow.flow_loss(self.bank, latents, self.tokenizer, networks.FLOW_SHIFT, batch, seed),
            lambda: flow.flow_watch(
                lambda pictures: vae.encode(pictures).latent_dist.mean * scale,
                self.tokenizer,
                networks.FLOW_SHIFT,
                self.given.watched,
            ),
        )

    def compiled(self, denoiser: nn.Module, latents: Tensor) -> Any:
        """The compiled network, once its gradients are known to be the eager one's."""
        fast, batch = torch.compile(denoiser, dynamic=False), self.given.unet_batch

        def loss(forward: Any) -> Tensor:
            make = losses.denoiser_loss(self.bank, latents, self.tokenizer, self.scheduler, batch, 0, forward)
            return make(denoiser, torch.Generator().manual_seed(0))[0]

        compare_gradients(denoiser, lambda: loss(denoiser), lambda: loss(fast))
        return fast

    @property
    def state_of_vae(self) -> int:
        """The samples that the encoder saw, which name its state: a decoder and latents belong to one."""
        return read_log(self.folder / "vae.jsonl")[-1]["samples"]

    def latents(self, vae: Any) -> tuple[Tensor, float]:
        """Scaled mean latents fp16 [scenes, 8, 16, 16], kept on disk by the encoder's state; and the scale."""
        path = self.folder / f"latents_{len(self.bank)}_{self.state_of_vae}.pt"
        if not path.exists():
            with torch.no_grad():
                rows = [
                    vae.encode(to_tensor(self.bank.pictures[i : i + 64])).latent_dist.mean
                    for i in tqdm(range(0, len(self.bank), 64), "encode")
                ]
            latents = torch.cat(rows)
            scale = 1 / latents.std().item()
            part = path.with_suffix(".part")
            torch.save({"latents": (latents * scale).half(), "scale": scale}, part)
            part.rename(path)
        saved = torch.load(path, weights_only=True)
        return saved["latents"], saved["scale"]


def train(arguments: argparse.Namespace) -> None:
    """Run every stage that is asked for and whose budget is not spent, then write the pipeline folder."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(arguments.threads)
    training, stages = Training(arguments), arguments.stages
    classifier = training.classifier() if {"classifier", "export"} & set(stages) else None
    if not set(stages) - {"classifier"}:
        return
    vae = training.vae()
    if not set(stages) - {"classifier", "vae"}:
        return
    decoder = training.decoder(vae) if {"decoder", "export"} & set(stages) else None
    denoiser: Any = training.unet(vae) if {"unet", "export"} & set(stages) else None
    if "flow" in stages:
        training.flow(vae)
    if "export" not in stages:
        return
    out = Path(arguments.out)
    export(out, decoder, denoiser, training.tokenizer, training.scheduler, classifier)
    parts = {"vae": vae, "unet": denoiser.unet, "text encoder": denoiser.text_encoder, "classifier": classifier}
    exported = [name for name in STAGES if name != "flow"]
    logs = {name: f"{name}_{training.state_of_vae}" if name == "decoder" else name for name in exported}
    rows = {name: read_log(training.folder / f"{log}.jsonl") for name, log in logs.items()}
    (out / "nmg.json").write_text(json.dumps(settings(**MENAGERIE.scales), indent=2))
    (out / "training.json").write_text(json.dumps(record(arguments, parts, rows), indent=2))


def record(arguments: argparse.Namespace, parts: dict[str, nn.Module], stages: dict[str, list]) -> dict[str, Any]:
    """What the model card tells of a training, as values that JSON holds.

    Args:
        parts: the networks, whose parameters are counted.
        stages: the rows of each stage's log.
    """
    hidden = ("work", "out", "workers", "stages", "every", "threads", "watched")
    return {
        "settings": {k: v for k, v in vars(arguments).items() if k not in hidden},
        "rates": RATES,
        "hardware": f"{multiprocessing.cpu_count()} CPU cores",
        "scenes": arguments.scenes,
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "stages": {name: {k: rows[-1][k] for k in ("samples", "minutes")} for name, rows in stages.items()},
        "curves": {name: thinned(rows) for name, rows in stages.items()},
    }


def read_log(log: Path) -> list[dict[str, Any]]:
    """The rows of a stage's log, oldest first."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def thinned(rows: Sequence[dict[str, float]], points: int = 40) -> list[dict[str, float]]:
    """At most so many rows, each the mean of as many neighbours.

    Rows that hold counts alone are left out, such as the last of a stage that stopped between two records.
    """
    most = max(map(len, rows))
    rows = [row for row in rows if len(row) == most]
    size = math.ceil(len(rows) / points)
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [{name: sum(row[name] for row in group) / len(group) for name in group[0]} for group in groups]


def export(out: Path, vae: Any, denoiser: Any, tokenizer: Any, scheduler: Any, classifier: Any) -> None:
    """Write an ordinary Stable Diffusion folder in fp16, its text encoder and tokenizer in the older layout."""
    from diffusers import StableDiffusionPipeline
    from diffusers.models.attention_processor import AttnProcessor2_0

    denoiser.unet.set_attn_processor(AttnProcessor2_0())
    parts = {"unet": denoiser.unet, "vae": vae, "text_encoder": denoiser.text_encoder}
    halves = {
        name: copy.deepcopy(part).to("cpu", torch.float16, memory_format=torch.contiguous_format)
        for name, part in parts.items()
    }
    pipeline = StableDiffusionPipeline(
        **halves,
        tokenizer=tokenizer,
        scheduler=scheduler,
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(out, safe_serialization=True)
    # The files that the tokenizer was read from, in the older layout.
    (out / "tokenizer" / "tokenizer.json").unlink(missing_ok=True)
    for path in Path(tokenizer.name_or_path).iterdir():
        shutil.copy(path, out / "tokenizer" / path.name)
    networks.restore_text_layout(out / "text_encoder" / "model.safetensors")
    classifier.save(out / "classifier.safetensors")


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "scripts.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--work", default="runs/menagerie", help="folder for checkpoints, logs and the rendered scenes")
    p.add_argument("--out", default="runs/menagerie/pipeline", help="folder for the finished pipeline")
    everything = [*STAGES, "export"]
    p.add_argument("--stages", nargs="+", choices=everything, default=everything, help="what to do (default: all)")
    p.add_argument("--scenes", type=int, default=24_000, help="training scenes to render")
    p.add_argument("--workers", type=int, default=multiprocessing.cpu_count(), help="rendering processes")
    p.add_argument(
        "--threads", type=int, default=1, help="of each process (default: %(default)s, the fastest per core)"
    )
    for name in STAGES:
        p.add_argument(f"--{name}-minutes", type=float, default=DEFAULT_MINUTES[name], metavar="M")
        p.add_argument(f"--{name}-samples", type=float, default=1e7, metavar="N")
        p.add_argument(f"--{name}-batch", type=int, default=BATCH[name], metavar="N", help="in each process")
    p.add_argument("--vae-channels", type=int, nargs="+", default=[16, 32, 64, 64])
    p.add_argument("--unet-channels", type=int, nargs="+", default=[64, 128])
    p.add_argument("--unet-layers", type=int, default=1, help="residual and attention layers per block")
    p.add_argument("--unet-least-timestep", type=int, default=0, metavar="T", help="train on the noisier ones alone")
    p.add_argument("--flow-width", type=int, default=192, help="of the flow twin's transformer")
    p.add_argument("--flow-layers", type=int, default=6)
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, default=False, help="compile the UNet")
    p.add_argument("--warmup", type=int, default=WARM_UP, metavar="N", help="samples until the rate is at its peak")
    p.add_argument("--watched", type=int, default=96, metavar="N", help="scenes that a training is watched on")
    p.add_argument("--every", type=float, default=120, metavar="SECONDS", help="between two saves")
    p.add_argument("--seed", type=int, default=0)
    return p


if __name__ == "__main__":
    train(parser().parse_args())
