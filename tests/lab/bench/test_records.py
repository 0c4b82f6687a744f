import json

import pytest

from nmg.lab.bench import Item, Record, read, records
from tests.lab.bench.made import record


def test_a_torn_last_line_is_ignored_and_mended(tmp_path):
    records.Writer(tmp_path).write(record(item="1", source="Fähre"))
    path = tmp_path / "records-0.jsonl"
    path.write_bytes(path.read_bytes() + record(item="2").to_json().encode())
    assert [r.item for r in read(tmp_path)] == ["1"]
    records.Writer(tmp_path).write(record(item="3"))
    assert [r.item for r in read(tmp_path)] == ["1", "3"]


def test_of_the_same_key_the_first_counts(tmp_path):
    for rank, seconds in ((1, 2.0), (0, 1.0), (10, 3.0)):
        records.Writer(tmp_path, rank).write(record(seconds=seconds))
    assert [r.seconds for r in read(tmp_path)] == [1.0]


def test_a_whole_line_that_is_no_record_is_an_error(tmp_path):
    (tmp_path / "records-0.jsonl").write_text('{"key": 1}\n')
    with pytest.raises(ValueError, match="can't be read by this version"):
        read(tmp_path)


@pytest.mark.parametrize(
    "changed",
    [
        *({"steps": -1}, {"steps": "50"}, {"item": 1.5}, {"seconds": -1.0}, {"metrics": {"psnr": "high"}}),
        *({"metrics": [1]}, {"failed": 1}, {"method": "\x1b[2J"}, {"telepathy": 1}, {"source": None}),
    ],
    ids=str,
)
def test_a_damaged_field_is_one_line_that_names_it(tmp_path, changed):
    values = json.loads(record().to_json()) | changed
    (tmp_path / "records-0.jsonl").write_text(json.dumps(values) + "\n")
    with pytest.raises(ValueError, match=f"can't be read by this version \\({next(iter(changed))}.*: .*another folder"):
        read(tmp_path)


def test_a_damaged_configuration_is_one_line(tmp_path):
    for text in ("{", "[]", '{"steps": NaN}'):
        (tmp_path / "run.json").write_text(text)
        with pytest.raises(ValueError, match="run.json is damaged .*; give another folder"):
            records.configure(tmp_path, {"steps": 2})


def test_keys_tell_every_item_from_every_other():
    items = [Item("menagerie", "test", "t", 1, "NMG", scale) for scale in (None, 3.0, 30.0)]
    items += [Item("pie", "test", "t", 1, "NMG"), Item("menagerie", "test", "t", 11, "NMG")]
    assert len({item.key for item in items}) == len(items)


def test_a_record_of_an_earlier_version_is_read():
    values = json.loads(record().to_json())
    assert not values.pop("failed") and Record.from_json(json.dumps(values)) == record()


def test_another_configuration_is_refused_with_the_difference(tmp_path):
    records.configure(tmp_path, {"steps": 2, "model": "a"})
    records.configure(tmp_path, {"steps": 2, "model": "a"})
    with pytest.raises(ValueError, match=r"\(steps 2 there, 3 now\); give another folder"):
        records.configure(tmp_path, {"steps": 3, "model": "a"})


def test_other_settings_under_the_same_name_are_refused(tmp_path):
    known = record(settings={"guidance": {"text_scale": 3}, "offset": None})
    records.agree([known], {known.key: known.settings}, tmp_path)
    with pytest.raises(ValueError, match="another guidance: {'text_scale': 3} there, {'text_scale': 5} now"):
        records.agree([known], {known.key: {**known.settings, "guidance": {"text_scale": 5}}}, tmp_path)
