import csv
import dataclasses
import itertools
import json
import math

import numpy as np
import pytest
from PIL import Image

from nmg.lab.bench import plots, published, tables
from nmg.lab.bench.records import Record, Writer
from nmg.lab.scoring import INFINITE


def record(method="DDIM", item=0, task="colour change", suite="menagerie", split="test", **fields):
    """A record of the bundled world that says little; `fields` overrides."""
    scale = fields.get("scale")
    own = {
        "key": f"{suite}/{split}/{task}/{item}/{method}/{scale}",
        "editor": "PromptToPrompt",
        "scale": None,
        "steps": 2,
        "source": "a red cat in the forest",
        "target": "a blue cat in the forest",
        "device": "cpu",
        "version": "0",
        "model": "menagerie@0",
    }
    return Record(suite=suite, split=split, task=task, item=item, method=method, **{**own, **fields})


def several(**psnr):
    """Records of methods, of which each has a PSNR per item."""
    names = {"NTI_NMG": "NTI + NMG"}
    return [
        record(names.get(method, method), item, metrics={"psnr": value})
        for method, values in psnr.items()
        for item, value in enumerate(values)
    ]


def only(records):
    """The group of all tasks, of records with one editor."""
    return tables.group(records)[0]


def rows(table):
    """A markdown table's cells by the first of each row."""
    lines = [line.strip("| ").split(" | ") for line in table.splitlines() if line.startswith("|")]
    return {cells[0]: dict(zip(lines[0], cells, strict=True)) for cells in lines[2:]}


# ---------------------------------------------------------------- statistics


def test_the_interval_of_two_values_is_that_of_all_resamples():
    # Of 0 and 1, the resampled means 0, 1/2 and 1 have the weights 1/4, 1/2 and 1/4: each tail holds more than 2.5 %.
    found = tables.bootstrap([0.0, 1.0])
    assert (found.n, found.mean, found.low, found.high) == (2, 0.5, 0.0, 1.0)
    # At 40 % each tail of 30 % is beyond the outer quarter.
    inner = tables.bootstrap([0.0, 1.0], level=0.4)
    assert (inner.low, inner.high) == (0.5, 0.5)


def test_an_end_is_the_share_s_quantile_of_every_resample():
    values = np.array([1.0, 2.0, 4.0, 8.0])
    means = np.sort([np.mean(drawn) for drawn in itertools.product(values, repeat=4)])
    exact = [means[math.ceil(share * len(means)) - 1] for share in (0.025, 0.975)]
    found = tables.bootstrap(values, resamples=100_000)
    np.testing.assert_allclose([found.low, found.high], exact, atol=0.26)


def test_the_bootstrap_is_the_same_every_time_and_another_with_another_seed():
    values = np.random.default_rng(1).normal(size=20)
    assert tables.bootstrap(values) == tables.bootstrap(list(values))
    assert tables.bootstrap(values) != tables.bootstrap(values, seed=1)
    narrow, wide = tables.bootstrap(values, level=0.5), tables.bootstrap(values)
    assert wide.low < narrow.low < wide.mean < narrow.high < wide.high


def test_equal_values_and_infinite_ones_keep_their_mean():
    assert dataclasses.astuple(tables.bootstrap([3.0] * 5)) == (5, 3.0, 3.0, 3.0, 0)
    assert dataclasses.astuple(tables.bootstrap([math.inf] * 3)) == (3, math.inf, math.inf, math.inf, 3)
    some = tables.bootstrap([1.0, 2.0, math.inf])
    assert (some.mean, some.low, some.high, some.exact) == (math.inf, 1.0, math.inf, 1)


def test_items_of_a_scene_are_drawn_together():
    # Two tasks on the same two scenes say as much as one.
    values = {(task, scene): value for task in "ab" for scene, value in (("1", 0.0), ("2", 1.0))}
    found, free = tables.pooled(values), tables.bootstrap(list(values.values()), level=0.8)
    assert (found.n, found.mean, found.low, found.high) == (4, 0.5, 0.0, 1.0)
    assert free.low > 0 and free.high < 1
    assert math.isnan(tables.pooled({("a", "1"): 1.0, ("b", "1"): 2.0}).low)
    # A scene of more items has more weight.
    assert tables.pooled({("a", "1"): 0.0, ("b", "1"): 0.0, ("a", "2"): 3.0}).mean == 1
    one = {("a", str(i)): float(i) for i in range(5)}
    assert tables.pooled(one) == tables.bootstrap(list(one.values()))


def test_one_value_has_no_interval_and_proves_nothing():
    found = tables.bootstrap([3.0])
    assert found.mean == 3.0 and math.isnan(found.low) and math.isnan(found.high) and not found.excludes_zero
    with pytest.raises(ValueError, match="no value"):
        tables.bootstrap([])


def test_a_difference_is_paired_by_item():
    # The items differ far more than the methods do: only pairs show it.
    base = {("task", str(i)): 10.0 * i for i in range(8)}
    other = {item: value + 1 for item, value in base.items()}
    found = tables.difference({**other, ("task", "unmatched"): 999.0}, base)
    assert (found.n, found.mean, found.low, found.high) == (8, 1.0, 1.0, 1.0) and found.excludes_zero
    assert not tables.difference(base, base).excludes_zero
    assert tables.difference({("task", "a"): 1.0}, base) is None
    assert tables.difference({("task", "0"): math.inf}, {("task", "0"): math.inf}).mean == 0
    one, other = ({("t", "0"): a, ("t", "1"): b} for a, b in ((math.inf, 1.0), (1.0, math.inf)))
    assert tables.difference(one, other) is None


# ---------------------------------------------------------------- grouping


def test_rows_stand_in_order():
    shuffled = several(ceiling=[9], mine=[5], NMG=[3], DDIM=[2], identity=[1])
    assert list(only(shuffled).rows) == ["identity", "DDIM", "NMG", "mine", "ceiling"]


def test_an_editor_has_a_group_of_all_and_one_per_task():
    found = [record(task="colour change"), record(task="object swap"), record(task="pose", editor="MasaCtrl")]
    groups = [(one.editor, one.task, len(one.rows["DDIM"])) for one in tables.group(found)]
    assert groups == [
        ("PromptToPrompt", None, 2),
        ("PromptToPrompt", "colour change", 1),
        ("PromptToPrompt", "object swap", 1),
        ("MasaCtrl", None, 1),
        ("MasaCtrl", "pose", 1),
    ]


def test_scales_of_a_method_have_a_row_each():
    found = [record("NMG", scale=scale, metrics={"psnr": scale}) for scale in (30.0, 3.0)]
    assert list(only(found).rows) == ["NMG, scale 3", "NMG, scale 30"]
    assert list(only(found[:1]).rows) == ["NMG"]


def test_the_test_split_is_reported_and_the_first_of_a_key_counts():
    first, again = record(metrics={"psnr": 1.0}), record(metrics={"psnr": 2.0})
    chosen = tables.gather([first, again, record(split="validation")])
    assert chosen == [first]
    assert tables.gather([first, record(split="validation")], "validation")[0].split == "validation"
    with pytest.raises(ValueError, match="no record of the validation split"):
        tables.gather([first], "validation")


# ---------------------------------------------------------------- tables


def test_the_best_method_is_bold_and_bounds_are_not():
    found = several(identity=[50, 50], DDIM=[10, 12], NMG=[20, 22], ceiling=[90, 90])
    table = rows(tables.markdown(only(found)))
    assert table["NMG"]["PSNR ↑"] == "**21.00** [20.00, 22.00]"
    assert [name for name, cells in table.items() if "**" in cells["PSNR ↑"]] == ["NMG"]
    assert table["identity"]["n"] == "2"


def test_a_method_of_fewer_items_is_never_bold():
    table = rows(tables.markdown(only(several(DDIM=[10, 12], NMG=[20, 22], NTI=[40]))))
    assert [name for name, cells in table.items() if "**" in cells["PSNR ↑"]] == ["NMG"]


def test_the_best_error_is_the_smallest_and_equals_are_plain():
    group = only([record(m, metrics={"mse": v, "ssim": 1}) for m, v in (("DDIM", 0.002), ("NMG", 0.004))])
    table = rows(tables.markdown(group))
    assert table["DDIM"]["MSE ×10³ ↓"] == "**2.00**" and table["NMG"]["MSE ×10³ ↓"] == "4.00"
    assert "**" not in table["DDIM"]["SSIM ↑"] + table["NMG"]["SSIM ↑"]


def test_missing_is_said_with_its_reason_and_never_a_number():
    found = [record(m, missing={"psnr_outside": "the edit changes every pixel"}) for m in ("DDIM", "NMG")]
    text = tables.markdown(only(found))
    assert rows(text)["DDIM"]["PSNR outside ↑"] == rows(text)["NMG"]["PSNR outside ↑"] == "missing [1]"
    assert text.count("[1] the edit changes every pixel") == 1


def test_what_is_missing_of_some_items_is_counted():
    found = [record(item=i, metrics={"psnr_outside": 10.0 * i}) for i in (1, 2)]
    text = tables.markdown(only([*found, record(item=3, missing={"psnr_outside": "empty"})]))
    assert rows(text)["DDIM"]["PSNR outside ↑"] == "15.00 [10.00, 20.00] [1]"
    assert "[1] PSNR outside without 1 of 3 items: empty" in text


def test_a_column_that_no_record_knows_is_left_out():
    table = rows(tables.markdown(only(several(DDIM=[1]))))
    assert list(table["DDIM"]) == ["method", "n", "PSNR ↑"]


def test_what_was_refused_is_listed_below():
    refused = record("NMG", refused="edit-friendly noise has no maps")
    text = tables.markdown(only([*several(DDIM=[1, 2]), refused, dataclasses.replace(refused, item=1, key="other")]))
    assert "NMG" not in rows(text)
    assert text.count("No row: NMG: refused on 2 of 2 items: edit-friendly noise has no maps") == 1


def test_a_method_that_failed_on_an_item_is_marked_and_never_the_best():
    failed = record("NMG", 2, refused="step 1 gave values that are not finite", failed=True)
    group = only([*several(DDIM=[1, 2, 3], NMG=[8, 9]), failed])
    text = tables.markdown(group)
    table = rows(text)
    assert table["NMG (2 of 3 items) [1]"]["n"] == "2" and "**" not in text
    assert "[1] NMG failed on 1 of 3 items: step 1 gave values that are not finite" in text
    assert "NMG (2 of 3 items)" in rows(tables.differences(group))
    (line,) = [line for line in tables._long(group) if line["metric"] == "failed"]
    assert (line["method"], line["missing"], line["n"]) == ("NMG", 1, 0)


def test_a_record_of_an_earlier_run_is_read():
    values = json.loads(record().to_json())
    assert not values.pop("failed") and Record.from_json(json.dumps(values)) == record()


EXACT = {"missing": {"reconstruction_psnr": INFINITE}}


def rebuilt(*values, method="Direct"):
    """Records with these PSNRs of the reconstruction."""
    return [
        record(method, i, **(EXACT if v == math.inf else {"metrics": {"reconstruction_psnr": v}}))
        for i, v in enumerate(values)
    ]


def test_equal_pictures_are_exact_and_not_missing():
    group = only([*rebuilt(20.0, 30.0, method="DDIM"), *rebuilt(math.inf, math.inf)])
    text = tables.markdown(group)
    assert rows(text)["Direct"]["reconstruction PSNR ↑"] == "**∞** (exact)" and "missing" not in text
    assert rows(tables.differences(group))["Direct"]["reconstruction PSNR ↑"] == "∞ *"
    (line,) = [x for x in tables._long(group) if (x["method"], x["metric"]) == ("Direct", "reconstruction_psnr")]
    assert (line["mean"], line["n"], line["exact"], line["missing"], line["reason"]) == ("inf", 2, 2, 0, "")


def test_some_equal_pictures_make_the_mean_infinite_and_the_rest_is_said():
    text = tables.markdown(only(rebuilt(20.0, 30.0, math.inf)))
    assert rows(text)["Direct"]["reconstruction PSNR ↑"] == "∞ [20.00, ∞] [1]"
    assert "1 of 3 items are exact" in text and "that of the others is 25.00" in text


def test_plain_ddim_under_pix2pix_zero_is_negative_prompt_inversion():
    found = several(DDIM=[1, 2], NPI=[1, 2])
    assert "negative-prompt inversion" not in tables.markdown(only(found))
    text = tables.markdown(only([dataclasses.replace(r, editor="Pix2PixZero") for r in found]))
    assert "DDIM [1]" in rows(text) and "[1] pix2pix-zero takes the source prompt as its negative prompt" in text


def test_rows_of_other_items_are_noted():
    assert "not all of the same items" in tables.markdown(only(several(DDIM=[1, 2], NMG=[1])))
    assert "not all of the same items" not in tables.markdown(only(several(DDIM=[1, 2], NMG=[1, 2])))


def test_time_is_compared_with_null_text_inversion_on_the_same_item():
    seconds = {"NTI": (10.0, 20.0), "NMG": (1.0, 4.0), "DDIM": (1.0, 1.0), "identity": (5.0, 5.0)}
    found = [record(m, i, seconds=s, peak_mib=7.0) for m, values in seconds.items() for i, s in enumerate(values)]
    group = only(found)
    assert group.values("NMG", tables.RATIO) == {("colour change", "0"): 0.1, ("colour change", "1"): 0.2}
    table = rows(tables.markdown(group))
    assert table["NMG"]["seconds / NTI ↓"] == "0.150" and table["NTI"]["seconds / NTI ↓"] == "1.000"
    # Without an edit there is nothing to time.
    assert "identity" not in table
    without = only([r for r in found if r.method != "NTI"])
    assert "seconds / NTI ↓" not in rows(tables.markdown(without))["NMG"]


def test_differences_that_exclude_zero_are_marked():
    group = only(several(DDIM=[1, 2, 3, 4], NMG=[3, 4, 5, 6], mine=[0, 3, 2, 5]))
    table = rows(tables.differences(group))
    assert table["NMG"]["PSNR ↑"] == "2.00 [2.00, 2.00] *"
    assert table["mine"]["PSNR ↑"].startswith("0.00 [−") and not table["mine"]["PSNR ↑"].endswith("*")
    assert "DDIM" not in table
    assert tables.differences(only(several(NMG=[1]))) == ""


def test_published_rows_stand_beside_those_measured():
    ours = {"structure": 0.01344, "psnr_outside": 27.03, "mse_outside": 0.003586, "ssim_outside": 0.8411}
    found = [record(m, "p", "object", "pie", metrics=ours, missing={"clip": "no network"}) for m in ("DDIM", "NTI")]
    text = tables.markdown(only(found))
    table = rows(text)
    (theirs,) = [cells for name, cells in table.items() if name.startswith("NTI, published")]
    for heading in ("structure ×10³ ↓", "PSNR outside ↑", "MSE ×10⁴ ↓", "SSIM ×10² ↑"):
        assert table["NTI"][heading] == theirs[heading]
    assert theirs["n"] == "700" and theirs["CLIP ↑"] == "24.75" and table["NTI"]["CLIP ↑"] == "missing [1]"
    assert "LPIPS" not in "".join(theirs)
    assert sum(name.startswith("NMG, published") for name in table) == 2 and "disagree" in text
    assert published.JU in text and not any(
        "**" in c for n, cells in table.items() if "pub" in n for c in cells.values()
    )
    # A task of the benchmark has no published row, and another editor has its own.
    assert "published" not in tables.markdown(tables.group(found)[1])
    assert {row.editor for row in published.PIE_BENCH} == {"PromptToPrompt", "MasaCtrl", "Pix2PixZero"}
    assert [row.values["psnr_outside"] for row in published.rows("MasaCtrl")] == [22.17, 22.64]


# ---------------------------------------------------------------- files


@pytest.fixture
def folder(tmp_path):
    """Records of a killed run, with pictures, as it leaves them."""
    writer = Writer(tmp_path)
    rng = np.random.default_rng(0)
    for index, (method, item) in enumerate(itertools.product(("identity", "DDIM", "NMG", "ceiling"), range(4))):
        pixels = rng.integers(0, 256, (16, 16, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(tmp_path / f"{index}.png")
        values = {"psnr": 15.0 + index + item, "success": float(item % 2), "reconstruction_psnr": 20.0 + index}
        writer.write(record(method, item, metrics=values, seconds=1.0, pictures={"edit": f"{index}.png"}))
    with writer.path.open("ab") as file:
        file.write(b'{"key": "torn')
    return tmp_path


def test_files_hold_every_mean_and_difference(folder):
    paths = tables.write_tables(folder)
    assert [path.name for path in paths] == ["table.md", "table.csv"]
    text = paths[0].read_text()
    assert text.count("## Prompt-to-Prompt: all tasks") == 1 and text.count("### Prompt-to-Prompt: colour change") == 1
    assert "steps 2" in text and "menagerie@0" in text and "torn" not in text
    lines = list(csv.DictReader(paths[1].open()))
    (line,) = [x for x in lines if (x["task"], x["method"], x["metric"]) == ("colour change", "NMG", "psnr")]
    assert line["n"] == "4" and float(line["mean"]) == 15 + (8 + 9 + 10 + 11) / 4 + 1.5
    assert float(line["low"]) < float(line["mean"]) < float(line["high"])
    assert float(line["difference"]) == 4 and line["difference_excludes_zero"] == "yes"
    assert {x["task"] for x in lines} == {"all", "colour change"}
    assert all(x["difference"] == "" for x in lines if x["method"] == "DDIM")


def test_scales_that_the_validation_split_chose_are_named(folder):
    scales = {
        "scales": {"NMG": {"PromptToPrompt": 3.0, "MasaCtrl": 10.0}},
        "criterion": "the best",
        "items_per_task": 4,
    }
    scales["means"] = {"NMG": {"PromptToPrompt": {"3": {}, "10": {}}}}
    (folder / "scales.json").write_text(json.dumps(scales))
    for method, scale in (("NMG", 3.0), ("NMG, regularised", 3.0), ("Direct + NMG", 7.0)):
        Writer(folder).write(record(method, 9, scale=scale))
    text = tables.write_tables(folder)[0].read_text()
    assert "Only the noise-map scale was tuned, on 4 validation scenes of each task: the best." in text
    assert "Chosen: NMG 3 (Prompt-to-Prompt, at the edge of its grid 3, 10); NMG, regularised 3 (" in text
    assert "Prompt-to-Prompt, taken over from NMG, at" in text and "MasaCtrl" not in text
    assert "not chosen on the validation split of this run: Direct + NMG 7 (Prompt-to-Prompt)." in text


def test_what_the_intervals_and_marks_can_not_say_is_said(folder):
    text = tables.write_tables(folder)[0].read_text()
    for part in ("a scene's items of all tasks are drawn together", "too narrow where scenes are few"):
        assert part in text
    assert "without a correction for the number of comparisons" in text
    assert "on cpu, which several processes may have shared" in text


def test_a_table_of_chosen_columns_has_another_name(folder):
    paths = tables.write_tables(folder, name="mine", title="Mine", metrics=["success"], notes=["Noted."], by_task=False)
    text = paths[0].read_text()
    assert paths[0].name == "mine.md" and text.startswith("# Mine") and "Noted." in text
    assert "###" not in text and "success" in text and "PSNR ↑" not in text


def test_a_folder_without_records_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="nmg bench"):
        tables.write_tables(tmp_path)


# ---------------------------------------------------------------- figures


def pixels(path):
    with Image.open(path) as picture:
        return np.asarray(picture.convert("RGB"))


def drawn(figure):
    figure.dpi = 50
    figure.canvas.draw()
    return np.asarray(figure.canvas.buffer_rgba())


def test_every_editor_has_its_figures(folder):
    paths = plots.write_figures(folder)
    kinds = ("methods", "plane", "sheet")
    assert [path.name for path in paths] == [f"{kind}-prompttoprompt.png" for kind in kinds]
    for path in paths:
        with Image.open(path) as picture:
            assert len(picture.convert("RGB").getcolors(1 << 24)) > 50


def test_figures_follow_the_data(folder):
    records = tables.gather(folder)
    better = [
        dataclasses.replace(r, metrics={**r.metrics, "psnr": r.metrics["psnr"] + 9 * (r.method == "NMG") * int(r.item)})
        for r in records
    ]
    for draw in (plots.methods, plots.plane, lambda group: plots.sheet(group, folder)):
        first, again, other = (drawn(draw(only(found))) for found in (records, records, better))
        np.testing.assert_array_equal(first, again)
        assert first.shape != other.shape or (first != other).any()


def test_a_sheet_shows_the_pictures_of_the_methods_that_are_named(folder):
    group = only(tables.gather(folder))
    everything, one = plots.sheet(group, folder), plots.sheet(group, folder, ["NMG"], columns=2)
    assert len(everything.axes) == 16 and len(one.axes) == 2
    np.testing.assert_array_equal(one.axes[0].images[0].get_array(), pixels(folder / "8.png"))
    truth = {("colour change", "0"): Image.new("RGB", (16, 16), "lime")}
    assert len(plots.sheet(group, folder, ["NMG"], columns=2, truths=truth).axes) == 3
    assert plots.sheet(group, folder / "elsewhere") is None


def test_a_sheet_prefers_whole_items_and_names_a_picture_that_is_missing(folder):
    records = tables.gather(folder)
    lost = [
        dataclasses.replace(r, pictures={}) if (r.method, r.item) == ("NMG", records[0].item) else r for r in records
    ]
    assert len(lost) == len(records) and lost != records

    def words(figure):
        return [text.get_text() for text in figure.texts]

    count = len(only(records).rows)
    one, every = (plots.sheet(only(lost), folder, columns=n) for n in (1, 9))
    assert len(one.axes) == count and "no picture" not in words(one)
    assert words(every).count("no picture") == 1
    assert "no picture" not in words(plots.sheet(only(records), folder))


def test_a_sheet_takes_every_task_before_a_second_item():
    items = [("a", "0"), ("a", "1"), ("a", "2"), ("b", "0")]
    assert plots._spread(items, 3) == [("a", "0"), ("a", "1"), ("b", "0")]


def test_what_an_edit_changes_is_named():
    def change(source, target):
        return plots._change(record(source=source, target=target))

    assert change("a red cat in the forest", "a blue cat in the forest") == "red → blue"
    assert change("a cat, front view", "a cat, front view, oil painting") == "+ oil painting"
    assert change("a cat", "a cat") == ""


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
    found = rebuilt(20.0, 30.0, method="DDIM") + rebuilt(math.inf, math.inf)
    found = [dataclasses.replace(r, metrics={**r.metrics, "psnr": 15.0 + i}) for i, r in enumerate(found)]
    (axes,) = plots.plane(only(found)).axes
    ends = [line.get_xdata()[0] for line in axes.lines]
    assert ends[0] == 25 and ends[1] > 30
    assert axes.get_xticks()[-1] == ends[1] and max(axes.get_xticks()[:-1]) <= 30
    assert [label.get_text() for label in axes.get_xticklabels()][-1] == "exact"
    # One exact item of two makes the mean infinite, and the interval reaches back.
    partly = only([*found, *(dataclasses.replace(r, method="NMG") for r in rebuilt(math.inf, 40.0))])
    chart = plots.methods(partly, ["reconstruction_psnr"])
    assert [label.get_text() for label in chart.axes[0].get_xticklabels()][-1] == "∞"


def test_a_method_looks_the_same_everywhere():
    assert plots.style("NMG") == plots.style("NMG, scale 3")
    colour, marker = plots.style("NMG, regularised")
    assert colour == plots.style("NMG")[0] and marker != plots.style("NMG")[1]
    assert len(set(plots.COLOURS.values())) == len(plots.COLOURS)


def test_a_chart_without_its_metrics_is_none():
    bare = only([record(metrics={"kept": 1.0})])
    assert plots.methods(bare) is None and plots.plane(bare) is None
    assert plots.methods(bare, ["kept"]) is not None
