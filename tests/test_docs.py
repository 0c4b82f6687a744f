"""The README and the site say what is so: commands and snippets run, tables are what their commands print."""

import re
import shlex
import tomllib
from importlib.util import find_spec
from pathlib import Path

import pytest

import nmg
from nmg.lab import cli
from nmg.lab.arguments import parser
from nmg.lab.top import SHELLS
from scripts import speed_table, summary
from tests.notebooks import ROOT

PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
RUN = ("README.md", "benchmark.md", "guide.md", "panel.md")
"""Pages whose Python runs here; the others' names models that are not at hand, and is read only."""
STEPS = 5
"""Of an edit, where the pages take the default."""


def blocks(page: Path, language: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[list[str]]:
    """The words of every command of a page."""
    lines = [line for block in blocks(page, "bash") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines for part in line.split("&&") if (words := shlex.split(part, comments=True))]


@pytest.fixture
def quick(tmp_path, monkeypatch):
    """A folder with the photographs in it, and few steps."""
    (tmp_path / "images").symlink_to(ROOT / "images")
    monkeypatch.chdir(tmp_path)

    def few(function):
        def called(pipe, image, *args, **options):
            if not isinstance(image, nmg.Trajectory | nmg.Request):
                options["steps"] = min(options.get("steps", STEPS), STEPS)
            return function(pipe, image, *args, **options | {"progress": False})

        return called

    for name in ("edit", "invert"):
        monkeypatch.setattr(nmg, name, few(getattr(nmg, name)))


# ---------------------------------------------------------------- the README


def test_the_readme_is_short():
    assert len((ROOT / "README.md").read_text().split()) <= 900


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_lead_somewhere(page):
    links = re.findall(r"\]\((?!https?:|#)([^)#\s]+)", re.sub(r"^```.*?^```", "", page.read_text(), flags=re.S | re.M))
    assert [link for link in links if not (page.parent / link).exists()] == []


# ---------------------------------------------------------------- snippets and commands


@pytest.mark.slow
@pytest.mark.parametrize("name", RUN)
def test_snippets_run_one_after_the_other(quick, monkeypatch, unchecked, name):
    pytest.importorskip("ipywidgets")
    from nmg.lab.panel import widgets

    panel = widgets.panel
    monkeypatch.setattr(widgets, "panel", lambda *args, **options: panel(*args, **options | {"start": False}))
    (page,) = (page for page in PAGES if page.name == name)
    snippets, names = blocks(page, "python"), {}
    assert snippets
    for snippet in snippets:
        exec(compile(snippet, name, "exec"), names)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name not in RUN], ids=lambda page: page.name)
def test_other_snippets_are_python(page):
    for snippet in blocks(page, "python"):
        compile(snippet, page.name, "exec")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_commands_name_what_there_is(page, capsys):
    extras = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]["optional-dependencies"]
    makefile = (ROOT / "Makefile").read_text()
    for words in commands(page):
        match words:
            case ["nmg", *_, "--help"]:
                with pytest.raises(SystemExit, match="0"):
                    parser().parse_args(words[1:])
            case ["nmg", "--print-completion", shell, ">", _]:
                assert shell in SHELLS
            case ["nmg", *arguments] | ["torchrun", "--nproc_per_node", _, "-m", "nmg", *arguments]:
                parser().parse_args(arguments)
            case ["make", target]:
                assert re.search(rf"^{target}:", makefile, re.MULTILINE)
            case ["python", "-m", module, *_]:
                assert find_spec(module)
            case ["pytest", file]:
                assert (ROOT / file).exists()
            case ["pip" | "uv", *_, last]:
                assert set(re.findall(r"\[(\w+)\]", last)) <= extras.keys()
            case ["conda", "env", "create", "-f", file]:
                assert (ROOT / file).exists()
            case _:
                assert words in (["conda", "activate", "nmg"], ["jupyter", "lab"], ["git", "clone", "$URL"]), words


@pytest.mark.slow
@pytest.mark.parametrize("name", ["README.md", "command-line.md"])
def test_edits_of_the_command_line_run(quick, unchecked, name):
    (page,) = (page for page in PAGES if page.name == name)
    for table in blocks(page, "csv"):
        Path("edits.csv").write_text(table)
    ran = 0
    for program, *words in commands(page):
        if program == "nmg" and words[0] in ("edit", "invert", "replay") and not {"--help", "--caption"} & {*words}:
            few = [] if "--trajectory" in words or words[0] == "replay" else ["--steps", str(STEPS)]
            assert cli.main([*words, *few]) == 0, words
            ran += 1
    assert ran >= 3 and list(Path().glob("*.png"))


# ---------------------------------------------------------------- numbers


def test_tables_are_what_their_commands_print():
    rows = (ROOT / "docs/speed-cpu.jsonl").read_text().splitlines()
    printed = speed_table.markdown(map(speed_table.json.loads, rows))
    assert printed.strip() in (ROOT / "docs/speed.md").read_text()
    for table in summary.printed().split("\n\n"):
        assert table in (ROOT / "docs/benchmark.md").read_text()


def test_the_package_lists_what_it_offers():
    assert {"load", "NoiseMapGuidancePipeline", "edit", "__version__"} <= set(dir(nmg))
    assert set(nmg.__all__) <= set(dir(nmg))
    assert all(hasattr(nmg, name) for name in dir(nmg))
