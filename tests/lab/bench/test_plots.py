import dataclasses
import math

import numpy as np
import pytest
from PIL import Image

from nmg.lab.bench import plots, sheets
from nmg.lab.bench.groups import gather
from tests.lab.bench.made import only, record, several


def drawn(figure):
    figure.dpi = 40
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_every_editor_has_its_figures(folder):
    paths = plots.write_figures(folder)
    assert [path.name for path in paths] == [f"{kind}-prompttoprompt.png" for kind in ("methods", "plane", "sheet")]
    for path in paths:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_figures_follow_the_data(folder):
    found = gather(folder)
    better = [
        dataclasses.replace(r, metrics={**r.metrics, "psnr": r.metrics["psnr"] + 9 * (r.method == "NMG") * int(r.item)})
        for r in found
    ]
    for draw in (plots.methods, plots.plane, lambda group: sheets.sheet(group, folder)):
        first, again, other = (drawn(draw(only(records))) for records in (found, found, better))
        np.testing.assert_array_equal(first, again)
        assert first.shape != other.shape or (first != other).any()


def test_scales_are_joined_by_a_curve():
    found = [
        record("NMG", i, scale=s, metrics={"psnr": s + i, "success": 1.0, "reconstruction_psnr": 2 * s + i})
        for s in (1.0, 3.0, 10.0)
        for i in range(3)
    ]
    axes = plots.plane(only(found)).axes
    assert len(axes) == 2
    np.testing.assert_allclose(axes[0].lines[0].get_xdata(), [3.0, 7.0, 21.0])
    np.testing.assert_allclose(axes[0].lines[0].get_ydata(), [2.0, 4.0, 11.0])
    assert [text.get_text() for text in axes[0].texts] == ["1", "3", "10"]


def test_what_is_exact_stands_at_the_edge():
    metric = "reconstruction_psnr"
    found = several(metric=metric, DDIM=[20, 30], Direct=[math.inf, math.inf])
    found = [dataclasses.replace(r, metrics={**r.metrics, "psnr": 15.0 + i}) for i, r in enumerate(found)]
    (axes,) = plots.plane(only(found)).axes
    ends = [line.get_xdata()[0] for line in axes.lines]
    assert ends[0] == 25 and ends[1] > 30
    assert axes.get_xticks()[-1] == ends[1] and max(axes.get_xticks()[:-1]) <= 30
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "exact"
    # One exact item of two makes the mean infinite, and the interval reaches back.
    chart = plots.methods(only([*found, *several(metric=metric, NMG=[math.inf, 40])]), [metric])
    assert [label.get_text() for label in chart.axes[0].get_xticklabels()][-1] == "∞"


def test_methods_at_one_place_stand_side_by_side():
    places = {"DDIM": (20, 19), "NMG": (53.7, 21), "Direct": (60, 21.1), "NMG, fast": (53.7, 21)}
    found = [
        record(name, i, metrics={"reconstruction_psnr": x, "psnr": y + i})
        for name, (x, y) in places.items()
        for i in (0, 1)
    ]
    (axes,) = plots.plane(only(found)).axes
    axes.figure.draw_without_rendering()
    seen = {line.get_label(): line.get_transform().transform(line.get_xydata())[0] for line in axes.lines}
    exact = {label: axes.transData.transform((x, y + 0.5)) for label, (x, y) in places.items()}
    shifts = {label: (seen[label] - exact[label])[0] * 72 / axes.figure.dpi for label in places}
    half = plots.ASIDE / 2
    assert shifts == pytest.approx({"DDIM": 0, "NMG": -half, "Direct": 0, "NMG, fast": half})
    # One point is no curve.
    assert all(line.get_linewidth() == 0 for line in axes.lines)


def test_a_chart_says_its_text_scale():
    settings = {"guidance": {"method": "CFG", "text_scale": 7.5}}
    assert (
        plots.methods(only([record(metrics={"psnr": 20.0}, settings=settings)]))
        .get_suptitle()
        .endswith("1 item, test split, 2 steps, text scale 7.5")
    )


def test_a_single_edit_that_is_exact_stands_at_the_edge_too():
    metric = "reconstruction_psnr"
    (own,) = several(metric=metric, Direct=[math.inf])
    found = only([dataclasses.replace(own, metrics={"psnr": 20.0})])
    for figure in (plots.plane(found), plots.methods(found, [metric])):
        axes = figure.axes[0]
        assert axes.lines[0].get_xdata()[0] == axes.get_xticks()[-1] and axes.get_xlim()[1] > axes.get_xticks()[-1]
        assert [label.get_text() for label in axes.get_xticklabels()] == ["exact"]


def test_a_method_looks_the_same_everywhere():
    assert plots.style("NMG") == plots.style("NMG, scale 3")
    colour, marker = plots.style("NMG, regularised")
    assert colour == plots.style("NMG")[0] and marker != plots.style("NMG")[1]
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)


def test_a_chart_without_its_metrics_is_none():
    bare = only([record(metrics={"kept": 1.0})])
    assert plots.methods(bare) is None and plots.plane(bare) is None
    assert plots.methods(bare, ["kept"]) is not None
