"""The house keeps its shape: small functions, imports that go down, no circles."""

import pytest

from scripts import sizes


def test_no_function_is_too_long():
    assert [function for function in sizes.functions() if function.lines > sizes.LARGEST] == []


def test_imports_go_down_and_in_no_circles():
    assert sizes.upward() == [] and sizes.circles() == []


@pytest.mark.parametrize(
    ("module", "floor"),
    [("nmg", "method"), ("nmg.rows", "method"), ("nmg.menagerie.scene", "menagerie"), ("nmg.lab.cli", "lab")]
    + [("nmg.__main__", "lab"), ("scripts.sizes", "scripts")],
)
def test_a_module_belongs_to_one_floor(module, floor):
    assert sizes.floor(module) == floor


def test_docstrings_and_comments_are_no_code():
    sizes_of = {function.name: function.lines for function in sizes.functions()}
    assert sizes_of["scripts.sizes._end"] == 2 and sizes_of["scripts.sizes.lines"] == 5
