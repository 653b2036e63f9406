"""Where a run's figures go beside its folder: to trackers, each fed by a thread of its own.

    Record --line--> queue --> thread --> tracker, then tracking/<name>.json: how far it came

So no tracker holds up the training, whatever it waits for. Every line of metrics.jsonl and
evaluations.jsonl is told once: a learner that resumes goes on behind those that were told. A
tracker that fails is warned of once and left alone until the next start, which makes up for it.
"""

import importlib.util
import logging
import queue
import threading
import time
from collections.abc import Callable, Iterable, Sequence
from contextlib import closing
from dataclasses import dataclass
from functools import partial
from itertools import chain
from typing import Literal

import msgspec

from volley.learner.metrics_file import MetricsLine
from volley.learner.run_folder import RunFolder, masked
from volley.learner.settings import Settings
from volley.learner.tracker import CLOSE_S, TrackedRun, Tracker
from volley.learner.tracking_settings import TrackerName, TrackingSettings
from volley.telemetry.stops import ExitCode, Stop

logger = logging.getLogger(__name__)

Kind = Literal["train", "evaluation"]


@dataclass(frozen=True, slots=True)
class Report:
    """A line of metrics.jsonl or evaluations.jsonl."""

    kind: Kind
    line: MetricsLine

    @property
    def step(self) -> int:
        return self.line.version.step

    @property
    def values(self) -> dict[str, float]:
        """What there is of it, under names that trackers group by their first part."""
        return {
            f"{self.kind}/{name}": value
            for name, value in self.line.metrics.items()
            if value is not None
        }


class Feed:
    """One tracker, its thread, and how far it has come."""

    def __init__(self, name: str, folder: RunFolder, begin: Callable[[int], Tracker]) -> None:
        """`begin` makes the tracker of a run whose next step has that number."""
        self._name = name
        self._folder = folder
        self._begin = begin
        self._waiting: queue.SimpleQueue[Report | None] = queue.SimpleQueue()
        self._thread = threading.Thread()

    def start(self, known: Sequence[Report]) -> None:
        """Tell what was not told yet of all that is known of a run, then what comes."""
        # A daemon: what it waits for must not keep the process from leaving.
        self._thread = threading.Thread(
            target=self._work, args=(known,), name=f"tracking-{self._name}", daemon=True
        )
        self._thread.start()

    def put(self, report: Report) -> None:
        """Tell this soon, or never if the tracker has failed."""
        if self._thread.is_alive():
            self._waiting.put(report)

    def close(self, timeout_s: float) -> None:
        """Return when all is told, or after `timeout_s`."""
        if self._thread.is_alive():
            self._waiting.put(None)
            self._thread.join(timeout_s)
        if self._thread.is_alive():
            logger.warning("%s has not taken in everything", self._name)

    def _work(self, known: Sequence[Report]) -> None:
        try:
            told = self._read_told(max((report.step for report in known), default=0))
            untold = [report for report in known if report.step > told.get(report.kind, -1)]
            with closing(self._begin(told.get("train", 0) + 1)) as tracker:
                for report in chain(untold, iter(self._waiting.get, None)):
                    tracker.log(report.step, report.values)
                    told[report.kind] = report.step
                    self._folder.write_json(self._place, dict(told))
        except Exception as error:
            # Whatever it is, of a service or its library: the run does not depend on it.
            logger.warning("%s failed, the run goes on without it: %s", self._name, error)

    def _read_told(self, head: int) -> dict[str, int]:
        """The steps of the last reports; of a run that went back none behind its head."""
        if not (self._folder.path / self._place).exists():
            return {}
        told = msgspec.convert(self._folder.read_json(self._place), dict[str, int])
        return {kind: min(step, head) for kind, step in told.items()}

    @property
    def _place(self) -> str:
        return f"tracking/{self._name}.json"


class Trackers:
    """All trackers of one run; none of them, of most runs."""

    def __init__(self, feeds: Sequence[Feed]) -> None:
        self._feeds = feeds

    @classmethod
    def of(cls, settings: Settings, folder: RunFolder) -> "Trackers":
        """Those that the settings name, which begin when they are started."""
        tracking = settings.tracking
        if tracking.report_to:
            (folder.path / "tracking").mkdir(exist_ok=True)
        return cls(
            [
                Feed(name, folder, partial(_begin, name, settings, folder))
                for name in tracking.report_to
            ]
        )

    def start(self, steps: Iterable[MetricsLine], evaluations: Iterable[MetricsLine]) -> None:
        """Tell what was not told yet of all that is known of the run."""
        known = [Report("train", line) for line in steps]
        known += [Report("evaluation", line) for line in evaluations]
        known.sort(key=lambda report: report.step)
        for feed in self._feeds:
            feed.start(known)

    def step(self, line: MetricsLine) -> None:
        """Tell of a step that was taken."""
        self._put(Report("train", line))

    def evaluation(self, line: MetricsLine) -> None:
        """Tell of a version that was evaluated."""
        self._put(Report("evaluation", line))

    def close(self) -> None:
        """Let all trackers finish, as far as they do so in time."""
        deadline_s = time.monotonic() + CLOSE_S
        for feed in self._feeds:
            feed.close(max(0.0, deadline_s - time.monotonic()))

    def _put(self, report: Report) -> None:
        for feed in self._feeds:
            feed.put(report)


def check_trackers(tracking: TrackingSettings) -> None:
    """Raise Stop if one of them is not installed."""
    for name in tracking.report_to:
        if importlib.util.find_spec(name) is None:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"tracking.report_to: {name} is not installed: pip install 'volley-rl[{name}]', "
                f"or leave {name} out",
            )


def _begin(name: TrackerName, settings: Settings, folder: RunFolder, next_step: int) -> Tracker:
    """In its own thread, as these libraries take their time to be imported."""
    tracking = settings.tracking
    run = TrackedRun(
        id=folder.run,
        name=tracking.run_name or folder.run,
        project=tracking.project,
        folder=folder.path,
        config=masked(settings),
        next_step=next_step,
    )
    match name:
        case "tensorboard":
            from volley.learner.tracker_tensorboard import TensorboardTracker

            return TensorboardTracker(run)
        case "wandb":
            from volley.learner.tracker_wandb import WandbTracker

            return WandbTracker(run)
        case "trackio":
            from volley.learner.tracker_trackio import TrackioTracker

            return TrackioTracker(run)
