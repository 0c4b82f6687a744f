import csv
import json

import pytest

from nmg.lab.bench import tables
from nmg.lab.bench.records import Writer
from tests.lab.bench.made import only, record, several


def test_files_hold_every_mean_median_and_difference(folder):
    paths = tables.write_tables(folder)
    assert [path.name for path in paths] == ["table.md", "table.csv"]
    text = paths[0].read_text()
    assert text.count("## Prompt-to-Prompt: all tasks") == 1 and text.count("### Prompt-to-Prompt: colour change") == 1
    assert "steps 2" in text and "menagerie@0" in text and "torn" not in text
    lines = list(csv.DictReader(paths[1].open()))
    (line,) = [x for x in lines if (x["task"], x["method"], x["metric"]) == ("colour change", "NMG", "psnr")]
    assert line["n"] == "4" and float(line["mean"]) == float(line["median"]) == 15 + (8 + 9 + 10 + 11) / 4 + 1.5
    assert float(line["low"]) < float(line["mean"]) < float(line["high"])
    assert float(line["difference"]) == 4 and line["difference_excludes_zero"] == "yes"
    assert {x["task"] for x in lines} == {"all", "colour change"}
    assert all(x["difference"] == "" for x in lines if x["method"] == "DDIM")


def test_lines_count_what_is_exact_and_what_failed():
    failed = record("NMG", 2, refused="not finite", failed=True)
    lines = list(tables._long(only([*several(DDIM=[1, 2, 3], NMG=[8, float("inf")]), failed])))
    (exact,) = [x for x in lines if (x["method"], x["metric"]) == ("NMG", "psnr")]
    assert (exact["mean"], exact["n"], exact["exact"], exact["missing"], exact["reason"]) == ("inf", 2, 1, 0, "")
    (lost,) = [x for x in lines if x["metric"] == "failed"]
    assert (lost["method"], lost["missing"], lost["n"]) == ("NMG", 1, 0)


def test_scales_that_the_validation_split_chose_are_named(folder):
    report = {"scales": {"NMG": {"PromptToPrompt": 3.0, "MasaCtrl": 10.0}}, "items_per_task": 4}
    report["means"] = {"NMG": {"PromptToPrompt": {"3": {}, "10": {}}}}
    (folder / "scales.json").write_text(json.dumps(report))
    for method, scale in (("NMG", 3.0), ("Direct + NMG", 7.0)):
        Writer(folder).write(record(method, 9, scale=scale))
    text = tables.write_tables(folder)[0].read_text()
    assert "on 4 validation scenes of each task" in text and "MasaCtrl" not in text
    assert "Chosen: NMG 3 (Prompt-to-Prompt, at the edge of its grid 3, 10)." in text
    assert "not chosen on the validation split of this run: Direct + NMG 7 (Prompt-to-Prompt)." in text


def test_a_table_of_chosen_columns_has_another_name(folder):
    paths = tables.write_tables(folder, name="mine", title="Mine", metrics=["success"], notes=["Noted."], by_task=False)
    text = paths[0].read_text()
    assert paths[0].name == "mine.md" and text.startswith("# Mine") and "Noted." in text
    assert "###" not in text and "success" in text and "PSNR ↑" not in text


def test_a_folder_without_records_says_what_to_do(tmp_path):
    with pytest.raises(ValueError, match="nmg bench"):
        tables.write_tables(tmp_path)
