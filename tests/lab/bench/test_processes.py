import json
import os
import subprocess
import sys

from nmg.lab.bench import Menagerie, chosen_scales, processes, read, run
from tests.lab.bench.made import STEPS, TASK, Counting

SCRIPT = """
import dataclasses, sys, torch
from diffusers import StableDiffusionPipeline
from nmg.lab import bench

torch.set_num_threads(1)
pipe = StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None, local_files_only=True)
method = dataclasses.replace(bench.METHODS["NMG, unbounded"], grid=(1.0, 2.0))
options = {"folder": sys.argv[2], "steps": 2, "progress": False}
scales = bench.tune(pipe, bench.Menagerie(), [method], sys.argv[3:], 1, **options)
bench.run(pipe, bench.Menagerie(), ["DDIM", method], sys.argv[3:], 1, scales=scales, **options)
"""


def test_two_processes_share_the_work_and_one_can_go_on_alone(tiny, tmp_path):
    (tmp_path / "script.py").write_text(SCRIPT)
    tiny().save_pretrained(tmp_path / "model")
    out = tmp_path / "out"
    editors = {task: type(Menagerie().editor(task)) for task in Menagerie().tasks}
    other = next(task for task, editor in editors.items() if task != TASK and editor is editors[TASK])
    launch = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    words = [tmp_path / "script.py", tmp_path / "model", out, TASK, other]
    own = {"OMP_NUM_THREADS": "1", "PYTHONPATH": os.pathsep.join(sys.path), "CUDA_VISIBLE_DEVICES": ""}
    environment = {**os.environ, **own}
    done = subprocess.run([*launch, *map(str, words)], env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr
    lines = [(out / f"records-{rank}.jsonl").read_text().splitlines() for rank in (0, 1)]
    keys = [json.loads(line)["key"] for line in sum(lines, [])]
    assert len(keys) == len(set(keys)) == 2 * (2 + 4) and len(lines[0]) == len(lines[1])
    scales, name = chosen_scales(out), "NMG, unbounded"
    assert {r.scale for r in read(out) if r.method == name and r.split == "test"} == set(scales[name].values())

    # One of the two was killed while it wrote.
    torn = out / "records-1.jsonl"
    torn.write_bytes(torn.read_bytes()[:-9])
    again = Counting()
    from diffusers import StableDiffusionPipeline

    pipe = StableDiffusionPipeline.from_pretrained(tmp_path / "model", safety_checker=None, local_files_only=True)
    found = run(pipe, Menagerie(), ["DDIM", name], [TASK, other], 1, out, scales=scales, callback=again, **STEPS)
    assert len(found) == 8 and again.keys == [json.loads(lines[1][-1])["key"]]


def test_one_process_is_alone_without_torchrun(monkeypatch):
    monkeypatch.delenv("WORLD_SIZE", raising=False)
    alone = processes.joined(cpu=True)
    assert (alone.rank, alone.count, alone.first, alone.share([1, 2, 3])) == (0, 1, True, [1, 2, 3])
    shares = [processes.Processes(rank, 3).share(range(10)) for rank in range(3)]
    assert sorted(sum(map(list, shares), [])) == list(range(10))
