import pytest
import torch

from nmg import Backbone, PlugAndPlay
from nmg.lab.bench import Menagerie
from nmg.lab.bench.suites import SEEDS, known_tasks
from nmg.menagerie.tasks import TRAIN_SEEDS
from tests.lab.bench.made import TASK


def test_the_splits_share_no_scene_with_each_other_or_with_training():
    assert not set(SEEDS["validation"]) & set(SEEDS["test"])
    assert max(map(max, SEEDS.values())) < TRAIN_SEEDS


@pytest.mark.parametrize("count", [0, None, 10**9])
def test_scenes_that_can_not_be_drawn_are_refused(count):
    with pytest.raises(ValueError, match="give a number from 1 to"):
        Menagerie().items(TASK, "test", count)


def test_tasks_stand_in_the_suite_s_order():
    suite = Menagerie()
    first, second = suite.tasks[:2]
    assert known_tasks(suite, None) == suite.tasks and known_tasks(suite, [second, first]) == (first, second)
    with pytest.raises(ValueError, match=f"no task 'juggling'; its tasks are {first}"):
        known_tasks(suite, ["juggling"])


def test_references_are_the_source_and_the_truth_as_autoencoded(tiny):
    backbone, suite = Backbone(tiny()), Menagerie()
    case = suite.case(TASK, SEEDS["test"][0], backbone)
    assert case.picture.size == backbone.native_size and case.source != case.target
    assert suite.reference("identity", case, backbone) is case.picture
    assert suite.reference("ceiling", case, backbone).size == case.picture.size


# ---------------------------------------------------------------- further editors


def test_every_task_can_be_given_to_a_further_editor():
    suite = Menagerie()
    assert len(suite.further) == 4 * len(suite.tasks)
    assert isinstance(suite.editor("pose modification by Plug-and-Play"), PlugAndPlay)
    assert not set(suite.tasks) & set(suite.further) and known_tasks(suite, None) == suite.tasks
    assert known_tasks(suite, ["colour change by FlowEdit", "object swap"]) == (
        "object swap",
        "colour change by FlowEdit",
    )


def test_a_further_editor_is_given_the_scenes_of_its_task(tiny):
    suite, backbone = Menagerie(), Backbone(tiny())
    own, other = (suite.case(task, 10_000, backbone) for task in ("colour change", "colour change by FlowEdit"))
    assert (own.source, own.target, own.truth) == (other.source, other.target, other.truth)
    values, _ = suite.score(other, torch.rand(1, 3, *own.picture.size), backbone)
    assert {"psnr", "success", "kept"} <= set(values)
