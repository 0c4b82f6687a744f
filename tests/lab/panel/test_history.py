"""What tells one request from another, in few words."""

import pytest

from tests.lab.panel.conftest import REQUEST, changed

history = pytest.importorskip("nmg.lab.panel.history", reason="needs ipywidgets (pip install 'nmg[notebook]')")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "as before"),
        ({"text_scale": 3.0}, "text scale 3"),
        ({"target": "a dog"}, "target dog"),
        ({"weights": {"cat": 2.0}, "steps": 3}, "steps 3, word weights cat=2"),
        ({"blend": ("cat", "cat")}, "blend words cat, cat"),
        ({"guidance": "direct"}, "guidance direct"),
        ({"noise_map_scale": (1.0, 2.0)}, "noise-map scale given"),
        ({"negative": "a bad picture"}, "negative “a bad picture”"),
    ],
)
def test_requests_are_told_apart(changes, words):
    assert history.told_apart(changed(**changes), REQUEST) == words


def test_all_that_is_in_use_is_described():
    lines = history.described(REQUEST).splitlines()
    assert "text scale: 10" in lines and "blend words: none" in lines
    assert not any(line.startswith("amount") for line in lines)
