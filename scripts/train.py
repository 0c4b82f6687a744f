"""Train Menagerie's model: `python -m scripts.train`, or `make train`.

Stages, each resumable and each skipped once its budget is spent: the *vae*; the factor *classifier*, which reads the
autoencoder's pictures as well; the *decoder* alone (which leaves the latents as they are, so that it may go on beside
or after the UNet); the *unet* with its text encoder; the *flow* twin; then *export* of the folders. The scenes are
rendered before. A budget is given in samples or in minutes, whichever ends first, and a larger one given later
continues from the checkpoint. Matrices are trained by Muon, the rest by AdamW, in float32. Several processes train
together:

  torchrun --nproc_per_node 2 -m scripts.train --stages vae

On a GPU (`--device cuda`) the scenes are rendered beside the training, which draws from those that are there. From a
folder that was exported, such as the bundled model, its networks are trained on with `--start FOLDER`.

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
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors.torch import load_file
from torch import Tensor, nn
from tqdm.auto import tqdm

from nmg.menagerie import networks
from nmg.menagerie.model import settings
from scripts.training import flow, losses
from scripts.training.data import LATENT, Bank, Draw, to_tensor
from scripts.training.export import export, export_flow
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


SCALES = {"text_scale": 3.0}
"""The scales of noise map guidance that suit the model, chosen on validation scenes."""


class Latents:
    """The scaled mean latents of a bank's scenes, by an encoder that trains no longer.

    Attributes:
        values: fp16 [scenes, 8, 16, 16], of the scenes that are rendered so far.
        scale: what the encoder's means are multiplied with, so that they have a standard deviation of 1.
    """

    def __init__(self, vae: Any, bank: Bank, path: Path):
        self.vae, self.bank, self.path, self.ready = vae, bank, path, 0
        if path.exists():
            saved = torch.load(path, weights_only=True)
            self.values, self.scale = saved["latents"].to(bank.device), saved["scale"]
            self.ready = bank.count
            return
        bank.follow(min(bank.count, 2048))
        self.scale = 1.0
        self.scale = 1 / torch.cat([self._encoded(i) for i in range(0, min(bank.ready, 2048), 64)]).std().item()
        self.values = torch.empty(bank.count, networks.LATENT_CHANNELS, LATENT, LATENT, dtype=torch.float16)
        self.values = self.values.to(bank.device)
        self.follow()

    @torch.no_grad()
    def of(self, pictures: Tensor) -> Tensor:
        """Scaled latents of pictures [batch, 3, height, width] in -1…1."""
        return self.vae.encode(pictures).latent_dist.mean * self.scale

    def _encoded(self, start: int, end: int | None = None) -> Tensor:
        """Latents of at most 64 scenes of the bank."""
        return self.of(to_tensor(self.bank.columns["pictures"][start : min(start + 64, end or self.bank.ready)]))

    def follow(self) -> int:
        """Encode what has been rendered since; how many scenes have latents. A whole bank's are kept on disk."""
        end = self.bank.follow()
        for start in tqdm(range(self.ready, end, 64), "encode", leave=False, disable=end - self.ready < 4096):
            self.values[start : start + 64][: end - start] = self._encoded(start, end).half()
        if end == self.bank.count > self.ready:
            part = self.path.with_suffix(".part")
            torch.save({"latents": self.values.cpu(), "scale": self.scale}, part)
            part.rename(self.path)
        self.ready = end
        return end


class Training:
    """The recipe with its arguments: every network from its checkpoint, trained on if its stage is asked for."""

    def __init__(self, arguments: argparse.Namespace):
        self.given, self.folder = arguments, Path(arguments.work)
        self.folder.mkdir(parents=True, exist_ok=True)
        self.device = torch.device(arguments.device)
        torch.manual_seed(arguments.seed)
        self.bank = Bank(self.folder, arguments.scenes, arguments.workers, self.device)
        self.bank.follow(min(self.bank.count, arguments.first))
        self.tokenizer = networks.build_tokenizer(self.folder / "tokenizer")
        self.scheduler = networks.build_scheduler()

    def stage(self, name: str, network: nn.Module, loss: Any, watch: Any, tag: str = "", follow: Any = None) -> Any:
        """The averaged network of a stage, trained to its budget if it is among those asked for.

        Args:
            loss: maps how scenes are drawn to the loss.
            watch: maps the number of watched scenes and the device to the watch.
            follow: takes over what was rendered since, and gives how many scenes can be drawn.
        """
        given = self.given
        rank = dist.get_rank() if dist.is_initialized() else 0
        layout = torch.channels_last if self.device.type == "cpu" else torch.contiguous_format
        network = network.to(self.device, memory_format=layout)  # type: ignore[call-overload]
        batch = getattr(given, f"{name}_batch")
        wanted = name in given.stages
        follow = follow or self.bank.follow
        draw = Draw(self.bank, batch, follow())
        stage = Stage(
            f"{name}{tag}",
            network,
            loss(draw) if wanted else None,
            watch(given.watched, self.device) if wanted and rank == 0 else None,
            self.folder,
            RATES[name],
            batch,
            given.seed,
            warmup=given.warmup,
            follow=lambda: draw.ready.fill_(follow()),
            capture=given.capture and self.device.type == "cuda",
        )
        if not wanted:
            return stage.average
        return stage.run(Budget(getattr(given, f"{name}_samples"), getattr(given, f"{name}_minutes")), given.every)

    def begun(self, part: str, network: Any) -> Any:
        """The network with the weights that the folder to start from has of it, if one was given."""
        if self.given.start:
            (path,) = (Path(self.given.start) / part).glob("*.safetensors")
            # A text encoder's tensors have a prefix in some releases of transformers.
            saved = {name.removeprefix("text_model."): tensor.float() for name, tensor in load_file(path).items()}
            network.load_state_dict({name: saved[name.removeprefix("text_model.")] for name in network.state_dict()})
        return network

    def classifier(self, vae: Any = None) -> Any:
        """The reader of the factors; with an autoencoder, on its pictures as well."""
        network = networks.FactorClassifier()
        if self.given.start:
            network = networks.FactorClassifier.load(Path(self.given.start) / "classifier.safetensors")
        blurred = vae and (lambda pictures: vae.decode(vae.encode(pictures).latent_dist.mean).sample)
        return self.stage(
            "classifier", network, lambda draw: losses.classifier_loss(draw, blurred), losses.classifier_watch
        )

    def vae(self) -> Any:
        network = self.begun("vae", networks.build_vae(tuple(self.given.vae_channels)))
        return self.stage("vae", network, losses.vae_loss, losses.vae_watch)

    def decoder(self, vae: Any) -> Any:
        """The autoencoder with its decoder trained further, for the latents of the encoder's present state."""
        latents = self.latents(vae)
        decoder = copy.deepcopy(vae).requires_grad_(True)
        for part in (decoder.encoder, decoder.quant_conv):
            part.requires_grad_(False)
        decoder = self.stage(
            "decoder",
            decoder,
            lambda draw: losses.decoder_loss(draw, latents.values, latents.scale),
            losses.vae_watch,
            f"_{self.state_of_vae}",
            latents.follow,
        )
        decoder.register_to_config(scaling_factor=latents.scale)
        return decoder

    def unet(self, vae: Any) -> Any:
        latents = self.latents(vae)
        unet: Any = self.begun("unet", networks.build_unet(tuple(self.given.unet_channels), self.given.unet_layers))
        text = self.begun("text_encoder", networks.build_text_encoder(self.tokenizer))
        denoiser = losses.Denoiser(text, unet).to(self.device)

        def loss(draw: Draw, forward: Any = None) -> Any:
            noisy = self.given.unet_noisy
            return losses.denoiser_loss(draw, latents.values, self.tokenizer, self.scheduler, forward, noisy)

        forward = self.compiled(denoiser, loss) if self.given.compile and "unet" in self.given.stages else None
        return self.stage(
            "unet",
            denoiser,
            lambda draw: loss(draw, forward),
            lambda count, device: losses.denoiser_watch(
                latents.of,
                self.tokenizer,
                self.scheduler,
                count,
                device,
            ),
            follow=latents.follow,
        )

    def flow(self, vae: Any) -> Any:
        latents = self.latents(vae)
        first, second = (networks.build_projected_text_encoder(self.tokenizer) for _ in range(2))
        denoiser = flow.FlowDenoiser(
            (first, second), networks.build_transformer(self.given.flow_width, self.given.flow_layers)
        )
        return self.stage(
            "flow",
            denoiser,
            lambda draw: flow.flow_loss(draw, latents.values, self.tokenizer, networks.FLOW_SHIFT),
            lambda count, device: flow.flow_watch(
                latents.of,
                self.tokenizer,
                networks.FLOW_SHIFT,
                count,
                device,
            ),
            follow=latents.follow,
        )

    def compiled(self, denoiser: nn.Module, loss: Callable[..., Any]) -> Any:
        """The compiled network, once its gradients are known to be the eager one's."""
        fast, draw = torch.compile(denoiser, dynamic=False), Draw(self.bank, self.given.unet_batch, self.bank.ready)

        def found(forward: Any) -> Tensor:
            return loss(draw, forward)(denoiser, torch.Generator(self.device).manual_seed(0))[0]

        compare_gradients(denoiser, lambda: found(denoiser), lambda: found(fast))
        return fast

    @property
    def state_of_vae(self) -> int:
        """The samples that the encoder saw, which name its state: a decoder and latents belong to one."""
        return read_log(self.folder / "vae.jsonl")[-1]["samples"]

    def latents(self, vae: Any) -> Latents:
        """The latents of the scenes, kept on disk by the encoder's state."""
        return Latents(vae, self.bank, self.folder / f"latents_{self.bank.count}_{self.state_of_vae}.pt")


def train(arguments: argparse.Namespace) -> None:
    """Run every stage that is asked for and whose budget is not spent, then write the pipeline folder."""
    if int(os.environ.get("WORLD_SIZE", "1")) > 1:
        dist.init_process_group("gloo")
    torch.set_num_threads(arguments.threads)
    if arguments.device != "cpu":
        # Products in TensorFloat-32, whose error a training does not see.
        torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = torch.backends.cudnn.benchmark = True
    training, stages = Training(arguments), set(arguments.stages)
    vae = training.vae() if stages - {"classifier"} else None
    classifier = training.classifier(vae) if {"classifier", "export"} & stages else None
    decoder = training.decoder(vae) if {"decoder", "export"} & stages else None
    denoiser: Any = training.unet(vae) if {"unet", "export"} & stages else None
    twin: Any = training.flow(vae) if "flow" in stages else None
    if "export" not in stages:
        return
    out = Path(arguments.out)
    export(out, decoder, denoiser, training.tokenizer, training.scheduler, classifier)
    if twin is not None:
        export_flow(out.with_name(f"{out.name}-flow"), decoder, twin, training.tokenizer)
    parts = {"vae": vae, "unet": denoiser.unet, "text encoder": denoiser.text_encoder, "classifier": classifier}
    exported = [name for name in STAGES if name != "flow"]
    logs = {name: f"{name}_{training.state_of_vae}" if name == "decoder" else name for name in exported}
    paths = {name: training.folder / f"{log}.jsonl" for name, log in logs.items()}
    rows = {name: read_log(path) for name, path in paths.items() if path.exists()}
    (out / "nmg.json").write_text(json.dumps(settings(**SCALES), indent=2))
    (out / "training.json").write_text(json.dumps(record(arguments, parts, rows), indent=2))


def record(arguments: argparse.Namespace, parts: dict[str, nn.Module], stages: dict[str, list]) -> dict[str, Any]:
    """What the model card tells of a training, as values that JSON holds.

    Args:
        parts: the networks, whose parameters are counted.
        stages: the rows of each stage's log.
    """
    hidden = ("work", "out", "workers", "stages", "every", "threads", "watched", "first", "capture", "start")
    return {
        "settings": {k: v for k, v in vars(arguments).items() if k not in hidden},
        "rates": RATES,
        "hardware": hardware(torch.device(arguments.device)),
        "scenes": arguments.scenes,
        "parameters": {name: sum(p.numel() for p in part.parameters()) for name, part in parts.items()},
        "stages": {name: {k: rows[-1][k] for k in ("samples", "minutes")} for name, rows in stages.items()},
        "curves": {name: thinned(rows) for name, rows in stages.items()},
    }


def hardware(device: torch.device) -> str:
    cores = f"{multiprocessing.cpu_count()} CPU cores"
    return cores if device.type == "cpu" else f"{torch.cuda.get_device_name(device)}, {cores}"


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


def parser() -> argparse.ArgumentParser:
    p = argparse.ArgumentParser(
        "scripts.train", description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    p.add_argument("--work", default="runs/menagerie", help="folder for checkpoints, logs and the rendered scenes")
    p.add_argument("--out", default="runs/menagerie/pipeline", help="folder for the finished pipeline")
    everything = [*STAGES, "export"]
    p.add_argument("--stages", nargs="+", choices=everything, default=everything, help="what to do (default: all)")
    p.add_argument("--device", default="cpu", help="where the networks are trained: cpu or cuda")
    p.add_argument(
        "--start", metavar="FOLDER", help="exported model whose networks a stage without a checkpoint starts from"
    )
    p.add_argument("--first", type=int, default=4096, metavar="N", help="scenes that a GPU waits for at first")
    p.add_argument(
        "--capture", action=argparse.BooleanOptionalAction, default=True, help="replay captured steps on a GPU"
    )
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
    p.add_argument(
        "--unet-noisy",
        type=float,
        default=losses.NOISY,
        metavar="SHARE",
        help="of the training, at its beginning, on the noisier half of the timesteps alone (default: %(default)s)",
    )
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
