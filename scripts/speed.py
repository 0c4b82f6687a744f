"""Time and memory of an editor at Stable Diffusion 1.4's size: `python -m scripts.speed masactrl --baseline`.

The network has the real shape and random weights: time and memory don't depend on their values. Each measurement is a
fresh process, which measures itself:

    first        an edit of a picture that was inverted and not yet edited
    again        another edit of it with the same guidance, which replays the source row
    two-targets  a first edit towards two targets: what it takes longer is a further target's
    baseline     the edit as the published code computes it (see baseline.py), with --baseline

On a CPU the pictures are not decoded, which no editor changes, and seconds are the median step's after the first. On a
GPU they are, the seconds are the whole edit's, and all is in float16. Ratios hold within one run; give --json, and
`scripts.speed_table` makes one table of several editors.

The memory is that of the tensors that live at one time, as a GPU's is counted. On a CPU it is the peak of another fresh
process, of two steps, in which glibc gives every large block back as soon as it is free: that costs time. What the
timed process peaked at, with the holes that its heap had, is kept beside it as `process_gib`.

In float32 the tensors of pix2pix-zero's baseline take 18 GiB, those of the others' 9 to 11 (computed from their sizes).
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from scripts.speed_table import by_measurement, printed

MEASURE = ("-m", "scripts.measure")
EDITORS = ("prompt-to-prompt", "masactrl", "pix2pix-zero", "none")
CHANGES = {
    "fast": "the first edit with NoiseMap.fast()",
    "jacobian-free": "the first edit with Jacobian-free noise-map guidance",
    "checkpointing": "the first edit with gradient checkpointing",
    "compile": "the first edit with a compiled network",
    "channels-last": "the first edit with the network in channels-last order",
}
GIVE_BACK = {"MALLOC_MMAP_THRESHOLD_": str(2**20)}
"""Environment in which glibc returns each block of a MiB or more to the system when it is freed."""


def has_gpu() -> bool:
    """Asked of another process, so that this one holds no memory on the GPU."""
    asked = [sys.executable, "-c", "import torch; print(torch.cuda.is_available())"]
    return subprocess.run(asked, capture_output=True, text=True).stdout.strip() == "True"


def measured(editor: str, measurement: str, options: list[str], give_back: bool = False) -> dict[str, Any]:
    """The row of one fresh process.

    Args:
        give_back: whether glibc keeps no large block that is free.

    Raises:
        RuntimeError: if it fails, with the end of what it said.
    """
    command = [sys.executable, *MEASURE, editor, measurement, *options]
    done = subprocess.run(command, capture_output=True, text=True, env=os.environ | (GIVE_BACK if give_back else {}))
    if done.returncode:
        killed = ", killed: out of memory perhaps" if done.returncode == -9 else ""
        said = "\n".join(done.stderr.splitlines()[-5:])
        raise RuntimeError(f"{editor}, {measurement}: exit {done.returncode}{killed}\n{said}")
    return json.loads(done.stdout.splitlines()[-1])


def arguments_of(words: list[str] | None = None) -> argparse.Namespace:
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("editor", choices=EDITORS)
    p.add_argument("--baseline", action="store_true", help="measure the published code, too")
    for change, what in CHANGES.items():
        p.add_argument(f"--{change}", action="append_const", dest="changes", const=change, help=f"measure {what}, too")
    p.add_argument("--steps", type=int, help="3 on a CPU and 50 on a GPU if not given")
    p.add_argument("--rounds", type=int, default=1, help="how often each measurement is made, in turn")
    p.add_argument("--device", choices=("cpu", "cuda"), help="a GPU where there is one, if not given")
    p.add_argument("--dtype", choices=("float32", "float16", "bfloat16"))
    p.add_argument("--threads", type=int, help="of torch on a CPU")
    p.add_argument("--pixels", type=int, metavar="N", help="width and height, multiples of 64 (default: 512)")
    p.add_argument("--small", action="store_true", help="a small network, to try the benchmark out")
    p.add_argument("--json", type=Path, metavar="FILE", help="append the rows to a file, one JSON object a line")
    return p.parse_args(words)


def rows_of(
    editor: str, measurements: list[str], options: list[str], steps: int, gpu: bool
) -> Iterator[dict[str, Any]]:
    """A row for each measurement that succeeds, as soon as it does; says of the others why they don't."""
    memory: dict[str, dict[str, Any]] = {}
    with tempfile.TemporaryDirectory() as folder:

        def asked(measurement: str, count: int) -> list[str]:
            """Options for as many steps; who replays the source row replays what the first recorded."""
            path = str(Path(folder) / f"recorded-{count}.safetensors")
            paths = {"first": ["--keep", path], "again": ["--path", path]}.get(measurement, [])
            return [*options, "--steps", str(count), *paths]

        for measurement in measurements:
            try:
                if not gpu and measurement not in memory:
                    # The second step has what the first one left: sums of maps, and the baseline's gradients of
                    # weights.
                    few = asked(measurement, min(steps, 2))
                    memory[measurement] = measured(editor, measurement, few, give_back=True)
                row = measured(editor, measurement, asked(measurement, steps))
            except RuntimeError as error:
                print(error, file=sys.stderr)
                continue
            if not gpu:
                held = {key: memory[measurement][key] for key in ("peak_gib", "loaded_gib")}
                row |= {"process_gib": row["peak_gib"]} | held
            yield row


def main() -> None:
    given = arguments_of()
    device = given.device or ("cuda" if has_gpu() else "cpu")
    gpu = device == "cuda"
    options = ["--device", device, "--dtype", given.dtype or ("float16" if gpu else "float32")]
    options += [*(["--threads", str(given.threads)] if given.threads else []), *(["--small"] if given.small else [])]
    options += [*(["--pixels", str(given.pixels)] if given.pixels else []), *(["--decode"] if gpu else [])]
    measurements = [*(["baseline"] if given.baseline else []), "first", "again", "two-targets", *(given.changes or [])]

    rows, started = [], datetime.now(UTC).isoformat(timespec="seconds")
    for row in rows_of(given.editor, measurements * given.rounds, options, given.steps or (50 if gpu else 3), gpu):
        line = f"{row['measurement']}: {row['seconds_per_step']:.3g} s a step, {row['peak_gib']:.3g} GiB"
        print(line, file=sys.stderr)
        rows.append(row | {"run": started})
        if given.json:
            with given.json.open("a") as file:
                file.write(json.dumps(rows[-1]) + "\n")
    if not rows:
        sys.exit("nothing could be measured")
    print(printed(by_measurement(rows)))


if __name__ == "__main__":
    main()
