"""A folder in PIE-Bench's layout, of drawn scenes."""

import json

import numpy as np

from nmg.lab.bench import annotations
from nmg.menagerie import prompt_pair


def encode(mask):
    """Run lengths of a mask, start and length by turns."""
    edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.ravel().astype(int), [0]])))
    return [int(n) for start, end in zip(edges[::2], edges[1::2], strict=True) for n in (start, end - start)]


def write(folder, scenes):
    """A folder in PIE-Bench's layout: name → (scene, changes, type, words)."""
    mapping = {}
    for name, (scene, changes, kind, words) in scenes.items():
        source, target = prompt_pair(scene, **changes)
        (value,) = changes.values()
        path = folder / annotations.PICTURES / f"{kind}_set" / f"{name}.png"
        path.parent.mkdir(parents=True, exist_ok=True)
        scene.render().save(path)
        mapping[name] = {
            "image_path": f"{kind}_set/{name}.png",
            "original_prompt": source,
            "editing_prompt": target.replace(value, f"[{value}]"),
            "editing_instruction": f"make it {value}",
            "editing_type_id": str(kind),
            "blended_word": words,
            "mask": encode(scene.changed(scene.edit(**changes))),
        }
    (folder / annotations.MAPPING).write_text(json.dumps(mapping))
    return folder
