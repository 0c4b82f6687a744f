"""Try thousands of wrong inputs, and count what goes wrong: tracebacks, files lost, silent acceptances.

    python -m scripts.fuzz --out docs/robustness.md        (make fuzz)

Seeds are fixed. Every input is wrong by construction, or harmless: a wrong one must be refused by one clear line.
"""

from __future__ import annotations

import argparse
import contextlib
import functools
import hashlib
import io
import json
import multiprocessing
import os
import random
import struct
import tempfile
import time
import warnings
import zlib
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from unittest import mock

import torch
from PIL import Image, ImageDraw, PngImagePlugin
from safetensors import safe_open
from safetensors.torch import save_file

import nmg
from nmg import files, images, masks, pipelines
from nmg.alignment import tokenize
from nmg.backbones import Backbone
from nmg.editors import LocalBlend, MasaCtrl, PromptToPrompt
from nmg.guidance import CFG, Direct, NoiseMap, NullText
from nmg.guidance.null_text import NullTexts
from nmg.inversion import Trajectory
from nmg.lab.arguments import parser
from nmg.lab.bench.annotations import MAPPING
from nmg.lab.bench.annotations import read as read_mapping
from nmg.lab.bench.pie import PieBench
from nmg.lab.cli import main as command
from nmg.menagerie import Scene, prompt_pair
from nmg.menagerie.scene import FACTORS
from nmg.request import KEY, Request
from scripts import damage, strikes

REFUSALS = (ValueError, TypeError, OSError, FloatingPointError)
"""How the package says that it can't use an input."""
WHOLE = "whole"
"""What an input is called that is not wrong."""
SOURCE, TARGET = "a red cat in the snow, front view", "a blue cat in the snow, front view"


@dataclass
class Tally:
    """What came of the inputs of one kind; the texts say which."""

    inputs: int = 0
    tracebacks: list[str] = field(default_factory=list)
    accepted: list[str] = field(default_factory=list)
    lost: list[str] = field(default_factory=list)

    def count(self, said: str, call: Callable[[], object], wrong: bool = True) -> None:
        """Try one input, which must be refused if it is wrong, and read if it is `WHOLE`."""
        self.inputs += 1
        try:
            with warnings.catch_warnings(action="ignore"):
                call()
        except REFUSALS as error:
            if said == WHOLE:
                self.tracebacks.append(f"what is whole was refused: {error}")
            return
        except Exception as error:
            self.tracebacks.append(f"{said}: {error!r}")
            return
        if wrong and said != WHOLE:
            self.accepted.append(said)


# ---------------------------------------------------------------- what is tried


def _pipe() -> Any:
    pipe = pipelines.load("menagerie", device="cpu")
    pipe.set_progress_bar_config(disable=True)
    return pipe


def _requests(folder: Path) -> list[Request]:
    """Settings of every kind, resolved."""
    mask = Image.new("L", (64, 64))
    ImageDraw.Draw(mask).rectangle((8, 8, 40, 40), fill=255)
    mask.save(folder / "mask.png")
    given: list[dict[str, Any]] = [
        {"guidance": NoiseMap(mask=mask, outside=0.5)},
        {"guidance": NullText(10.0, 2) + NoiseMap(noise_map_scale=[3.0, 2.0])},
        {"guidance": Direct(), "editor": MasaCtrl(1, source_mask=mask, target_mask=str(folder / "mask.png"))},
        {"guidance": CFG(), "editor": MasaCtrl(0, words=("cat", "cat")), "inversion": nmg.FixedPoint()},
        {"editor": nmg.Pix2PixZero(("cat", "dog")), "inversion": nmg.Regularised()},
        {"editor": PromptToPrompt("refine", {"default_": 0.8, "blue": (0.1, 0.5)}, weights={"blue": 2.0})},
        {"editor": PromptToPrompt(local_blend=LocalBlend(("cat", ("cat", "blue")), threshold=(0.3, 0.4)))},
        {"guidance": nmg.ProxNegativePrompt(), "inversion": nmg.EditFriendly(2.0, 5)},
    ]
    scene: dict[str, Any] = {"image": "scene:7", "source": SOURCE, "targets": (TARGET,), "steps": 2}
    return [Request(**scene, **more) for more in given]


def recipes(count: int, r: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Settings in a PNG, read, opened and checked as a replay does."""
    backbone = Backbone(_pipe())
    texts = [json.loads(request.resolved(backbone).to_json()) for request in _requests(folder)]

    def read(text: str, path: Path) -> None:
        chunk = PngImagePlugin.PngInfo()
        chunk.add_itxt(KEY, text)
        Image.new("RGB", (64, 64)).save(path, pnginfo=chunk)
        request = Request.read(path).resolved(backbone)
        request.opened().check(backbone)

    for values in texts:
        yield WHOLE, lambda values=values: read(json.dumps(values), folder / "recipe.png")
    for _ in range(count):
        said, text = damage.text(r.choice(texts), r)
        yield said, lambda text=text: read(text, folder / "recipe.png")


def _saved(folder: Path) -> dict[str, tuple[Path, Callable[[Path], object]]]:
    """A file of each form, and how it is read."""
    pipe = _pipe()
    edit = nmg.edit(pipe, Scene.sample(7).render(64), SOURCE, [TARGET], steps=2, progress=False)
    edit.trajectory.save(folder / "trajectory.safetensors")
    texts = nmg.find_null_texts(pipe, edit.trajectory, NullText(2.0, 1), progress=False)
    texts.save(folder / "nulls.safetensors")
    nmg.EditDirection.between(pipe, "cat", "dog").save(folder / "direction.safetensors")
    kinds: dict[str, Any] = {"trajectory": Trajectory, "nulls": NullTexts, "direction": nmg.EditDirection}
    return {name: (folder / f"{name}.safetensors", kind.load) for name, kind in kinds.items()}


def tensors(name: str) -> Callable[..., Iterator[tuple[str, Callable[[], object]]]]:
    """Files of tensors of one form, damaged in their bytes, their tensors or what they say of them."""

    def inputs(count: int, r: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
        path, load = _saved(folder)[name]
        data, bad = path.read_bytes(), folder / "bad.safetensors"
        with safe_open(path, "pt") as file:
            metadata, held = file.metadata(), {key: file.get_tensor(key) for key in file.keys()}  # noqa: SIM118
        yield WHOLE, lambda: load(path)
        del metadata["digest"]
        yield WHOLE, lambda: (save_file(held, bad, metadata), load(bad))
        for _ in range(count):
            kind = r.choice(("bytes", "cut", "tensor", "text", "text"))
            if kind == "bytes" or kind == "cut":
                changed, said = (damage.flipped if kind == "bytes" else damage.cut)(data, r), f"{kind} changed"
                yield said, lambda changed=changed: (bad.write_bytes(changed), load(bad))
                continue
            now, texts = dict(held), dict(metadata)
            if kind == "tensor":
                key, said = r.choice(list(held)), r.choice(list(damage.TENSORS))
                now[key] = damage.TENSORS[said](held[key], r).contiguous()
            else:
                said, texts["described"] = damage.text(json.loads(metadata["described"]), r)
            yield said, lambda now=now, texts=texts: (save_file(now, bad, texts), load(bad))

    return inputs


def pictures(read: Callable[[Path], object]) -> Callable[..., Iterator[tuple[str, Callable[[], object]]]]:
    """Damaged picture files. They are refused, or read to the pixel as they were: but for forms without checksums,
    whose changed pixels nobody can tell."""

    def inputs(count: int, r: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
        whole = {}
        for form in ("PNG", "JPEG", "WEBP", "GIF", "TIFF", "BMP"):
            buffer = io.BytesIO()
            Scene.sample(7).render(64).save(buffer, form)
            whole[form] = buffer.getvalue()
        path = folder / "picture"

        def tried(data: bytes, form: str, exact: bool) -> None:
            path.write_bytes(whole[form])
            before = read(path)
            path.write_bytes(data)
            if read(path) == before or not exact:
                raise ValueError("the same picture")

        for _ in range(count):
            form, kind = r.choice(list(whole)), r.choice(("cut", "flipped", "bomb"))
            data = _bomb(r) if kind == "bomb" else getattr(damage, kind)(whole[form], r)
            exact = kind == "bomb" or form == "PNG" or (kind == "cut" and form in ("JPEG", "WEBP", "BMP"))
            yield f"{form} {kind}", lambda data=data, form=form, exact=exact: tried(data, form, exact)

    return inputs


def _bomb(r: random.Random) -> bytes:
    """A PNG that says it has billions of pixels."""
    body = b"IHDR" + struct.pack(">IIBBBBB", r.randint(10**5, 10**6), r.randint(10**5, 10**6), 8, 2, 0, 0, 0)
    end = struct.pack(">I", 0) + b"IEND" + struct.pack(">I", zlib.crc32(b"IEND"))
    return b"\x89PNG\r\n\x1a\n" + struct.pack(">I", 13) + body + struct.pack(">I", zlib.crc32(body)) + end


def pie(count: int, r: random.Random, folder: Path) -> Iterator[tuple[str, Callable[[], object]]]:
    """Folders of PIE-Bench whose mapping file or pictures are wrong."""
    place = folder / "annotation_images" / "0_random"
    place.mkdir(parents=True)
    Scene.sample(7).render(64).save(place / "1.png")
    entry: dict[str, Any] = {"image_path": "0_random/1.png", "editing_type_id": "1", "mask": [0, 100, 300, 20]}
    entry |= {"original_prompt": "a [red] cat", "editing_prompt": "a [blue] cat", "blended_word": "cat cat"}
    backbone = Backbone(_pipe())

    def read(text: str) -> None:
        (folder / MAPPING).write_text(text)
        read_mapping.cache_clear()
        suite = PieBench(folder)
        for task in suite.tasks:
            for item in suite.items(task, "test", None):
                suite.case(task, item, backbone)

    yield WHOLE, lambda: read(json.dumps({"000": entry}))
    for _ in range(count):
        if r.random() < 0.1:
            outside = r.choice(("../../secret.png", "/etc/passwd", "0_random/none.png", "C:\\x.png", "0_random"))
            yield outside, lambda path=outside: read(json.dumps({"000": entry | {"image_path": path}}))
        else:
            said, text = damage.text({"000": {**entry}}, r)
            wrong = "unknown field" not in said
            yield said if wrong else "", lambda text=text: read(text)


# ---------------------------------------------------------------- the command line

NASTY = ("nan", "inf", "-inf", "1e999", "", " ", "-1", "0", "1e9", "9" * 20, "a=b=c", "\x1b[2J", "cat", "../x")
"""Values that are wrong, or odd, for an option."""
NEVER = ("nan", "inf", "-inf", "1e999", "\x1b[2J")
"""Values that no number has."""
FILES = ("--out", "--trajectory", "--guard", "--null-texts", "--source-mask", "--target-mask", "--direction", "--force")


def lines(count: int, r: random.Random, folder: Path) -> Iterator[tuple[str, list[str], bool]]:
    """Command lines with one or two options of odd values; whether they must be refused."""
    edit = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction)).choices["edit"]
    options = [a for a in edit._actions if a.option_strings and a.nargs != 0 and a.option_strings[0] not in FILES]
    numbers = [a for a in options if a.type in (float, int)]
    names = ("in.png", "mask.png", "link.png", "edit.png", "t.safetensors", "none.png", "broken.png", ".")
    for _ in range(count):
        line = ["edit", "in.png", "--source", SOURCE, "--target", TARGET, "--steps", "1", "--size", "32x32"]
        kind, wrong = r.choice(("number", "option", "file", "file")), False
        if kind == "file":
            line += [r.choice(FILES[:6]), r.choice(names)] + r.choice(
                ([], ["--force"], ["--all"], ["--all", "--force"])
            )
            line += r.choice(([], ["--editor", "masactrl"], ["--guidance", "null-text"], ["--target", "a dog"]))
        else:
            action, value = r.choice(numbers if kind == "number" else options), r.choice(NASTY)
            line += [action.option_strings[0], *[value] * (action.nargs if isinstance(action.nargs, int) else 1)]
            wrong = kind == "number" and value in NEVER
        yield " ".join(line[9:]), line, wrong


def commands(count: int, r: random.Random, folder: Path, tally: Tally) -> None:
    """Run command lines, and compare the files that were there before with what is there after."""
    pipe = _pipe()
    nmg.invert(pipe, Scene.sample(7).render(64), SOURCE, steps=1, progress=False).save(folder / "t.safetensors")
    Scene.sample(7).render(64).save(folder / "in.png")
    _requests(folder)
    (folder / "edit.png").write_bytes(b"precious")
    (folder / "broken.png").write_bytes((folder / "in.png").read_bytes()[:300])
    (folder / "victim").write_bytes(b"precious")
    (folder / "link.png").symlink_to("victim")
    kept = ("in.png", "mask.png", "t.safetensors", "broken.png", "victim")
    before = {name: _digest(folder / name) for name in (*kept, "edit.png")}

    def run(line: list[str]) -> None:
        out, err = io.StringIO(), io.StringIO()
        with contextlib.redirect_stdout(out), contextlib.redirect_stderr(err):
            try:
                status: Any = command(line)
            except SystemExit as end:
                status = end.code
        if status or not all((folder / name).is_file() for name in out.getvalue().splitlines()):
            assert err.getvalue().strip() and "Traceback" not in err.getvalue(), "no reason was given"
            raise ValueError("refused")

    with contextlib.chdir(folder), mock.patch.object(pipelines, "load", lambda *_, **__: pipe):
        for said, line, wrong in lines(count, r, folder):
            tally.count(said, lambda line=line: run(line), wrong)
            asked = "--force" in line
            # With --force a file may be replaced that is named once, by --out: not what is read, nor a link's target.
            forced = {line[at + 1] for at, word in enumerate(line) if word == "--out" and line.count(line[at + 1]) == 1}
            for name in set(kept) - forced if asked else before:
                if _digest(folder / name) != before[name]:
                    tally.lost.append(f"{name} by {said}")
                    before[name] = _digest(folder / name)
            if asked:
                (folder / "edit.png").write_bytes(b"precious")
                (folder / "link.png").unlink(missing_ok=True)
                (folder / "link.png").symlink_to("victim")
                before |= {name: _digest(folder / name) for name in forced & before.keys()}
            tally.lost += [f"left behind: {name}" for name in os.listdir(folder) if name.startswith(".")]


def _digest(path: Path) -> str:
    return hashlib.sha256(path.read_bytes()).hexdigest() if path.is_file() else "gone"


# ---------------------------------------------------------------- words, and half precision


def words(count: int, r: random.Random) -> Tally:
    """Pairs of prompts, and a word of one: a weight on it acts, or it is refused. Silent acceptances are no-ops."""
    tally, backbone = Tally(), Backbone(_pipe())
    for i in range(count):
        scene = Scene.sample(i)
        factor = r.choice(list(FACTORS))
        source, target = prompt_pair(scene, **{factor: r.choice(FACTORS[factor])})
        word = r.choice((source + " " + target).replace(",", "").split())
        editor = PromptToPrompt(weights={word: 2.0})

        def weighed(editor: PromptToPrompt = editor, target: str = target) -> None:
            tokens = tokenize(backbone.readable(target), backbone.tokenizer)
            if not (editor.factors([tokens]) == 1).all():
                raise ValueError("it acts")

        tally.count(f"{word!r} of {target!r}", weighed)
    return tally


def half(count: int) -> Tally:
    """Edits in half precision. Silent acceptances are latents that are not finite."""
    tally, editors = Tally(), (PromptToPrompt(), MasaCtrl(0), nmg.Pix2PixZero(amount=0.1))
    for dtype in (torch.bfloat16, torch.float16):
        pipe = pipelines.load("menagerie", "cpu", dtype)
        for i in range(count // 2):
            methods = {"guidance": (NoiseMap(), CFG(7.5), Direct(7.5))[i % 3], "editor": editors[i // 3 % 3]}
            tally.count(f"{dtype}, {methods}", functools.partial(_finite, pipe, Scene.sample(i), methods))
    return tally


def _finite(pipe: Any, scene: Scene, methods: dict[str, Any]) -> None:
    colour = next(colour for colour in FACTORS["colour"] if colour != scene.colour)
    source, target = prompt_pair(scene, colour=colour)
    found = nmg.edit(pipe, scene.render(64), source, [target], steps=2, progress=False, **methods)
    if found.latents.isfinite().all():
        raise ValueError("finite")


# ---------------------------------------------------------------- the table

INPUTS: dict[str, tuple[int, Callable[..., Iterator[tuple[str, Callable[[], object]]]]]] = {
    "recipes": (400, recipes),
    "trajectories": (200, tensors("trajectory")),
    "null texts": (150, tensors("nulls")),
    "directions": (150, tensors("direction")),
    "pictures": (150, pictures(images.load)),
    "masks": (150, pictures(masks.opened)),
    "PIE-Bench folders": (150, pie),
}
"""The kinds of file, and how many are tried."""
LINES, PAIRS, EDITS, STRIKES = 200, 500, 12, 1000


def fuzzed(name: str, count: int, seed: int = 0) -> Tally:
    """Try inputs of a kind in a folder of their own."""
    tally, r = Tally(), random.Random(f"{name} {seed}")
    with tempfile.TemporaryDirectory() as place:
        if name == "command lines":
            commands(count, r, Path(place), tally)
        else:
            for said, call in INPUTS[name][1](count, r, Path(place)):
                tally.count(said, call, bool(said))
    return tally


JOBS: tuple[tuple[str, int], ...] = (
    *[("interrupts", STRIKES // 4)] * 4,
    ("edits in bf16 and fp16", EDITS),
    ("command lines", LINES),
    *((name, count) for name, (count, _) in INPUTS.items()),
    ("word pairs", PAIRS),
)
"""What is tried, the slowest first; of the same name with several seeds."""


def job(name: str, count: int, seed: int) -> Tally:
    """What came of one job."""
    torch.set_num_threads(1)
    r = random.Random(f"{name} {seed}")
    if name == "interrupts":
        pipe = _pipe()
        pipe.unet.requires_grad_(True)
        found, left = strikes.struck(pipe, count, r)
        return Tally(found, accepted=left)
    if name == "word pairs":
        return words(count, r)
    return half(count) if name.startswith("edits") else fuzzed(name, count, seed)


def every(share: float, jobs: int) -> Iterator[tuple[str, Tally]]:
    """What came of each job, in several processes."""
    with ProcessPoolExecutor(jobs, multiprocessing.get_context("spawn")) as pool:
        counts = [max(1, round(count * share)) for _, count in JOBS]
        made = {pool.submit(job, name, counts[i], i): name for i, (name, _) in enumerate(JOBS)}
        for future in as_completed(made):
            yield made[future], future.result()


def table(found: dict[str, Tally], seconds: float) -> str:
    """The page of the documentation."""
    order = {name: found[name] for name, _ in reversed(JOBS) if name in found}
    inputs = sum(tally.inputs for name, tally in found.items() if name in INPUTS or name == "command lines")
    counts = {name: (t.inputs, len(t.tracebacks), len(t.lost), len(t.accepted)) for name, t in order.items()}
    rows = "\n".join(f"| {name} | {' | '.join(map(str, numbers))} |" for name, numbers in counts.items())
    told = {"version": nmg.__version__, "inputs": inputs, "rows": rows}
    return PAGE.format(**told, minutes=max(1, round(seconds / 60)))


PAGE = """\
# Robustness

Written by `make fuzz` (nmg {version}, fixed seeds, {minutes} minutes): {inputs} wrong or odd inputs, each to be refused
by one clear line, or harmless; pairs of prompts with a word whose weight must act, or be refused; edits in half
precision, which must stay finite; and interrupts at random moments of an edit.

| what is tried | number | tracebacks | files lost | silently accepted |
|---|--:|--:|--:|--:|
{rows}

Silently accepted are, of word pairs, weights that change nothing; of edits, those that are not finite; of interrupts,
those that left a hook, a changed layer or weight on the network, or gradients switched off. Changed bytes of pictures
without checksums (all but PNG) may be read as other pixels, which nobody can tell.
"""


def main(argv: list[str] | None = None) -> None:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--out", type=Path, help="page to write")
    p.add_argument("--jobs", type=int, default=2, help="processes (default: %(default)s)")
    p.add_argument("--share", type=float, default=1.0, help="of the inputs (default: all)")
    given = p.parse_args(argv)
    begin, found = time.time(), {name: Tally() for name, _ in JOBS}
    for name, tally in every(given.share, given.jobs):
        print(f"{time.time() - begin:6.0f} s  {name}: {tally.inputs}", flush=True)
        found[name].inputs += tally.inputs
        for what in ("tracebacks", "lost", "accepted"):
            getattr(found[name], what).extend(getattr(tally, what))
            for said in getattr(tally, what):
                print(f"    {what}: {said}", flush=True)
    page = table(found, time.time() - begin)
    print(page)
    if given.out:
        files.keep(given.out, lambda part: part.write_text(page), over=True)
    if any(t.tracebacks or t.lost or t.accepted for t in found.values()):
        raise SystemExit(1)


if __name__ == "__main__":
    main()
