"""What trackers are told of a run that may die, go back and be resumed."""

import json
import sys
import threading
from collections.abc import Callable

import pytest
from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

from tests.waiting import wait_until
from volley.learner.metrics_file import MetricsLine
from volley.learner.run_folder import RunFolder
from volley.learner.tracker import TrackedRun
from volley.learner.tracker_tensorboard import TensorboardTracker
from volley.learner.trackers import Feed, Trackers, check_trackers
from volley.learner.tracking_settings import TrackingSettings
from volley.schemas.groups import Version
from volley.telemetry.stops import ExitCode, Stop


def line(step, **metrics):
    return MetricsLine(Version(1, step), "root", metrics)


class Memory:
    """A tracker that remembers what it was told, or does as it is bidden."""

    def __init__(self):
        self.begun_at = []
        self.told = []
        self.is_closed = False
        self.obey: Callable[[], object] = lambda: None

    def begin(self, next_step):
        self.begun_at.append(next_step)
        return self

    def log(self, step, values):
        self.obey()
        self.told.append((step, dict(values)))

    def close(self):
        self.is_closed = True

    def steps(self):
        return [step for step, _ in self.told]


@pytest.fixture
def folder(tmp_path):
    folder = RunFolder(tmp_path / "run")
    (folder.path / "tracking").mkdir()
    yield folder
    folder.close()


def tracking(folder, *trackers):
    return Trackers(
        [Feed(f"memory-{index}", folder, one.begin) for index, one in enumerate(trackers)]
    )


def told_step(folder, name):
    """The last one that is noted as told."""
    path = folder.path / "tracking" / f"{name}.json"
    return json.loads(path.read_text())["train"] if path.exists() else 0


def test_figures_are_named_for_their_file_and_what_is_missing_is_left_out(folder):
    memory = Memory()
    trackers = tracking(folder, memory)
    trackers.start([], [line(0, reward=0.25)])
    trackers.step(line(1, loss=0.5, kl=None))
    trackers.close()
    assert memory.told == [(0, {"evaluation/reward": 0.25}), (1, {"train/loss": 0.5})]
    assert memory.is_closed


def test_a_run_that_goes_on_tells_only_what_was_not_told(folder):
    first, second = Memory(), Memory()
    dies = tracking(folder, first)
    dies.start([], [])
    dies.step(line(1, loss=0.5))
    dies.step(line(2, loss=0.4))
    wait_until(lambda: told_step(folder, "memory-0") == 2)
    resumed = tracking(folder, second)
    # The third step was written, and its learner died before it was told.
    resumed.start([line(step, loss=0.1) for step in (1, 2, 3)], [line(0, reward=0.0)])
    resumed.step(line(4, loss=0.2))
    resumed.close()
    dies.close()
    assert second.steps() == [0, 3, 4]
    assert (first.begun_at, second.begun_at) == ([1], [3])


def test_a_run_that_has_gone_back_tells_its_new_steps(folder):
    first, second = Memory(), Memory()
    goes_back = tracking(folder, first)
    goes_back.start([line(step, loss=0.5) for step in (1, 2, 3)], [])
    goes_back.close()
    gone_back = tracking(folder, second)
    gone_back.start([line(1, loss=0.5)], [])
    gone_back.step(line(2, loss=0.3))
    gone_back.close()
    assert second.begun_at == [2]
    assert second.told == [(2, {"train/loss": 0.3})]


def test_one_that_fails_is_warned_of_once_and_made_up_for_at_the_next_start(folder, caplog):
    broken, whole, mended = Memory(), Memory(), Memory()

    def fail():
        raise OSError("no route to host")

    broken.obey = fail
    trackers = tracking(folder, broken, whole)
    trackers.start([], [])
    for step in (1, 2, 3):
        trackers.step(line(step, loss=0.5))
    trackers.close()
    assert whole.steps() == [1, 2, 3]
    (warning,) = caplog.messages
    assert warning == "memory-0 failed, the run goes on without it: no route to host"
    again = tracking(folder, mended)
    again.start([line(step, loss=0.5) for step in (1, 2, 3)], [])
    again.close()
    assert mended.steps() == [1, 2, 3]


def test_one_that_hangs_holds_up_neither_the_steps_nor_the_end(folder, caplog):
    hanging, let_go = Memory(), threading.Event()
    hanging.obey = let_go.wait
    feed = Feed("memory", folder, hanging.begin)
    Trackers([feed]).start([line(1, loss=0.5)], [])
    Trackers([feed]).step(line(2, loss=0.5))
    feed.close(timeout_s=0.01)
    assert caplog.messages == ["memory has not taken in everything"]
    let_go.set()
    wait_until(lambda: hanging.is_closed)
    assert hanging.steps() == [1, 2]


def test_a_tracker_that_is_not_installed_stops_the_run_with_the_extra_to_install(monkeypatch):
    check_trackers(TrackingSettings(report_to=("tensorboard", "wandb", "trackio")))
    monkeypatch.setitem(sys.modules, "wandb", None)
    check_trackers(TrackingSettings(report_to=("tensorboard",)))
    with pytest.raises(Stop, match=r"pip install 'volley-rl\[wandb\]'") as stopped:
        check_trackers(TrackingSettings.model_validate({"report_to": "wandb"}))
    assert stopped.value.code is ExitCode.ENVIRONMENT


def test_tensorboard_shows_each_step_once_after_a_death(tmp_path):
    def begin(next_step):
        return TensorboardTracker(
            TrackedRun("id", "name", "project", tmp_path, {"run": {"steps": 3}}, next_step)
        )

    dies = begin(1)
    for step, loss in ((1, 0.5), (2, 0.4), (3, 0.3)):
        dies.log(step, {"train/loss": loss})
    # It died before it could note that it had told the third one.
    resumed = begin(3)
    resumed.log(3, {"train/loss": 0.25})
    resumed.close()
    dies.close()
    events = EventAccumulator(str(tmp_path / "tensorboard"))
    events.Reload()
    seen = [(event.step, event.value) for event in events.Scalars("train/loss")]
    assert seen == [(1, 0.5), (2, pytest.approx(0.4)), (3, 0.25)]
    (config,) = {tag for tag in events.Tags()["tensors"] if tag.startswith("config")}
    assert b"steps = 3" in events.Tensors(config)[0].tensor_proto.string_val[0]
