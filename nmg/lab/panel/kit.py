"""What the parts of the panel share: ipywidgets, CSS classes and styles, and widgets of a control's kind of value."""

from __future__ import annotations

import html
from typing import Any

from PIL import Image

try:
    import ipywidgets as w
except ImportError as error:
    raise ImportError(
        "the panel needs ipywidgets; pip install 'nmg[notebook]', or use nmg.lab.panel without widgets"
    ) from error

from nmg.lab.controls import Control
from nmg.lab.panel import drawing
from nmg.lab.values import Choice, Number, Prompt

__all__ = ["STYLE", "classed", "dropdown", "heading", "note", "put", "put_png", "w", "widget_of"]

STYLE = """<style>
.nmg-panel { --nmg-line: var(--jp-border-color2, #ddd); }
.nmg-panel img { border-radius: 3px; }
.nmg-small img:not(.nmg-words):not(.nmg-distances) { image-rendering: pixelated; }
.nmg-panel .nmg-caption { line-height: 1.3; font-size: 12px; }
.nmg-panel .nmg-heading { font-weight: 600; margin-top: 2px; border-bottom: 1px solid var(--nmg-line); }
.nmg-panel .nmg-note { opacity: 0.8; }
.nmg-panel .nmg-note .widget-html-content { font-size: 12px; line-height: 1.35; }
.nmg-panel .nmg-error { color: var(--jp-error-color1, #b00020); line-height: 1.4; white-space: pre-wrap; }
.nmg-panel .nmg-code textarea { font-family: var(--jp-code-font-family, monospace); font-size: 12px; }
.nmg-panel .nmg-tried { position: relative; }
.nmg-panel .nmg-tried button { position: absolute; inset: 0; width: 100%; height: 100%; margin: 0; padding: 88px 2px 0;
  background: transparent; font-size: 11px; line-height: 13px; white-space: normal; }
.nmg-panel .nmg-tried button:hover { box-shadow: inset 0 0 0 2px var(--jp-brand-color1, #1976d2); }
.nmg-panel .nmg-tried.nmg-current button { box-shadow: inset 0 0 0 2px var(--jp-brand-color1, #1976d2); }
</style>"""


def classed(widget: Any, *names: str) -> Any:
    for name in names:
        widget.add_class(f"nmg-{name}")
    return widget


def heading(words: str) -> Any:
    return classed(w.HTML(html.escape(words)), "heading")


def note(**layout: str) -> Any:
    """Small words below a control."""
    return classed(w.HTML("", layout=w.Layout(**layout)), "note")


def put(widget: Any, picture: Image.Image, small: bool, side: int = drawing.SIDE) -> None:
    """A picture into an image widget: small ones with crisp pixels, large ones as JPEG."""
    format = "png" if small else "jpeg"
    widget.format, widget.value = format, drawing.encoded(drawing.enlarged(picture, side), format)


def put_png(widget: Any, picture: Image.Image) -> None:
    """A drawing into an image widget, at its own width."""
    widget.format, widget.value = "png", drawing.encoded(picture, "png")
    widget.layout.width = f"{picture.width}px"


# ---------------------------------------------------------------- a control's widget


def widget_of(row: Control) -> Any:
    """The widget that turns a control."""
    value, shared = row.value, {**_style(row.label), "continuous_update": False}
    match value:
        case Choice():
            return dropdown(row.label, tuple(value.options))
        case Number(whole=True):
            return w.IntSlider(min=int(value.low), max=int(value.high), step=int(value.step), **shared)
        case Number():
            digits = ".2f" if value.step < 0.5 else ".1f"
            return w.FloatSlider(min=value.low, max=value.high, step=value.step, readout_format=digits, **shared)
        case Prompt(lines=lines) if lines > 1:
            return w.Textarea(rows=lines, placeholder=value.example, **shared)
    return w.Text(placeholder=value.example, **shared)


def dropdown(label: str, options: tuple[str, ...]) -> Any:
    return w.Dropdown(options=options, **_style(label))


def _style(label: str) -> dict[str, Any]:
    layout = w.Layout(width="auto", margin="2px 0")
    return {"description": label, "style": {"description_width": "130px"}, "layout": layout}
