"""Train Menagerie's model: `python -m scripts.train`, or `make train`.

Stages, each resumable and each skipped once its budget is spent: *render* a bank of scenes, train the
factor *classifier*, the *vae*, then its *decoder* alone (which leaves the latents as they are, so that it
may go on beside or after the UNet), and the *unet* with its text encoder; then *export* the Stable
Diffusion folder. A budget is given in samples or in minutes, whichever ends first, and a
larger one given later continues from the checkpoint. With CUDA the networks run compiled and in bf16; on the
CPU eagerly and in float32: there, PyTorch 2.13 compiled under bf16 silently gives no gradient through nearest-neighbour
upsampling. A network is not written if a part of it was never trained.
"""

from __future__ import annotations

import argparse
import copy
import functools
import json
import math
import multiprocessing
import shutil
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn import functional as F
from tqdm.auto import tqdm

from nmg.lab.profile import MENAGERIE
from nmg.menagerie import networks
from nmg.menagerie.captions import caption
from nmg.menagerie.model import constant, settings
from nmg.menagerie.scene import Scene
from nmg.menagerie.tasks import TRAIN_SEEDS

SNR_CAP = 5.0


# ---------------------------------------------------------------- data


def _render(index: int) -> np.ndarray:
    return np.asarray(Scene.sample(TRAIN_SEEDS + index).render(networks.IMAGE_SIZE))


def render_bank(folder: Path, count: int, workers: int) -> np.ndarray:
    """Pictures uint8 [count, 64, 64, 3] of the training scenes, rendered once and mapped from disk."""
    path = folder / f"bank_{count}.npy"
    if not path.exists():
        part = path.with_suffix(".part")
        bank = np.lib.format.open_memmap(part, "w+", np.uint8, (count, networks.IMAGE_SIZE, networks.IMAGE_SIZE, 3))
        with multiprocessing.get_context("spawn").Pool(workers) as pool:
            for i, picture in enumerate(tqdm(pool.imap(_render, range(count), 64), "render", count)):
                bank[i] = picture
        bank.flush()
        part.rename(path)
    return np.load(path, mmap_mode="r")


def to_tensor(pictures: np.ndarray) -> Tensor:
    """uint8 [batch, height, width, 3] to float [batch, 3, height, width] in -1…1."""
    return torch.from_numpy(np.array(pictures)).permute(0, 3, 1, 2).float().div_(127.5).sub_(1)


def shuffled(count: int, batch: int, seed: int) -> Iterator[np.ndarray]:
    """Endless batches of indices; every epoch sees each index once, in a new order."""
    if count < batch:
        raise ValueError(f"{count} scenes don't fill a batch of {batch}; give --scenes {batch} or more")
    random = np.random.default_rng(seed)
    while True:
        order = random.permutation(count)
        for start in range(0, count - batch + 1, batch):
            yield order[start : start + batch]


# ---------------------------------------------------------------- one loop for every network


@dataclass
class Budget:
    """How long a stage trains, over all its runs: `samples` or `minutes`, whichever ends first."""

    samples: float = math.inf
    minutes: float = math.inf

    def spent(self, samples: int, seconds: float) -> float:
        """Fraction of the budget that is used, from 0 to 1."""
        return min(1.0, max(samples / self.samples, seconds / 60 / self.minutes))


def learning_rate(peak: float, spent: float, samples: int, warmup: int = 6400) -> float:
    """Linear warm-up, then a cosine down to 3 % of the peak."""
    return peak * min(1.0, (samples + 1) / warmup) * (0.03 + 0.97 * 0.5 * (1 + math.cos(math.pi * spent)))


class Stage:
    """Trains one network to a budget, with AdamW, an averaged copy, checkpoints and a log.

    Args:
        name: of the checkpoint `<folder>/<name>.pt` and of the log `<name>.jsonl`.
        network: the module to train.
        loss: maps a step's random generator to a scalar and a dict of figures to log.
    """

    def __init__(
        self,
        name: str,
        network: nn.Module,
        loss: Callable,
        folder: Path,
        accelerator,
        peak: float,
        batch: int,
        decay: float = 0.999,
        seed: int = 0,
    ):
        self.name, self.loss, self.folder, self.peak, self.batch = name, loss, folder, peak, batch
        self.accelerator, self.decay = accelerator, decay
        self.network = network
        self.average = copy.deepcopy(network).eval().requires_grad_(False)
        self.optimizer = torch.optim.AdamW(
            network.parameters(), lr=peak, betas=(0.9, 0.99), weight_decay=0.01, fused=True
        )
        self.generator = torch.Generator().manual_seed(seed)
        self.samples, self.seconds = 0, 0.0
        if self.path.exists():
            self._load()

    @property
    def path(self) -> Path:
        return self.folder / f"{self.name}.pt"

    def run(self, budget: Budget, every: float = 120) -> nn.Module:
        """Train until the budget is spent and return the averaged network."""
        if budget.spent(self.samples, self.seconds) >= 1:
            return self.average
        self.network.train()
        start, saved, window = time.time() - self.seconds, time.time(), []
        bar = tqdm(
            desc=self.name,
            total=None if budget.samples == math.inf else int(budget.samples),
            initial=self.samples,
            unit="sample",
            mininterval=5,
        )
        while (spent := budget.spent(self.samples, self.seconds)) < 1:
            for group in self.optimizer.param_groups:
                group["lr"] = learning_rate(self.peak, spent, self.samples)
            with self.accelerator.autocast():
                loss, figures = self.loss(self.network, self.generator)
            self.accelerator.backward(loss)
            norm = nn.utils.clip_grad_norm_(self.network.parameters(), 1.0)
            if torch.isfinite(norm):
                self.optimizer.step()
            self.optimizer.zero_grad()
            self.samples += self.batch
            self._follow()
            bar.update(self.batch)
            window.append({"loss": loss.item(), **figures})
            self.seconds = time.time() - start
            if time.time() - saved > every:
                saved = time.time()
                self._save(window)
                bar.set_postfix({k: f"{v:.4f}" for k, v in self._mean(window).items()})
                window = []
        self._save(window)
        return self.average

    @torch.no_grad()
    def _follow(self) -> None:
        decay = min(self.decay, (1 + self.samples / self.batch) / (10 + self.samples / self.batch))
        source, average = self.network.state_dict(), self.average.state_dict()
        floats = [name for name, tensor in average.items() if tensor.is_floating_point()]
        torch._foreach_lerp_([average[n] for n in floats], [source[n] for n in floats], 1 - decay)
        for name in average.keys() - set(floats):
            average[name].copy_(source[name])

    @staticmethod
    def _mean(window: list[dict[str, float]]) -> dict[str, float]:
        return {key: float(np.mean([row[key] for row in window])) for key in window[0]} if window else {}

    def _save(self, window: list[dict[str, float]]) -> None:
        state = {
            "network": self.network.state_dict(),
            "average": self.average.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "generator": self.generator.get_state(),
            "samples": self.samples,
            "seconds": self.seconds,
        }
        part = self.path.with_suffix(".part")
        torch.save(state, part)
        part.rename(self.path)
        row = {"samples": self.samples, "minutes": round(self.seconds / 60, 2), **self._mean(window)}
        with self.path.with_suffix(".jsonl").open("a") as log:
            log.write(json.dumps(row) + "\n")

    def _load(self) -> None:
        state = torch.load(self.path, map_location="cpu", weights_only=True)
        self.network.load_state_dict(state["network"])
        self.average.load_state_dict(state["average"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.generator.set_state(state["generator"])
        self.samples, self.seconds = state["samples"], state["seconds"]


# ---------------------------------------------------------------- the three losses


def classifier_loss(bank: np.ndarray, batch: int, device: torch.device) -> Callable:
    indices = shuffled(len(bank), batch, 11)

    def loss(network: Any, generator: torch.Generator):
        chosen = next(indices)
        pictures = to_tensor(bank[chosen]).to(device)
        # A little blur-free noise, so that an autoencoder's grain does not mislead the reading.
        pictures = pictures + 0.08 * torch.randn(pictures.shape, generator=generator).to(device)
        answers = networks.targets([Scene.sample(TRAIN_SEEDS + int(i)) for i in chosen])
        losses = [
            F.cross_entropy(logits.float(), answers[name].to(device)) for name, logits in network(pictures).items()
        ]
        return torch.stack(losses).mean(), {}

    return loss


def vae_loss(bank: np.ndarray, batch: int, device: torch.device, kl_weight: float = 2e-4, seed: int = 12) -> Callable:
    """L1 on pixels and on their differences, a squared error, and a small KL term on the latent."""
    indices = shuffled(len(bank), batch, seed)

    def loss(network: Any, generator: torch.Generator):
        pictures = to_tensor(bank[next(indices)]).to(device)
        if torch.rand((), generator=generator) < 0.5:
            pictures = pictures.flip(-1)
        pictures = pictures.contiguous(memory_format=torch.channels_last)
        posterior = network.encode(pictures).latent_dist
        noise = torch.randn(posterior.mean.shape, generator=generator).to(device)
        decoded = network.decode(posterior.mean + posterior.std * noise).sample.float()
        error = decoded - pictures
        edges = error.diff(dim=-1).abs().mean() + error.diff(dim=-2).abs().mean()
        kl = 0.5 * (posterior.mean**2 + posterior.var - 1 - posterior.logvar).float().mean()
        squared = error.square().mean()
        figures = {"psnr": 10 * math.log10(4 / squared.item())}
        return error.abs().mean() + 2 * squared + 0.5 * edges + kl_weight * kl, figures

    return loss


class Denoiser(nn.Module):
    """Text encoder and UNet, trained together: tokens in, predicted noise out."""

    def __init__(self, text_encoder: nn.Module, unet: nn.Module):
        super().__init__()
        self.text_encoder, self.unet = text_encoder, unet

    def forward(self, latents: Tensor, timesteps: Tensor, tokens: Tensor) -> Tensor:
        return self.unet(latents, timesteps, self.text_encoder(tokens)[0]).sample


def denoiser_loss(
    latents: Tensor, tokenizer, scheduler, batch: int, device: torch.device, forward: Callable
) -> Callable:
    """Squared error of the predicted noise, weighted by min-SNR (Hang et al. 2023, arXiv 2303.09556)."""
    indices, words = shuffled(len(latents), batch, 13), np.random.default_rng(14)
    alphas = scheduler.alphas_cumprod.to(device)

    def loss(network: Any, generator: torch.Generator):
        chosen = next(indices)
        scenes = [Scene.sample(TRAIN_SEEDS + int(i)) for i in chosen]
        texts = ["" if words.random() < 0.1 else caption(scene, words) for scene in scenes]
        tokens = tokenizer(texts, padding="max_length", return_tensors="pt").input_ids.to(device)
        clean = latents[chosen].to(device).float()
        noise = torch.randn(clean.shape, generator=generator).to(device)
        # Stratified timesteps: one from each of `batch` equal parts of the schedule.
        strata = (torch.arange(batch) + torch.rand(batch, generator=generator)) / batch
        timesteps = (strata * len(alphas)).long().to(device)
        alpha = alphas[timesteps].view(-1, 1, 1, 1)
        noised = alpha.sqrt() * clean + (1 - alpha).sqrt() * noise
        error = (forward(noised, timesteps, tokens).float() - noise).square().mean((1, 2, 3))
        snr = (alpha / (1 - alpha)).flatten()
        return (error * (SNR_CAP / snr).clamp(0.1, 1)).mean(), {"eps_mse": error.mean().item()}

    return loss


@torch.no_grad()
def encode_bank(bank: np.ndarray, vae: Any, tag: str, folder: Path, device: torch.device) -> tuple[Tensor, float]:
    """Scaled mean latents fp16 [count, 4, 16, 16] of the bank, every second picture mirrored; and the scale.

    Kept on disk under `tag`, which tells one state of the autoencoder from another.
    """
    path = folder / f"latents_{len(bank)}_{tag}.pt"
    if not path.exists():
        rows = []
        for start in tqdm(range(0, len(bank), 256), "encode"):
            pictures = to_tensor(bank[start : start + 256]).to(device)
            pictures[1::2] = pictures[1::2].flip(-1)
            rows.append(vae.encode(pictures).latent_dist.mean.float().cpu())
        latents = torch.cat(rows)
        scale = 1 / latents.std().item()
        torch.save({"latents": (latents * scale).half(), "scale": scale}, path)
    saved = torch.load(path, weights_only=True)
    return saved["latents"], saved["scale"]


# ---------------------------------------------------------------- the whole recipe


def train(arguments: argparse.Namespace) -> None:
    """Run every stage whose budget is not spent, then write the pipeline folder and the classifier."""
    from accelerate import Accelerator

    accelerator = Accelerator(cpu=arguments.cpu, mixed_precision=arguments.precision)
    if accelerator.num_processes > 1:
        raise SystemExit("training runs on one process; start it without torchrun or accelerate launch")
    device, folder = accelerator.device, Path(arguments.work)
    folder.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(arguments.seed)
    bank = render_bank(folder, arguments.scenes, arguments.workers)
    stage = functools.partial(run_stage, arguments, accelerator)

    classifier = stage("classifier", networks.FactorClassifier(), classifier_loss(bank, 64, device), 2e-3, 64)

    vae, loss = networks.build_vae(tuple(arguments.vae_channels)), vae_loss(bank, arguments.vae_batch, device)
    vae = stage("vae", vae, loss, arguments.vae_rate, arguments.vae_batch)
    # A decoder and latents belong to one state of the encoder, which its samples name.
    seen = str(read_log(folder / "vae.jsonl")[-1]["samples"])
    logs = {"classifier": "classifier", "vae": "vae", "decoder": f"decoder_{seen}", "unet": "unet"}
    loss = vae_loss(bank, arguments.decoder_batch, device, seed=15)
    decoder = decoder_alone(vae)
    decoder = stage("decoder", decoder, loss, arguments.decoder_rate, arguments.decoder_batch, log=logs["decoder"])
    with accelerator.autocast():
        latents, scale = encode_bank(bank, vae, seen, folder, device)
    decoder.register_to_config(scaling_factor=scale)

    tokenizer, scheduler = networks.build_tokenizer(folder / "tokenizer"), networks.build_scheduler()
    denoiser = build_denoiser(arguments, tokenizer, device)
    forward = torch.compile(denoiser, dynamic=False) if arguments.compile else denoiser
    loss = denoiser_loss(latents, tokenizer, scheduler, arguments.unet_batch, device, forward)
    denoiser = stage("unet", denoiser, loss, arguments.unet_rate, arguments.unet_batch)

    out = Path(arguments.out)
    for network in (decoder, denoiser):
        check_trained(network.state_dict())
    export(out, decoder, denoiser, tokenizer, scheduler, classifier)
    parts = {"vae": vae, "unet": denoiser.unet, "text encoder": denoiser.text_encoder, "classifier": classifier}
    stages = {name: read_log(folder / f"{log}.jsonl") for name, log in logs.items()}
    (out / "training.json").write_text(json.dumps(record(arguments, device, parts, stages), indent=2))
    if arguments.report:
        from scripts.evaluate import write_report

        write_report(out, arguments.report, arguments.report)


def check_trained(tensors: dict[str, Tensor]) -> None:
    """Raise for a network with a part that no gradient reached.

    Raises:
        RuntimeError: naming the tensors.
    """
    if still := constant(tensors):
        raise RuntimeError(
            f"{len(still)} tensors were never trained, {', '.join(still[:3])} among them: no gradient reached them; "
            "train again with --no-compile --precision no"
        )


def run_stage(
    arguments: argparse.Namespace,
    accelerator: Any,
    name: str,
    network: Any,
    loss: Callable,
    peak: float,
    batch: int,
    log: str = "",
) -> Any:
    """Train one network to the budget that the arguments give its stage, and return the averaged one.

    Args:
        log: name of the checkpoint and the log; the stage's if not given.
    """
    network = network.to(accelerator.device, memory_format=torch.channels_last)
    budget = Budget(getattr(arguments, f"{name}_samples"), getattr(arguments, f"{name}_minutes"))
    folder = Path(arguments.work)
    return Stage(log or name, network, loss, folder, accelerator, peak, batch, seed=arguments.seed).run(budget)


def decoder_alone(vae: Any) -> Any:
    """A copy of an autoencoder of which only the decoder trains."""
    decoder = copy.deepcopy(vae).requires_grad_(True)
    for part in (decoder.encoder, decoder.quant_conv):
        part.requires_grad_(False)
    return decoder


def build_denoiser(arguments: argparse.Namespace, tokenizer: Any, device: torch.device) -> Any:
    """The UNet and its text encoder at the sizes of the arguments, on a device."""
    from diffusers.models.attention_processor import AttnProcessor

    unet: Any = networks.build_unet(tuple(arguments.unet_channels), arguments.unet_layers)
    if device.type == "cpu":
        # Through its matrices: the backward pass of fused attention is several times slower on a CPU.
        unet.set_attn_processor(AttnProcessor())
    denoiser: Any = Denoiser(networks.build_text_encoder(tokenizer), unet)
    return denoiser.to(device, memory_format=torch.channels_last)


def record(
    arguments: argparse.Namespace, device: torch.device, parts: dict[str, nn.Module], stages: dict[str, list]
) -> dict[str, Any]:
    """What the model card tells of a training, as values that JSON holds.

    Args:
        parts: the networks, whose parameters are counted.
        stages: the rows of each stage's log.
    """
    on_gpu = device.type == "cuda"
    return {
        "settings": {k: v for k, v in vars(arguments).items() if k not in ("work", "out", "workers", "report")},
        "hardware": torch.cuda.get_device_name() if on_gpu else f"{multiprocessing.cpu_count()} CPU cores",
        "scenes": arguments.scenes,
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "stages": {name: rows[-1] for name, rows in stages.items()},
        "curves": {name: thinned(rows) for name, rows in stages.items()},
    }


def read_log(log: Path) -> list[dict[str, float]]:
    """The rows of a stage's log, oldest first."""
    return [json.loads(line) for line in log.read_text().splitlines()]


def thinned(rows: Sequence[dict[str, float]], points: int = 40) -> list[dict[str, float]]:
    """At most so many rows, each the mean of as many neighbours; without those that hold counts alone, such as the last
    of a stage that stopped between two records."""
    most = max(map(len, rows))
    rows = [row for row in rows if len(row) == most]
    size = math.ceil(len(rows) / points)
    groups = [rows[i : i + size] for i in range(0, len(rows), size)]
    return [{name: sum(row[name] for row in group) / len(group) for name in group[0]} for group in groups]


def export(out: Path, vae: Any, denoiser: Any, tokenizer: Any, scheduler: Any, classifier: Any) -> None:
    """Write an ordinary Stable Diffusion folder in fp16, its text encoder and tokenizer in the older layout."""
    from diffusers import StableDiffusionPipeline

    cpu = {"unet": denoiser.unet, "vae": vae, "text_encoder": denoiser.text_encoder}
    halves = {
        name: copy.deepcopy(part).to("cpu", torch.float16, memory_format=torch.contiguous_format)
        for name, part in cpu.items()
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
    classifier.to("cpu").save(out / "classifier.safetensors")
    (out / "nmg.json").write_text(json.dumps(settings(**MENAGERIE.scales), indent=2))


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "python -m scripts.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    cuda = torch.cuda.is_available()
    p.add_argument("--work", default="runs/menagerie", help="folder for checkpoints, logs and the rendered scenes")
    p.add_argument("--out", default="runs/menagerie/pipeline", help="folder for the finished pipeline")
    p.add_argument("--scenes", type=int, default=500_000 if cuda else 48_000, help="training scenes to render")
    p.add_argument("--workers", type=int, default=multiprocessing.cpu_count(), help="rendering processes")
    for name, minutes, samples in (
        ("classifier", 5, 150_000),
        ("vae", 25, 3e6),
        ("decoder", 25, 3e6),
        ("unet", 90, 1e7),
    ):
        p.add_argument(f"--{name}-minutes", type=float, default=minutes, metavar="M")
        p.add_argument(f"--{name}-samples", type=float, default=samples, metavar="N")
    p.add_argument("--vae-channels", type=int, nargs="+", default=[16, 32, 64])
    p.add_argument("--unet-channels", type=int, nargs="+", default=[64, 128])
    p.add_argument("--unet-layers", type=int, default=1, help="residual and attention layers per block")
    p.add_argument("--vae-batch", type=int, default=128 if cuda else 4)
    p.add_argument("--decoder-batch", type=int, default=128 if cuda else 4)
    p.add_argument("--unet-batch", type=int, default=256 if cuda else 16)
    p.add_argument("--vae-rate", type=float, default=1e-3, help="peak learning rate")
    p.add_argument("--decoder-rate", type=float, default=5e-4, help="peak learning rate")
    p.add_argument("--unet-rate", type=float, default=5e-4, help="peak learning rate")
    p.add_argument("--precision", choices=("no", "bf16"), default="bf16" if cuda else "no")
    p.add_argument("--cpu", action="store_true", help="train on the CPU even where there is a GPU")
    p.add_argument("--compile", action=argparse.BooleanOptionalAction, default=cuda)
    p.add_argument("--seed", type=int, default=0)
    p.add_argument(
        "--report", type=int, default=32, metavar="SCENES", help="held-out scenes to measure in the end; 0 for none"
    )
    return p


if __name__ == "__main__":
    train(parser().parse_args())
