"""Deaths at every place, and what the next start makes of what they left."""

import threading

import pytest
import torch

from tests.solo_learner import SoloLearner, group_of, write_config
from volley.learner.ledger import Disposition
from volley.learner.mark import DEATHS_OF_POISON, Mark
from volley.learner.step_log import Place
from volley.learner.update import StepResult
from volley.schemas.groups import Version
from volley.telemetry.stops import ExitCode, Stop

STEPS = [(0, 1), (2, 3), (4, 5), (6, 7)]


@pytest.fixture
def dtype():
    return "float32"


@pytest.fixture
def config(dtype, tmp_path, qwen3_folder):
    return write_config(tmp_path, qwen3_folder, dtype)


@pytest.fixture
def uninterrupted(config, tmp_path_factory):
    """The same steps in a folder of their own, without a death."""
    folder = tmp_path_factory.mktemp("uninterrupted")
    (folder / "train.jsonl").write_text((config.parent / "train.jsonl").read_text())
    (folder / "config.toml").write_text(config.read_text())
    learner = SoloLearner(folder / "config.toml")
    for numbers in STEPS:
        learner.take(*numbers)
    yield learner
    learner.die()


def assert_same(learner: SoloLearner, other: SoloLearner) -> None:
    """Weights, optimiser, ledger and roots, bit for bit."""
    expected = other.update.tensors()
    assert learner.update.tensors().keys() == expected.keys()
    for name, tensor in learner.update.tensors().items():
        assert torch.equal(tensor, expected[name]), name
    assert learner.root == other.root
    assert learner.ledger.state() == other.ledger.state()
    assert [one.root for one in learner.outcomes] == [one.root for one in other.outcomes]


def finish(learner: SoloLearner) -> None:
    for numbers in STEPS[learner.reached.version.step :]:
        learner.take(*numbers)


def logged(learner: SoloLearner) -> None:
    learner.log(*(group_of(number, "run") for number in STEPS[2]))


def trained(learner: SoloLearner) -> None:
    logged(learner)
    learner.train()


def concluded(learner: SoloLearner) -> None:
    logged(learner)
    learner.conclude(learner.train())


def saved(learner: SoloLearner) -> None:
    concluded(learner)
    learner.save()


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("save_at", [None, 1])
@pytest.mark.parametrize("last_deed", [logged, trained, concluded, saved])
def test_a_resumed_run_is_the_one_that_was_never_interrupted(
    config, uninterrupted, last_deed, save_at
):
    first = SoloLearner(config)
    for index, numbers in enumerate(STEPS[:2]):
        first.take(*numbers)
        if index == save_at:
            first.save()
    last_deed(first)
    first.die()
    second = SoloLearner(config)
    assert second.reached.version.step == 3
    finish(second)
    assert_same(second, uninterrupted)
    assert second.reached.num_samples == uninterrupted.reached.num_samples == 16
    second.die()


def test_dying_again_and_again_changes_nothing(config, uninterrupted):
    for _ in STEPS:
        learner = SoloLearner(config)
        finish_one = STEPS[learner.reached.version.step]
        learner.log(*(group_of(number, "run") for number in finish_one))
        learner.die()
    last = SoloLearner(config)
    assert_same(last, uninterrupted)
    assert [one.version for one in last.outcomes] == [Version(n + 1, n) for n in range(1, 5)]
    last.die()


def test_a_step_that_was_refused_is_left_out_again(config):
    first = SoloLearner(config)
    first.take(0, 1)
    root = first.root
    first.log(group_of(2, "run"))
    metrics = first.train().metrics
    first.conclude(StepResult(False, {2: Disposition.REFUSED}, (), metrics))
    first.die()
    second = SoloLearner(config)
    assert second.root == root
    assert second.reached.place == Place(2, 1)
    assert second.ledger.counts().refused == 1
    second.take(3, 4)
    assert second.outcomes[-1].version == Version(2, 2)
    second.die()


@pytest.mark.parametrize("num_deaths", [DEATHS_OF_POISON - 1, DEATHS_OF_POISON])
def test_what_was_trained_in_three_deaths_in_a_row_is_set_aside(config, num_deaths):
    first = SoloLearner(config)
    first.take(0, 1)
    first.log(group_of(2, "run"), group_of(3, "run"))
    first.die()
    path = first.folder.trajectories / "training.json"
    for _ in range(num_deaths):
        Mark(path).name(first.history.place, {3})
    second = SoloLearner(config)
    outcome = second.recovery.concluded
    assert outcome is not None
    is_poison = num_deaths == DEATHS_OF_POISON
    assert outcome.set_aside == ((3,) if is_poison else ())
    assert outcome.dispositions[2] is Disposition.TRAINED
    expected = Disposition.REFUSED if is_poison else Disposition.TRAINED
    assert outcome.dispositions[3] is expected
    assert not path.exists()
    second.die()
    third = SoloLearner(config)
    assert third.root == second.root, "what was set aside stays so"
    third.die()


def test_logged_steps_are_taken_again_under_the_settings_of_their_time(config):
    first = SoloLearner(config)
    first.take(0, 1)
    first.take(2, 3)
    first.die()
    second = SoloLearner(config, "optim.learning_rate=1e-3")
    assert second.root == first.root
    second.take(4, 5)
    assert second.outcomes[-1].metrics["learning_rate"] == 1e-3
    second.die()
    third = SoloLearner(config)
    assert third.root == second.root
    assert third.outcomes[0].metrics["learning_rate"] == 1e-2
    third.die()


def test_from_a_damaged_checkpoint_it_goes_back_to_the_one_before(config, caplog):
    first = SoloLearner(config)
    for numbers in STEPS:
        first.take(*numbers)
        first.save()
    first.die()
    newest = sorted(first.folder.checkpoints.iterdir())[-1]
    tensors = newest / "state.safetensors"
    tensors.write_bytes(tensors.read_bytes()[:-1] + b"?")
    second = SoloLearner(config)
    assert "skipped a damaged checkpoint" in caplog.text
    assert len(second.recovery.taken) == 1
    assert_same(second, first)
    second.die()


def damage(path) -> None:
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 1
    path.write_bytes(content)


@pytest.mark.parametrize("name", ["step-00000002-0.vly", "step-00000002-0.outcome"])
def test_a_damaged_step_stops_the_start_until_a_person_gives_it_up(config, name):
    first = SoloLearner(config)
    for numbers in STEPS:
        first.take(*numbers)
    first.die()
    damage(first.folder.trajectories / name)
    with pytest.raises(Stop, match="--rewind") as caught:
        SoloLearner(config)
    assert caught.value.code is ExitCode.ENVIRONMENT
    assert name in caught.value.message
    second = SoloLearner(config, rewind=True)
    assert second.reached.version.step == 1
    assert second.root == first.outcomes[0].root
    assert second.history.log.places() == [Place(1, 0)]
    aside = second.folder.trajectories / f"given-up-in-epoch-{second.epoch}"
    assert len(list(aside.iterdir())) == 6, "records and outcomes of steps 2, 3 and 4"
    second.take(2, 3)
    assert second.outcomes[-1].version == Version(second.epoch, 2)
    second.die()


def test_a_step_that_is_missing_is_a_damaged_one(config):
    first = SoloLearner(config)
    for numbers in STEPS:
        first.take(*numbers)
    first.die()
    (first.folder.trajectories / "step-00000002-0.vly").unlink()
    with pytest.raises(Stop, match=r"step-00000002-0\.vly: it is not there"):
        SoloLearner(config)


def test_told_to_stop_it_leaves_everything_for_the_next_start(config):
    first = SoloLearner(config)
    for numbers in STEPS:
        first.take(*numbers)
    first.die()
    stopping = threading.Event()
    stopping.set()
    second = SoloLearner(config, stopping=stopping)
    assert second.recovery.taken == []
    second.die()
    third = SoloLearner(config)
    assert_same(third, first)
    assert third.told[0] == "0 of 4 logged steps taken again"
    third.die()


class StopsAfter(threading.Event):
    """Told to stop while the process is looking for the n-th time."""

    def __init__(self, num_looks: int) -> None:
        super().__init__()
        self._looks_left = num_looks

    def is_set(self) -> bool:
        self._looks_left -= 1
        return self._looks_left < 0


def test_stopped_on_the_way_it_begins_again_from_the_start(config):
    first = SoloLearner(config)
    for numbers in STEPS:
        first.take(*numbers)
    first.die()
    second = SoloLearner(config, stopping=StopsAfter(2))
    assert [one.version.step for one in second.recovery.taken] == [1, 2]
    assert second.root == first.outcomes[1].root
    second.die()
    third = SoloLearner(config)
    assert_same(third, first)
    third.die()


def test_another_root_than_recorded_is_said_and_the_run_goes_on(config, caplog):
    first = SoloLearner(config)
    first.take(0, 1)
    first.log(group_of(2, "run"))
    result = first.train()
    # As another build would have done.
    with torch.no_grad():
        next(iter(first.policy.parameters().values())).mul_(1.01)
    first.conclude(result)
    first.die()
    second = SoloLearner(config)
    assert "another root than recorded" in caplog.text
    assert second.root != first.root
    second.take(4, 5)
    assert second.outcomes[-1].version == Version(second.epoch, 3)
    second.die()
