"""The newest request wins, and what is wrong with one is told."""

import contextlib

import pytest

from nmg.lab.panel import Controller, Engine, Failed
from tests.lab.panel.conftest import PATIENCE, REQUEST


@pytest.fixture
def told() -> list:
    return []


@pytest.fixture
def controller(engine, told):
    with contextlib.closing(Controller(engine, REQUEST, told.append)) as controller:
        yield controller


def test_thirty_moves_in_a_row_end_at_the_last(controller, tiny, picture):
    for i in range(30):
        assert controller.set(noise_map_scale=float(i))
    assert controller.wait(PATIENCE)
    assert controller.result.request.guidance.noise_map_scale == 29 and controller.error is None
    fresh = Engine(tiny(), picture).make(controller.request)
    assert controller.result.picture.tobytes() == fresh.picture.tobytes()


@pytest.mark.parametrize(
    ("changes", "said"),
    [
        ({"cross_replace": 7.0}, "ValueError: cross_replace=7.0 is no part"),
        ({"guidance": "nmg"}, "ValueError: guidance='nmg' is unknown"),
        ({"blend": ("cat", "elephant")}, "ValueError: 'elephant' does not occur"),
    ],
)
def test_what_is_wrong_is_told_and_the_last_good_picture_stays(controller, told, changes, said):
    controller.run()
    assert controller.wait(PATIENCE)
    good = controller.result
    controller.set(**changes)
    assert controller.wait(PATIENCE)
    assert controller.result is good and isinstance(controller.error, ValueError)
    assert isinstance(told[-1], Failed) and told[-1].words.startswith(said)
    controller.go_back(good)
    assert controller.wait(PATIENCE)
    assert controller.result is good and controller.error is None
    assert controller.request.editor == REQUEST.editor


def test_a_control_that_does_not_exist_is_refused_at_once(controller):
    with pytest.raises(TypeError, match="there is no setting 'noise_scale'"):
        controller.set(noise_scale=3)
