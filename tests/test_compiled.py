"""A compiled network gives the same edits: its hooks are seen at every step."""

import subprocess
import sys

import pytest

SOURCE, TARGET = "a red cat sitting in the forest, front view", "a blue cat sitting in the forest, front view"

# In a process of its own: the tests' shape checks can't be traced.
SCRIPT = f"""
import sys, torch, nmg
from diffusers import StableDiffusionPipeline

torch.set_num_threads(1)
plain, compiled = (StableDiffusionPipeline.from_pretrained(sys.argv[1], safety_checker=None) for _ in range(2))
compiled.unet.compile(backend="eager")
picture = torch.linspace(0, 1, 3 * 32 * 32).reshape(3, 32, 32)
trajectory = nmg.invert(plain, picture, {SOURCE!r}, steps=2, progress=False)
for editor in (nmg.PromptToPrompt(cross_replace=1.0, self_replace=0.5), nmg.Editor()):
    options = dict(targets=[{TARGET!r}], guidance=nmg.CFG(2.0), editor=editor, progress=False)
    expected, found = (nmg.edit(pipe, trajectory, **options).latents for pipe in (plain, compiled))
    print(((found - expected).norm() / expected.norm()).item(), *expected[1].flatten()[:3].tolist())
assert torch._dynamo.utils.counters["stats"]["unique_graphs"] > 0, "nothing was compiled"
"""


@pytest.mark.slow
def test_every_hook_of_every_step_is_seen(tiny, tmp_path):
    tiny().save_pretrained(tmp_path)
    run = subprocess.run(
        [sys.executable, "-W", "ignore", "-c", SCRIPT, str(tmp_path)], capture_output=True, text=True, timeout=500
    )
    assert run.returncode == 0, run.stderr[-2000:]
    errors, edits = zip(
        *((float(error), edit) for error, *edit in map(str.split, run.stdout.splitlines())), strict=True
    )
    assert len(errors) == 2 and max(errors) < 1e-4
    # The editors differ, so that a hook which the compiler kept from another run would show.
    assert len(set(map(tuple, edits))) == 2
