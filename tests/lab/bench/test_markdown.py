import dataclasses
import math

import pytest

from nmg.lab.bench import published
from nmg.lab.bench.columns import COLUMNS, SUITES
from nmg.lab.bench.groups import RATIO, group
from nmg.lab.bench.markdown import differences, markdown
from tests.lab.bench.made import only, record, rows, several


@pytest.mark.parametrize(
    ("values", "best"),
    [
        ({"identity": [50, 50], "DDIM": [10, 12], "NMG": [20, 22], "ceiling": [90, 90]}, ["NMG"]),
        # A method of fewer items is never the best.
        ({"DDIM": [10, 12], "NMG": [20, 22], "NTI": [40]}, ["NMG"]),
        # Equal ones are plain.
        ({"DDIM": [10, 12], "NMG": [10, 12]}, []),
    ],
    ids=str,
)
def test_the_best_method_of_all_items_is_bold(values, best):
    table = rows(markdown(only(several(**values))))
    assert [name for name, cells in table.items() if "**" in cells["PSNR ↑"]] == best
    assert {name: cells["n"] for name, cells in table.items()} == {name: str(len(v)) for name, v in values.items()}


def test_the_best_error_is_the_smallest():
    table = rows(markdown(only(several(metric="mse", DDIM=[0.002], NMG=[0.004]))))
    assert table["DDIM"]["MSE ×10³ ↓"] == "**2.00**" and table["NMG"]["MSE ×10³ ↓"] == "4.00"


def test_missing_is_said_with_its_reason_and_never_a_number():
    text = markdown(only([record(m, missing={"psnr_outside": "no pixel"}) for m in ("DDIM", "NMG")]))
    assert rows(text)["DDIM"]["PSNR outside ↑"] == rows(text)["NMG"]["PSNR outside ↑"] == "missing [1]"
    assert text.count("[1] no pixel") == 1
    # Where only some items lack it, they are counted.
    found = [record(item=i, metrics={"psnr_outside": 10.0 * i}) for i in (1, 2)]
    text = markdown(only([*found, record(item=3, missing={"psnr_outside": "empty"})]))
    assert rows(text)["DDIM"]["PSNR outside ↑"] == "15.00 (15.00) [10.00, 20.00] [1]" and "1 of 3 items: empty" in text


def test_a_column_that_no_record_knows_is_left_out():
    assert list(rows(markdown(only(several(DDIM=[1]))))["DDIM"]) == ["method", "n", "PSNR ↑"]


def test_what_has_no_result_is_listed_or_marked():
    refused = record("NMG", refused="edit-friendly noise has no maps")
    text = markdown(only([*several(DDIM=[1]), refused]))
    assert "NMG" not in rows(text) and "NMG: refused on 1 of 1 items: edit-friendly noise has no maps" in text
    failed = record("NMG", 2, refused="not finite", failed=True)
    partly = only([*several(DDIM=[1, 2, 3], NMG=[8, 9]), failed])
    text = markdown(partly)
    assert rows(text)["NMG (2 of 3 items) [1]"]["n"] == "2" and "**" not in text
    assert "failed on 1 of 3 items: not finite" in text and "NMG (2 of 3 items)" in rows(differences(partly))


def test_equal_pictures_are_exact_and_not_missing():
    metric, heading = "reconstruction_psnr", "reconstruction PSNR ↑"
    found = only(several(metric=metric, DDIM=[20, 30], Direct=[math.inf, math.inf]))
    assert rows(markdown(found))["Direct"][heading] == "**∞** (exact)" and "missing" not in markdown(found)
    assert rows(differences(found))["Direct"][heading] == "∞ *"
    text = markdown(only(several(metric=metric, Direct=[20, 30, math.inf])))
    assert rows(text)["Direct"][heading] == "∞ (30.00) [20.00, ∞] [1]" and "25.00" in text


def test_plain_ddim_under_pix2pix_zero_is_marked():
    found = several(DDIM=[1, 2], NPI=[1, 2])
    assert "DDIM" in rows(markdown(only(found)))
    assert "DDIM [1]" in rows(markdown(only([dataclasses.replace(r, editor="Pix2PixZero") for r in found])))


def test_rows_of_other_items_are_noted():
    assert "not all of the same items" in markdown(only(several(DDIM=[1, 2], NMG=[1])))
    assert "not all of the same items" not in markdown(only(several(DDIM=[1, 2], NMG=[1, 2])))


def test_the_ratio_of_times_needs_null_text_inversion():
    found = [record(method, seconds=s) for method, s in (("NTI", 10.0), ("NMG", 1.0))]
    assert rows(markdown(only(found), [RATIO]))["NMG"]["seconds / NTI ↓"] == "**0.100**"
    assert "seconds / NTI ↓" not in rows(markdown(only(found[1:])))["NMG"]


def test_differences_that_exclude_zero_are_marked():
    table = rows(differences(only(several(DDIM=[1, 2, 3, 4], NMG=[3, 4, 5, 6], mine=[0, 3, 2, 5]))))
    assert table["NMG"]["PSNR ↑"] == "2.00 [2.00, 2.00] *" and "DDIM" not in table
    assert table["mine"]["PSNR ↑"].startswith("0.00 [−") and not table["mine"]["PSNR ↑"].endswith("*")
    assert differences(only(several(NMG=[1]))) == ""


@pytest.mark.parametrize("suite", SUITES)
def test_cells_show_the_median_beside_the_mean(suite):
    """One very wrong picture of five moves the mean alone."""
    found = several(suite, SUITES[suite][0], DDIM=[0.1, 0.1, 0.1, 0.1, 1.1], NMG=[0.3] * 5)
    column = COLUMNS[SUITES[suite][0]]
    shown = rows(markdown(only(found)))["DDIM"][column.heading]
    assert shown.startswith(f"{0.3 * column.factor:.2f} ({0.1 * column.factor:.2f}) [")
    assert "(" not in rows(differences(only(found)))["NMG"][column.heading]


# ---------------------------------------------------------------- PIE-Bench


def test_pie_bench_s_tables_count_pictures_and_black_ones():
    found = several("pie", "black", DDIM=[0, 0, 0, 1])
    lost = record("DDIM", 4, suite="pie", refused="not finite", failed=True)
    text = markdown(only([*found, *several("pie", "black", NMG=[0, 0, 0, 0, 0]), lost]))
    table = rows(text)
    assert table["DDIM (4 of 5 items) [1]"]["black ×10² ↓"] == "25.00" and table["NMG"]["black ×10² ↓"] == "0.00"
    assert "Pictures that counted: DDIM 4 of 5, NMG 5 of 5." in text


def test_published_rows_stand_beside_those_measured():
    ours = {"structure": 0.01344, "psnr_outside": 27.03, "mse_outside": 0.003586, "ssim_outside": 0.8411}
    found = [record(m, "p", "object", "pie", metrics=ours, missing={"clip": "no network"}) for m in ("DDIM", "NTI")]
    text = markdown(only(found))
    table = rows(text)
    (theirs,) = [cells for name, cells in table.items() if name.startswith("NTI, published")]
    for heading in ("structure ×10³ ↓", "PSNR outside ↑", "MSE ×10⁴ ↓", "SSIM ×10² ↑"):
        assert table["NTI"][heading].split()[0] == theirs[heading]
    assert theirs["n"] == "700" and theirs["CLIP ↑"] == "24.75" and table["NTI"]["CLIP ↑"] == "missing [1]"
    assert "LPIPS" not in "".join(theirs)
    assert all(source in text for source in (published.JU, published.H_EDIT, published.DCI))
    assert not any("**" in cell for name, cells in table.items() if "published" in name for cell in cells.values())
    # A task of the benchmark has no published row.
    assert "published" not in markdown(group(found)[1])
