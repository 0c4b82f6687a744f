import pytest
import torch

from nmg import rows

COPIES = {"none": 0, "text": 1, "both": 2}
"""By name, how many copies of the source there are."""


def test_halves_undo_doubled():
    x = torch.randn(3, 4, 2, 2)
    null, text = rows.halves(rows.doubled(x))
    assert torch.equal(null, x) and torch.equal(text, x)


def test_an_odd_number_of_rows_has_the_source_in_its_text_half_alone():
    x = torch.arange(5)
    null, text = rows.halves(x)
    assert null.tolist() == [0, 1] and text.tolist() == [2, 3, 4]


@pytest.mark.parametrize("targets", [0, 1, 3])
@pytest.mark.parametrize("copies", COPIES)
def test_targets_keep_their_places_whatever_copies_of_the_source_there_are(copies, targets):
    x = torch.randn(2 * (1 + targets), 4, 2, 2)
    null, text = rows.halves(x)
    seen = rows.with_copies(x, copies)
    assert len(seen) == 2 * targets + COPIES[copies]
    assert torch.equal(rows.halves(seen)[0][-targets:] if targets else x[:0], rows.targets(null))
    assert torch.equal(rows.halves(seen)[1][-targets:] if targets else x[:0], rows.targets(text))
    # The source, where it is, is the text half's first row, and in the null half only if both halves hold it.
    assert copies == "none" or torch.equal(rows.halves(seen)[1][:1], rows.source(text))

    completed = rows.completed(seen, copies)
    assert completed.shape == x.shape
    for half, own in zip(rows.halves(completed), (null, text), strict=True):
        assert torch.equal(rows.targets(half), rows.targets(own))
    expected = {"none": (0 * null, 0 * text), "text": (text, text), "both": (null, text)}[copies]
    for half, own in zip(rows.halves(completed), expected, strict=True):
        assert torch.equal(rows.source(half), rows.source(own))


def test_completed_rows_keep_dtype_and_trailing_shape():
    seen = torch.randn(4, 7, dtype=torch.float64)
    assert rows.completed(seen, "none").shape == (6, 7) and rows.completed(seen, "none").dtype == torch.float64


def test_the_most_of_several_copies_serves_them_all():
    for first, few in COPIES.items():
        for second, many in COPIES.items():
            assert COPIES[rows.most(first, second)] == max(few, many)
    assert rows.most("none", "both", "text") == "both" and rows.most("none") == "none"


def test_the_sources_copies_are_replaced_alone():
    x, copies = torch.randn(6, 4, 2, 2), torch.randn(2, 4, 2, 2)
    changed = rows.with_sources(copies, x)
    for half, own, copy in zip(rows.halves(changed), rows.halves(x), copies, strict=True):
        assert torch.equal(rows.source(half)[0], copy) and torch.equal(rows.targets(half), rows.targets(own))


def test_source_and_targets_are_all_rows():
    x = torch.randn(3, 4, 2, 2)
    assert torch.equal(torch.cat([rows.source(x), rows.targets(x)]), x)


def test_with_targets_changes_every_row_but_the_source():
    x, targets = torch.randn(3, 4, 2, 2), torch.randn(2, 4, 2, 2)
    changed = rows.with_targets(targets, x)
    assert torch.equal(rows.source(changed), rows.source(x)) and torch.equal(rows.targets(changed), targets)
    assert torch.equal(rows.with_targets(rows.targets(x), x), x)


def test_with_targets_gives_its_only_row_to_all():
    x, row = torch.randn(4, 5, 6), torch.randn(1, 5, 6)
    assert torch.equal(rows.with_targets(row, x), torch.cat([x[:1], row, row, row]))


def test_with_targets_leaves_a_source_alone():
    x = torch.randn(1, 4, 2, 2)
    assert torch.equal(rows.with_targets(torch.randn(1, 4, 2, 2), x), x)


def test_with_source_changes_row_0_alone():
    x, row = torch.randn(3, 4, 2, 2), torch.randn(1, 4, 2, 2)
    changed = rows.with_source(row, x)
    assert torch.equal(rows.source(changed), row) and torch.equal(rows.targets(changed), rows.targets(x))
