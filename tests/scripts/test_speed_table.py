from scripts import speed_table

ROW = {
    "editor": "masactrl", "measurement": "first", "steps": 3, "seconds_per_step": 2.0, "seconds": 7.0, "peak_gib": 5.0,
    "loaded_gib": 4.0, "device": "CPU", "threads": 2, "dtype": "float32", "decoded": False, "pixels": 512,
    "parameters_million": 860, "torch": "2", "run": "a",
}  # fmt: skip
RUN = [
    ROW | {"measurement": "baseline", "seconds_per_step": 6.0, "peak_gib": 10.0},
    ROW,
    ROW | {"measurement": "again", "seconds_per_step": 1.0},
    ROW | {"measurement": "two-targets", "seconds_per_step": 2.5},
]


def test_ratios_are_to_the_baseline():
    text = speed_table.printed(speed_table.by_measurement(RUN))
    line = next(line for line in text.splitlines() if line.startswith("first"))
    assert line.split() == ["first", "2.000", "5.00", "1.00", "3.00×", "50%", "17%"]
    assert "2.00×" in text and "0.500 s/step, 25%" in text


def test_of_several_rounds_the_median_time_and_the_highest_peak_count():
    rows = speed_table.by_measurement([ROW, ROW | {"seconds_per_step": 4.0, "peak_gib": 6.0}])
    assert (rows["first"]["seconds_per_step"], rows["first"]["peak_gib"]) == (3.0, 6.0)


def test_markdown_has_a_table_for_each_machine():
    gpu = [row | {"device": "a GPU", "threads": None, "decoded": True} for row in RUN]
    text = speed_table.markdown([*RUN, *gpu])
    first, second = (line for line in text.splitlines() if line.startswith("| MasaCtrl"))
    cells = [cell.strip() for cell in first.strip("|").split("|")]
    assert cells[1:4] == ["6 s, 10.0 GiB", "2 s (3.0×), 5.0 GiB (50%)", "1 s (6.0×), 5.0 GiB (50%)"]
    assert "Seconds per edit" in text and "Seconds per step" in text and "7 s" in second
