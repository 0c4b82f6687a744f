"""Draw docs/architecture.png: the floors, and the way of a picture through the code.

python -m scripts.architecture
"""

from __future__ import annotations

from pathlib import Path

from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.patches import FancyBboxPatch

FLOORS = (
    ("scripts", "train · evaluate · measure", 0.0, 9.0, 12.0, "#e8e8e8"),
    ("nmg.lab", "profile · controls · cli · figures · metrics · bench · panel", 0.0, 7.5, 12.0, "#dbe9f6"),
    ("nmg.menagerie", "the bundled world", 9.0, 0.4, 3.0, "#e4f1df"),
    ("nmg", "the method", 0.0, 0.4, 8.7, "#fdf0d5"),
)
"""Name, content, left, bottom, width, colour."""
WAY = (
    ("Request", "resolved and\nchecked once", 0.3, 4.3),
    ("Backbone", "picture and text\nto tensors", 3.15, 4.3),
    ("Inversion", "noise maps:\na Trajectory", 6.0, 4.3),
    ("denoise: the loop", "a step for\nevery level", 6.0, 2.5),
    ("Guidance", "source row on\nits noise maps", 3.15, 2.5),
    ("Editor", "what targets take\nfrom the source", 0.3, 2.5),
    ("attending", "hooks for one\nnetwork call", 0.3, 0.7),
    ("transfer", "one step\ndown", 3.15, 0.7),
    ("pictures", "decoded, with the\nrequest inside", 6.0, 0.7),
)
WIDTH, HEIGHT = 2.35, 1.35


def box(axes: Axes, left: float, bottom: float, width: float, height: float, colour: str) -> None:
    style = "round,pad=0,rounding_size=0.12"
    axes.add_patch(FancyBboxPatch((left, bottom), width, height, style, facecolor=colour, edgecolor="#555555"))


def draw(path: Path) -> None:
    figure = Figure(figsize=(9, 7.6), dpi=100)
    FigureCanvasAgg(figure)
    axes = figure.add_axes((0.01, 0.01, 0.98, 0.98), xlim=(-0.1, 12.1), ylim=(0.2, 10.3))
    axes.axis("off")
    for name, content, left, bottom, width, colour in FLOORS:
        height = 1.2 if bottom > 1 else 6.5
        box(axes, left, bottom, width, height, colour)
        axes.text(left + 0.3, bottom + height - 0.4, name, size=13, weight="bold", va="center")
        axes.text(left + 0.3, bottom + height - 0.85, content, size=11, va="center")
    arrow = {"arrowstyle": "-|>", "color": "#333333", "lw": 1.4}
    for x, start, end in ((6, 9.0, 8.7), (4, 7.5, 6.9), (10.5, 7.5, 6.9)):
        axes.annotate("", (x, end), (x, start), arrowprops=arrow)
    axes.text(4.2, 7.2, "imports go down", size=10, va="center")
    for name, what, left, bottom in WAY:
        box(axes, left, bottom, WIDTH, HEIGHT, "white")
        axes.text(left + WIDTH / 2, bottom + 1.08, name, size=11, weight="bold", ha="center", va="center")
        axes.text(left + WIDTH / 2, bottom + 0.45, what, size=10, ha="center", va="center")
    for (_, _, x, y), (_, _, to_x, to_y) in zip(WAY, WAY[1:], strict=False):
        if y == to_y:
            start, end = (x + WIDTH, to_x) if to_x > x else (x, to_x + WIDTH)
            axes.annotate("", (end, y + HEIGHT / 2), (start, y + HEIGHT / 2), arrowprops=arrow)
        else:
            axes.annotate("", (x + WIDTH / 2, to_y + HEIGHT), (x + WIDTH / 2, y), arrowprops=arrow)
    # Back from the step to the loop, for the next level.
    axes.annotate("", (6.3, 2.5), (5.2, 2.05), arrowprops=arrow | {"linestyle": "dashed"})
    axes.text(6.2, 2.24, "next level", size=10, va="center")
    world = "scenes, tasks,\ntheir exact edits,\nand a small model\nthat runs on a CPU"
    axes.text(9.3, 4.9, world, size=11, va="center")
    figure.savefig(path)


if __name__ == "__main__":
    draw(Path(__file__).parent.parent / "docs" / "architecture.png")
