"""Steps of a run taken once more, as they were and under other settings."""

import pytest

from tests.solo_learner import SoloLearner, group_of, write_config
from volley.learner.ledger import Disposition
from volley.learner.past_run import open_run
from volley.learner.retake import Retake
from volley.learner.update import StepResult
from volley.telemetry.stops import ExitCode, Stop


@pytest.fixture
def folder(tmp_path, qwen3_folder):
    """A run of four steps with a checkpoint behind the second."""
    learner = SoloLearner(write_config(tmp_path, qwen3_folder))
    for step in range(4):
        learner.take(2 * step, 2 * step + 1)
        if step == 1:
            learner.save()
    learner.die()
    return learner.folder.path


def retake(folder, first=None, last=None, *overrides):
    with open_run(folder) as run:
        return [one for one in Retake(run, first, last, overrides).steps() if one is not None]


def test_the_same_settings_give_the_same_weights(folder):
    taken = retake(folder)
    assert [one.line.version.step for one in taken] == [1, 2, 3, 4]
    assert all(one.is_same for one in taken)
    assert taken[-1].line.metrics == taken[-1].recorded.metrics


def test_a_range_begins_at_the_snapshot_before_it(folder):
    with open_run(folder) as run:
        places = Retake(run, 4, None, ()).places
    assert [place.step for place in places] == [3, 4]
    assert [one.line.version.step for one in retake(folder, 4)] == [4]
    assert [one.line.version.step for one in retake(folder, 2, 3)] == [2, 3]
    assert all(one.is_same for one in retake(folder, 2, 3))


def test_other_settings_hold_from_the_first_step_that_is_wanted(folder):
    taken = retake(folder, 3, None, "optim.learning_rate=1e-3")
    assert [one.line.version.step for one in taken] == [3, 4]
    assert not any(one.is_same for one in taken)
    assert [one.line.metrics["learning_rate"] for one in taken] == [1e-3, 1e-3]
    # On the same weights and groups the loss is the same until the first step is done.
    assert taken[0].line.metrics["loss"] == taken[0].recorded.metrics["loss"]
    assert taken[1].line.metrics["loss"] != taken[1].recorded.metrics["loss"]


def test_another_loss_on_the_same_groups_is_another_loss(folder):
    taken = retake(folder, None, None, "loss.loss_type=dr_grpo")
    assert taken[0].line.metrics["loss"] != taken[0].recorded.metrics["loss"]


def test_a_step_that_was_refused_is_taken_under_other_settings_alone(tmp_path, qwen3_folder):
    learner = SoloLearner(write_config(tmp_path, qwen3_folder))
    learner.log(group_of(0, "run"))
    metrics = learner.train().metrics
    learner.conclude(StepResult(False, {0: Disposition.REFUSED}, (), metrics))
    learner.die()
    assert retake(learner.folder.path) == []
    (taken,) = retake(learner.folder.path, None, None, "optim.learning_rate=1e-3")
    assert not taken.recorded.applied
    assert taken.line.root != taken.recorded.root


def test_steps_that_are_not_kept_are_said_with_those_that_are(tmp_path, qwen3_folder):
    learner = SoloLearner(write_config(tmp_path, qwen3_folder), "checkpoint.keep_all_steps=false")
    for step in range(4):
        learner.take(2 * step, 2 * step + 1)
        learner.save()
    learner.die()
    with pytest.raises(Stop, match="up to 3 are gone: begin at step 4") as caught:
        retake(learner.folder.path, 3)
    assert caught.value.code is ExitCode.CONFIG
    for first in (None, 4):
        (taken,) = retake(learner.folder.path, first)
        assert (taken.line.version.step, taken.is_same) == (4, True)


def test_nothing_in_the_folder_changes(folder):
    def content():
        return {path: path.read_bytes() for path in folder.rglob("*") if path.is_file()}

    before = content()
    retake(folder, None, None, "optim.learning_rate=1e-3")
    after = content()
    del before[folder / "lock"], after[folder / "lock"]
    assert after == before


@pytest.mark.parametrize(("first", "last"), [(5, None), (3, 2), (9, 12)])
def test_a_range_without_steps_is_answered_with_those_there_are(folder, first, last):
    with pytest.raises(Stop, match="the log has steps 1 to 4") as caught:
        retake(folder, first, last)
    assert caught.value.code is ExitCode.CONFIG


@pytest.mark.parametrize("setting", ["sampling.num_generations=4", "sampling.temperature=0.5"])
def test_what_shaped_the_groups_cannot_be_changed(folder, setting):
    key, _, _ = setting.partition("=")
    with pytest.raises(Stop, match=f"--set {key}: the groups were sampled under"):
        retake(folder, None, None, setting)


def test_a_key_that_is_none_is_named(folder):
    with pytest.raises(Stop, match="learning_rat"):
        retake(folder, None, None, "optim.learning_rat=1")


def test_a_damaged_step_is_named(folder):
    path = folder / "trajectories" / "step-00000003-0.vly"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Stop, match=r"step-00000003-0\.vly"):
        retake(folder)
