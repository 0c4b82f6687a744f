import torch

from nmg import rows


def test_halves_undo_doubled():
    x = torch.randn(3, 4, 2, 2)
    null, text = rows.halves(rows.doubled(x))
    assert torch.equal(null, x) and torch.equal(text, x)


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
