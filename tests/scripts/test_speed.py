import json
import sys

import pytest

from scripts import measure, models, speed


@pytest.fixture
def quick(monkeypatch):
    """A measurement in this process, which takes less than a fresh one, on a smaller network."""

    def measured(editor, measurement, options, give_back=False):
        row = measure.measure(measure.arguments_of([editor, measurement, *options]))
        return row | ({"peak_gib": 100 + row["steps"], "loaded_gib": 50} if give_back else {})

    monkeypatch.setattr(speed, "measured", measured)
    monkeypatch.setattr(models, "SMALL", models.Size(16, (64, 64, 64, 64), (32, 32, 32, 32), text=24, text_layers=1))


def test_one_command_measures_an_editor(tmp_path, monkeypatch, capsys, quick):
    rows = tmp_path / "rows.jsonl"
    command = f"speed.py none --small --steps 3 --threads 1 --device cpu --baseline --json {rows}"
    monkeypatch.setattr(sys, "argv", command.split())
    speed.main()
    measured = [json.loads(line) for line in rows.read_text().splitlines()]
    assert [row["measurement"] for row in measured] == ["baseline", "first", "again", "two-targets"]
    # The memory is that of two steps in a process of their own.
    assert all(row["peak_gib"] == 102 and row["loaded_gib"] == 50 for row in measured)
    assert all(row["steps"] == 3 and row["seconds_per_step"] > 0 and 50 > row["process_gib"] > 0 for row in measured)
    assert "again is" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("code", "fails"), [("print(os.environ.get('MALLOC_MMAP_THRESHOLD_'))", False), ("1 / 0", True)]
)
def test_a_measurement_is_a_process_of_its_own(tmp_path, monkeypatch, code, fails):
    """Its memory is that of the tensors, without the holes of the heap; its failure is said."""
    (tmp_path / "script.py").write_text(f"import os\n{code}")
    monkeypatch.setattr(speed, "MEASURE", (str(tmp_path / "script.py"),))
    if fails:
        with pytest.raises(RuntimeError, match="none, first: exit 1\\n(.*\\n)*ZeroDivisionError"):
            speed.measured("none", "first", [])
    else:
        assert speed.measured("none", "first", [], give_back=True) == 2**20
