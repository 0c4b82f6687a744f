"""What the parts of the panel share: ipywidgets, CSS classes and styles, and widgets of a control's kind of value."""

from __future__ import annotations

import html
from pathlib import Path
from typing import Any

try:
    import ipywidgets as w
except ModuleNotFoundError as error:
    raise ModuleNotFoundError(
        "the panel needs ipywidgets; pip install 'nmg[notebook]', or use nmg.lab.panel without widgets"
    ) from error

from nmg.lab.controls import Control
from nmg.lab.values import Choice, Number, Prompt

__all__ = ["STYLE", "classed", "dropdown", "heading", "note", "say", "w", "widget_of"]

STYLE = f"<style>{(Path(__file__).parent / 'panel.css').read_text()}</style>"


def classed(widget: Any, *names: str) -> Any:
    for name in names:
        widget.add_class(f"nmg-{name}")
    return widget


def heading(words: str) -> Any:
    return classed(w.HTML(html.escape(words)), "heading")


def note(kind: str = "note") -> Any:
    """Small words below a control."""
    return classed(w.HTML(""), kind)


def say(widget: Any, words: str) -> None:
    """Show words in a note, which takes no place without any."""
    widget.value, widget.layout.display = words, "" if words else "none"


# ---------------------------------------------------------------- a control's widget


def widget_of(row: Control, follows: bool = False) -> Any:
    """The widget that turns a control.

    Args:
        follows: whether a slider tells every value that it is dragged over, or the last one alone.
    """
    value, style = row.value, _style(row.label, row.help)
    shared = {**style, "continuous_update": follows and isinstance(value, Number)}
    match value:
        case Choice():
            return w.Dropdown(options=tuple(value.options), **style)
        case Number(whole=True):
            return w.IntSlider(min=int(value.low), max=int(value.high), step=int(value.step), **shared)
        case Number():
            digits = ".2f" if value.step < 0.5 else ".1f"
            return w.FloatSlider(min=value.low, max=value.high, step=value.step, readout_format=digits, **shared)
        case Prompt(lines=lines) if lines > 1:
            return w.Textarea(rows=lines, placeholder=value.example, **shared)
    return w.Text(placeholder=value.example, **shared)


def dropdown(label: str, options: tuple[str, ...], words: str = "") -> Any:
    """A choice; `words` explain its label to who points at it."""
    return w.Dropdown(options=options, **_style(label, words))


def _style(label: str, words: str) -> dict[str, Any]:
    layout = w.Layout(width="auto", margin="2px 0")
    return {"description": label, "tooltip": words, "style": {"description_width": "114px"}, "layout": layout}
