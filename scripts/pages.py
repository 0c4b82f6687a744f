"""What the site has beside docs/: pages made of other files of the repository, the command line's options, formulas.

A hook of mkdocs (see mkdocs.yml). `make docs` builds the site into build/site; a page that would load anything from the
network stops the build.
"""

from __future__ import annotations

import argparse
import html
import os
import re
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any
from xml.etree import ElementTree

ROOT = Path(__file__).parent.parent
MADE = {
    "README.md": "index.md",
    "CONTRIBUTING.md": "contributing.md",
    "CHANGELOG.md": "changes.md",
    "nmg/menagerie/weights/README.md": "bundled.md",
    **{path.name: f"notebooks/{path.stem}.md" for path in sorted(ROOT.glob("nmg_*.ipynb"))},
}
"""Pages of files outside docs/, by the file."""
FIGURES = {
    "nmg/menagerie/weights/training.png": "images/training.png",
    **{f"images/{path.name}": f"images/{path.name}" for path in sorted(ROOT.glob("images/*.png"))},
}
"""Pictures outside docs/ that pages show, by the file."""
OPTIONS = "<!-- The options of every command stand here on the site. -->"
LINK = re.compile(r"(!?)\[([^\]]*)\]\((?!https?:|mailto:|#)([^)#\s]+)(#[^)\s]*)?\)")
FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)
SIZE = 20
"""Units of a drawn formula in the height of its text."""
OUTSIDE = re.compile(
    r"""<(?:script|img|iframe|source)\b[^>]*?\ssrc=["']?(?:https?:)?//|<link\b[^>]*?\shref=["']?https?://"""
)


# ---------------------------------------------------------------- what mkdocs calls


def on_files(files: Any, config: Any) -> Any:
    """Add the pages and pictures that are outside docs/."""
    from mkdocs.structure.files import File

    for source, page in MADE.items():
        if source.endswith(".ipynb"):
            text, pictures = notebook(ROOT / source)
            for name, content in pictures.items():
                files.append(File.generated(config, f"notebooks/{name}", content=content))
        else:
            text = (ROOT / source).read_text()
        files.append(File.generated(config, page, content=text))
    for source, place in FIGURES.items():
        files.append(File.generated(config, place, abs_src_path=str(ROOT / source)))
    return files


def on_page_markdown(markdown: str, page: Any, **_: Any) -> str:
    """Lead links to where the site has their files, and put the options in their place."""
    from nmg.lab.arguments import parser

    place = page.file.src_uri
    source = next((source for source, made in MADE.items() if made == place), f"docs/{place}")
    if OPTIONS in markdown:
        markdown = markdown.replace(OPTIONS, options(parser()))
    if place.endswith("/table.md"):
        # A footnote's mark, such as [1], is no link.
        markdown = re.sub(r"\[(\d+)\]", r"\\[\1\\]", markdown)
    return linked(markdown, source, place)


def on_page_content(html: str, **_: Any) -> str:
    """Draw the formulas."""
    return formulas(html)


def on_post_build(config: Any) -> None:
    """Raise for a page that loads something from the network."""
    pages = [path for path in Path(config.site_dir).rglob("*.html") if OUTSIDE.search(path.read_text())]
    if pages:
        raise RuntimeError(f"these pages load files from the network: {', '.join(map(str, pages))}")


# ---------------------------------------------------------------- pages


def linked(text: str, source: str, place: str) -> str:
    """The Markdown of the file `source` for the page `place`; of a link to a file that is no page the words stay."""

    def moved(match: re.Match[str]) -> str:
        picture, words, target, anchor = match.groups()
        file = os.path.normpath(os.path.join(os.path.dirname(source), target))
        if not (ROOT / file).exists():
            return match[0]
        there = file.removeprefix("docs/") if file.startswith("docs/") else (MADE | FIGURES).get(file)
        if there is None:
            return words
        return f"{picture}[{words}]({os.path.relpath(there, os.path.dirname(place) or '.')}{anchor or ''})"

    return LINK.sub(moved, text)


def notebook(path: Path) -> tuple[str, dict[str, bytes]]:
    """A notebook with its outputs as Markdown, and its pictures by their names."""
    from nbconvert import MarkdownExporter

    text, resources = MarkdownExporter().from_filename(
        str(path), {"unique_key": path.stem, "output_files_dir": path.stem}
    )
    return text.replace("![jpeg](", "![What the cell above shows]("), resources["outputs"]


def formulas(page: str) -> str:
    """A page with its formulas, which arithmatex marked, as drawings; their LaTeX is what a screen reader says."""
    return FORMULA.sub(lambda match: _drawn(html.unescape(match[3]).strip(), block=match[2] == "["), page)


def _drawn(latex: str, block: bool) -> str:
    import ziamath

    # Whole paths: a glyph that several drawings of a page share would have the first one's size.
    ziamath.config.svg2 = False
    formula = ziamath.Latex(latex, SIZE, color="currentColor", inline=not block, title=latex)
    drawing = formula.svgxml()
    width, height = (float(drawing.attrib.pop(side)) / SIZE for side in ("width", "height"))
    drop = "" if block else f"; vertical-align: {(formula.getyofst() - formula.margin) / SIZE:.3f}em"
    drawing.attrib |= {
        "role": "img",
        "class": "formula block" if block else "formula",
        "style": f"width: {width:.3f}em; height: {height:.3f}em{drop}",
    }
    return ElementTree.tostring(drawing, encoding="unicode")


# ---------------------------------------------------------------- the command line


def options(parser: argparse.ArgumentParser) -> str:
    """Every command of a parser with its options, in Markdown."""
    (commands,) = (action for action in parser._actions if isinstance(action, argparse._SubParsersAction))
    return "\n\n".join(part for name, command in commands.choices.items() for part in _command(name, command))


def _command(name: str, command: argparse.ArgumentParser) -> Iterator[str]:
    yield f"## `nmg {name}`"
    yield _prose(command.description or "")
    form = command._get_formatter()
    for group in command._action_groups:
        rows = [action for action in group._group_actions if not isinstance(action, argparse._HelpAction)]
        if rows and group.title:
            yield f"**{group.title[0].upper()}{group.title[1:]}**"
        for action in rows:
            words = form._expand_help(action) if action.help else "the file or name to work on"
            yield f"`{form._format_action_invocation(action)}`\n:   {words}"
    yield _prose(command.epilog or "")


def _prose(text: str) -> str:
    """A description or an epilog, whose indented paragraphs are commands."""
    return "\n\n".join(
        f"```bash\n{textwrap.dedent(part)}\n```" if part.startswith("  ") else part
        for part in text.strip("\n").split("\n\n")
    )
