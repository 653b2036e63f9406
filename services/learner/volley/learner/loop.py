"""The learner's loop: where groups become steps and steps become weights.

    issue -> [tasks] -> workers -> [results] -> collect -> judge -> log -> drop -> train -+
      ^                                           |                  |             |      |
      |                                           waits for a        waits for     the    |
      |                                           result in Redis    the disk      device |
      |                                                                                   |
      +-------- wakes the workers -------- announce <- conclude <- stage the weights <----+

A group is on the disk before it is trained, and what became of it before the weights are seen: so
a learner that is killed at any point goes on from there. A place is free once its number is
closed, and it is filled after the announcement, so that nothing is sampled from weights that are
about to be replaced. While Redis is away the loop waits until a reconcile succeeds: that finishes
whatever the failed call had begun. While the disk is full it waits for room. A second thread
watches the leases, so that a dead worker's tasks move on while a long step trains. Signals set
one event.
"""

import logging
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from types import FrameType

import tenacity

from volley.learner.alarms import Alarms
from volley.learner.control import Control
from volley.learner.disk import Disk
from volley.learner.evaluations import Evaluations
from volley.learner.gathering import Gathering
from volley.learner.history import History, Reached
from volley.learner.leases import LeaseClock
from volley.learner.publisher import Publisher
from volley.learner.record import Record
from volley.learner.status import Progress
from volley.learner.tasks import Tasks
from volley.learner.update import StepResult, Update
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import Group, Version
from volley.schemas.manifest import Manifest
from volley.schemas.status import LearnerState
from volley.telemetry.failpoints import reach
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_stream import (
    Delivery,
    LearnerQueue,
    QueueError,
    QueueFenced,
    QueueForgotten,
    QueueFull,
    QueueUnavailable,
)

logger = logging.getLogger(__name__)

COLLECT_BLOCK_S = 1.0
PAUSED_LOOK_S = 0.2
"""How often a paused loop looks whether it may go on."""
FIRST_CONNECT_S = 15.0
"""A Redis that has never answered has a wrong address, not a bad day."""
RETRY_MAX_S = 5.0
LEASE_LOOKS = 5
"""Looks at the leases in the time after which one is lost."""

PASSING = (QueueUnavailable, QueueForgotten, QueueFull)
"""Troubles of Redis that end by waiting and reconciling."""


@dataclass(frozen=True, slots=True)
class LoopRules:
    """When a step is full, when the run is done, and when it gives up."""

    steps: int
    groups_per_step: int
    max_refill_groups: int
    lease_s: float
    max_idle_rounds: int = 20
    """Rounds in a row in which no group had a signal."""
    max_refused_rounds: int = 3
    """Rounds in a row with a loss or gradient that was not finite."""


class Loop:
    """Runs until its steps are done, it is told to stop, or something raises Stop."""

    def __init__(
        self,
        rules: LoopRules,
        tasks: Tasks,
        queue: LearnerQueue,
        update: Update,
        publisher: Publisher,
        store: WeightStore,
        history: History,
        disk: Disk,
        alarms: Alarms,
        evaluations: Evaluations | None,
        record: Record,
        progress: Progress,
        control: Control,
        stopping: threading.Event,
    ) -> None:
        self._rules = rules
        self._tasks = tasks
        self._queue = queue
        self._update = update
        self._publisher = publisher
        self._store = store
        self._history = history
        self._disk = disk
        self._alarms = alarms
        self._evaluations = evaluations
        self._record = record
        self._progress = progress
        self._control = control
        self._uncollected: deque[Delivery] = deque()
        self._rounds_without_step = 0
        self._stopping = stopping

    def run(self) -> None:
        """Take the steps of the run; returns early, after the step in hand, when told to stop."""
        self._announce(self._stage(self._progress.version))
        self._connect()
        self._save()
        self._record.begin()
        with self._watching_leases():
            while not self._is_over():
                groups = self._collect()
                if self._stopping.is_set():
                    break
                self._log(groups)
                result = self._train(groups)
                self._conclude(groups, result)
                self._save_if_due()
                self._stop_if_nothing_changes(result)
        self._save()
        self._finish_evaluation()
        self._progress.state = LearnerState.FINISHED if self._is_done() else LearnerState.STOPPED

    def _is_done(self) -> bool:
        return self._progress.version.step >= self._rules.steps

    def _is_over(self) -> bool:
        return self._is_done() or self._stopping.is_set()

    def _stage(self, version: Version) -> Manifest:
        """The weights at hand, ready to be announced as `version`."""
        with self._record.timing(LearnerState.PUBLISHING):
            return self._publisher.stage(version)

    def _collect(self) -> list[Group]:
        """A step's worth of groups; fewer when told to stop."""
        head = self._progress.version
        gathering = Gathering(
            *(self._rules.groups_per_step, self._rules.max_refill_groups),
            teaches=lambda group: self._update.teaches(group, head),
        )
        while not gathering.is_full and not self._stopping.is_set():
            self._heed_control()
            with self._record.timing(LearnerState.WAITING):
                self._with_redis(lambda: self._collect_some(gathering))
        return gathering.groups

    def _heed_control(self) -> None:
        """Do what people ask for; returns once they want no pause (any more)."""
        if self._control.take_checkpoint():
            self._save()
        while self._control.is_paused:
            with self._record.timing(LearnerState.PAUSED):
                self._stopping.wait(PAUSED_LOOK_S)
            if self._control.take_checkpoint():
                self._save()

    def _collect_some(self, gathering: Gathering) -> None:
        self._attend_evaluation()
        if self._disk.has_room():
            self._tasks.issue(self._progress.version, gathering.num_refill)
        if not self._uncollected:
            self._uncollected.extend(self._queue.collect(COLLECT_BLOCK_S))
        while self._uncollected and not gathering.is_full:
            group = self._tasks.judge(self._uncollected.popleft())
            if group is not None:
                gathering.add(group)

    def _log(self, groups: list[Group]) -> None:
        """Put the groups on the disk, then let Redis forget them."""
        reach("after-collect")
        ledger, changes = self._tasks.snapshot()
        head = self._progress.version
        self._disk.write(lambda: self._history.append(groups, head, changes, ledger))
        reach("after-log")
        self._with_redis(lambda: self._tasks.logged(groups, changes))
        reach("after-drop")

    def _train(self, groups: list[Group]) -> StepResult:
        place, mark = self._history.place, self._history.mark
        with self._record.timing(LearnerState.TRAINING):
            result = self._update.step(
                groups,
                self._progress.version,
                before_batch=lambda numbers: mark.name(place, numbers),
            )
        event = "took a step" if result.applied else "took no step"
        logger.info(event, extra={"step": self._progress.version.step + 1, **result.metrics})
        return result

    def _conclude(self, groups: list[Group], result: StepResult) -> None:
        """Put on the disk what became of the step, then let everybody see it."""
        progress = self._progress
        if not result.applied:
            version, root = progress.version, progress.root
            outcome = self._disk.write(lambda: self._history.conclude(result, version, root))
            self._tasks.close(outcome)
            return
        manifest = self._disk.write(lambda: self._stage(_next(progress.version)))
        reach("after-blobs")
        outcome = self._disk.write(
            lambda: self._history.conclude(result, manifest.version, manifest.root)
        )
        reach("after-outcome")
        self._tasks.close(outcome)
        self._announce(manifest)
        reach("after-publish")
        line = self._record.step(groups, result, self._tasks.take_stale())
        self._disk.write(lambda: self._record.write(line))
        self._heed_alarms(result)

    def _heed_alarms(self, result: StepResult) -> None:
        for alarm in self._alarms.look(result.metrics):
            logger.warning(alarm.message)
            self._progress.note(alarm, self._progress.version.step)
            if alarm.stops:
                raise Stop(ExitCode.DIVERGED, alarm.message)

    def _announce(self, manifest: Manifest) -> None:
        self._progress.version, self._progress.root = manifest.version, manifest.root
        self._store.announce(self._begin_evaluation(manifest))
        logger.info(
            "published weights",
            extra={"version": str(manifest.version), "root": manifest.root},
        )

    def _begin_evaluation(self, manifest: Manifest) -> Manifest:
        """What to announce: where the version is to be evaluated, its tasks are waiting."""
        return self._evaluations.begin(manifest) if self._evaluations else manifest

    def _attend_evaluation(self) -> None:
        if self._evaluations:
            self._evaluations.attend()
            self._record_evaluations(self._evaluations)

    def _finish_evaluation(self) -> None:
        if self._evaluations:
            self._progress.state = LearnerState.EVALUATING
            self._evaluations.finish()
            self._record_evaluations(self._evaluations)

    def _record_evaluations(self, evaluations: Evaluations) -> None:
        for line in evaluations.take_over():
            self._disk.write(partial(self._record.evaluation, line))

    def _save_if_due(self) -> None:
        if self._history.is_save_due():
            self._save()

    def _save(self) -> None:
        """Snapshot all that a restart needs, unless nothing has happened since the last time."""
        if not self._history.has_unsaved:
            return
        ledger, changes = self._tasks.snapshot()
        progress = self._progress
        self._history.save(
            Reached(
                version=progress.version,
                root=progress.root,
                place=self._history.place,
                ledger=ledger,
                closed=changes.closed,
                num_samples=progress.num_samples,
                num_tokens=progress.num_tokens,
            ),
            self._update.tensors(),
        )

    def _stop_if_nothing_changes(self, result: StepResult) -> None:
        self._rounds_without_step = 0 if result.applied else self._rounds_without_step + 1
        if result.refused and self._rounds_without_step >= self._rules.max_refused_rounds:
            raise Stop(
                ExitCode.DIVERGED,
                f"loss or gradient was not finite in {self._rounds_without_step} rounds in a row; "
                f"the weights of step {self._progress.version.step} stay published: lower "
                "optim.learning_rate, or see the last lines of metrics.jsonl",
            )
        if self._rounds_without_step >= self._rules.max_idle_rounds:
            raise Stop(
                ExitCode.CONFIG,
                f"no group had a signal in {self._rounds_without_step} rounds: within each group "
                "all rewards are equal. Use easier prompts, a warmer start or a finer reward",
            )

    def _connect(self) -> None:
        self._with_redis(self._tasks.reconcile, tenacity.stop_after_delay(FIRST_CONNECT_S))

    def _with_redis(
        self, action: Callable[[], None], stop: tenacity.stop.stop_base = tenacity.stop_never
    ) -> None:
        """Do `action`; if Redis is away or forgot the run, wait and let a reconcile finish it."""
        try:
            try:
                action()
            except PASSING as error:
                self._progress.redis = f"degraded: {error}"
                logger.warning("waiting for Redis", extra={"reason": str(error)})
                self._reconcile(stop)
                self._progress.redis = "ok"
                logger.info("reconciled with Redis")
        except QueueFenced as error:
            raise Stop(ExitCode.ANOTHER_LEARNER, str(error)) from error
        except QueueError as error:
            raise Stop(ExitCode.ENVIRONMENT, str(error)) from error

    def _reconcile(self, stop: tenacity.stop.stop_base) -> None:
        """Try until Redis holds exactly the open numbers, or the run is told to stop."""
        self._uncollected.clear()
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(PASSING),
            wait=tenacity.wait_exponential(multiplier=0.1, max=RETRY_MAX_S),
            sleep=tenacity.sleep_using_event(self._stopping),
            stop=stop | tenacity.stop_when_event_set(self._stopping),
            reraise=True,
        )
        try:
            retry(self._tasks.reconcile)
        except PASSING:
            if not self._stopping.is_set():
                raise

    @contextmanager
    def _watching_leases(self) -> Iterator[None]:
        ended = threading.Event()
        watch = threading.Thread(target=self._watch_leases, args=(ended,), name="leases")
        watch.start()
        try:
            yield
        finally:
            ended.set()
            watch.join()

    def _watch_leases(self, ended: threading.Event) -> None:
        clock = LeaseClock(self._rules.lease_s)
        while not ended.wait(self._rules.lease_s / LEASE_LOOKS):
            try:
                for task in clock.stalled(self._queue.held_tasks(), time.monotonic()):
                    self._tasks.lease_lost(task)
            except PASSING:
                # The loop reconciles; until then nobody could have shown progress.
                clock.forget()
            except QueueFenced:
                return


def stop_on_signals() -> threading.Event:
    """Set at the first SIGTERM or Ctrl-C; a second one ends the process."""
    stopping = threading.Event()

    def stop(number: int, frame: FrameType | None) -> None:
        stopping.set()
        signal.signal(number, signal.SIG_DFL)

    for name in (signal.SIGTERM, signal.SIGINT):
        signal.signal(name, stop)
    return stopping


def _next(version: Version) -> Version:
    return Version(version.epoch, version.step + 1)
