"""The site's pages that are made of other files."""

import argparse
from types import SimpleNamespace

import pytest

from nmg.lab.arguments import parser
from scripts import pages


def test_links_follow_their_files_to_the_site():
    text = (
        "[guide](docs/guide.md#settings) ![a panel](images/panel-ptp.png) [notebook](nmg_ptp.ipynb) [out](https://a.b)"
    )
    assert pages.linked(text, "README.md", "index.md") == (
        "[guide](guide.md#settings) ![a panel](images/panel-ptp.png) [notebook](notebooks/nmg_ptp.md) [out](https://a.b)"
    )
    text = "[code](../nmg/request.py), [`here`](speed.md), [first](../README.md), [none](nowhere.md)"
    there = "code, [`here`](../speed.md), [first](../index.md), [none](nowhere.md)"
    assert pages.linked(text, "docs/guide.md", "deep/guide.md") == there


def test_every_option_of_every_command_is_on_its_page():
    text = pages.options(parser())
    (commands,) = (action for action in parser()._actions if isinstance(action, argparse._SubParsersAction))
    for name, command in commands.choices.items():
        part = text.split(f"## `nmg {name}`\n")[1].split("\n## ")[0]
        for action in command._actions[1:]:
            assert all(f"`{flag}" in part or f", {flag}" in part for flag in action.option_strings), (name, action)
    assert "%(" not in text and "**What most edits need**" in text and "\n```bash\nnmg bench --quick" in text


def test_a_page_that_loads_from_the_network_stops_the_build(tmp_path):
    page = tmp_path / "a" / "index.html"
    page.parent.mkdir()
    fine = '<a href="https://arxiv.org"><img src="a.png"><link rel="stylesheet" href="../site.css"><script src="a.js">'
    for outside in (
        "",
        '<script src="https://a.b/c.js">',
        '<link rel="preconnect" href="https://a.b">',
        "<img src='//a'>",
    ):
        page.write_text(fine + outside)
        if outside:
            with pytest.raises(RuntimeError, match="network: .*index.html"):
                pages.on_post_build(SimpleNamespace(site_dir=tmp_path))
        else:
            pages.on_post_build(SimpleNamespace(site_dir=tmp_path))


def test_formulas_are_drawn_and_said():
    pytest.importorskip("ziamath")
    page = r'<p><span class="arithmatex">\(a &lt; b\)</span></p><div class="arithmatex">\[\sqrt{c}\]</div>'
    drawn = pages.formulas(page)
    assert "arithmatex" not in drawn and drawn.count("<svg") == 2 and "currentColor" in drawn
    assert "<title>a &lt; b</title>" in drawn and r"<title>\sqrt{c}</title>" in drawn
    assert "vertical-align: -" in drawn.split("</p>")[0] and "vertical-align" not in drawn.split("</p>")[1]


def test_a_notebook_is_a_page_with_its_pictures():
    pytest.importorskip("nbconvert")
    text, pictures = pages.notebook(pages.ROOT / "nmg_ptp.ipynb")
    assert text.startswith("# Noise Map Guidance") and "```python" in text
    assert len(pictures) >= 6 and all(f"]({name})" in text for name in pictures)
    assert all(content[:2] == b"\xff\xd8" for content in pictures.values())
