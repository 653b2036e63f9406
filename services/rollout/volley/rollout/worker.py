"""The worker's loop: newest weights in, tasks in, groups out.

    learner --HTTP--> weight_sync --verified--> SWAP
    [tasks] ----------------------------------> LEASE -> episodes: STEP -> scoring -> [results]
                                                 ^                        |
                                  heartbeat ---- renews leases, DROPs lost ones

    stage   waits for                                   unblocked by
    swap    held-out prompts of the version that serves the end of their stream
    lease   a task, only while nothing is sampled       XADD by the learner, or IDLE_S
            newer weights, if the task asks for them    weight_sync, or IDLE_S
            rewards, if a batch waits for them already  scoring, or IDLE_S
            the end of all others, if it is to be alone scoring, within IDLE_S
            Redis, if it is away                        a pause, then it is asked again
    step    nothing: one token for every running row    -
            an environment, if no row is running        its answer, or 0.05 s
    drop    nothing: aborts what others have by now     -
    leave   what is in hand, at most DRAIN_S            the rest is handed back

Environments, rewards, deliveries, downloads and heartbeats are threads of their own, so none of
them stops the sampling.
"""

import logging
import os
import signal
import threading
import time
import traceback
from types import FrameType

from tenacity import before_sleep_log, retry, retry_if_exception_type, stop_after_attempt

from volley.rollout.engine import Engine, LoadFailed
from volley.rollout.episodes import Episodes, EpisodesFailed, EpisodesRequest
from volley.rollout.evaluating import Evaluating
from volley.rollout.leases import LeasedTask
from volley.rollout.scoring import failure_of
from volley.rollout.task_stream import TaskStream
from volley.rollout.weight_sync import VerifiedWeights, WeightSync
from volley.schemas.codec import encode
from volley.schemas.groups import FailureReason
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import RunSpec
from volley.telemetry.failpoints import reach
from volley.transport.redis_stream import QueueError

logger = logging.getLogger(__name__)

IDLE_S = 0.5
"""Longest wait in one go, so that signals and the end of the run are seen."""
LOAD_ATTEMPTS = 3
"""What fails as often in a row will not get better in this process."""
DRAIN_S = 3.0
"""What is in hand when the worker is told to stop has this long to be finished."""


def leave_on_signals() -> threading.Event:
    """Set at the first SIGTERM or SIGINT; the second ends the process at once."""
    leaving = threading.Event()

    def leave(signal_number: int, frame: FrameType | None) -> None:
        if leaving.is_set():
            os._exit(128 + signal_number)
        leaving.set()

    signal.signal(signal.SIGTERM, leave)
    signal.signal(signal.SIGINT, leave)
    return leaving


class Worker:
    """Answers tasks of one run until it is told to leave or the run is over."""

    def __init__(
        self,
        name: str,
        spec: RunSpec,
        engine: Engine,
        episodes: Episodes,
        weights: WeightSync,
        training: TaskStream,
        evaluating: Evaluating,
        leaving: threading.Event,
    ) -> None:
        self._name = name
        self._spec = spec
        self._engine = engine
        self._episodes = episodes
        self._weights = weights
        self._queue, self._leases = training.queue, training.leases
        self._scoring, self._intake = training.scoring, training.intake
        self._evaluating = evaluating
        self._leaving = leaving
        self._num_groups_at_once = engine.num_free_seqs // spec.sampling.num_generations
        self._serving: Manifest | None = None
        self._num_loads = 0
        self._load_s = 0.0
        self._last_load_s: float | None = None
        self._early: dict[str, LeasedTask] = {}
        """Leased, but they ask for newer weights than those that serve."""
        self._sampling: dict[str, LeasedTask] = {}
        self._alone: dict[str, LeasedTask] = {}
        """Leased, to be answered when nothing else is in hand."""

    @property
    def serving(self) -> Manifest | None:
        """The weights that are being sampled from."""
        return self._serving

    @property
    def num_loads(self) -> int:
        """Versions loaded since the start."""
        return self._num_loads

    @property
    def load_s(self) -> float:
        """How long that took in all, while nothing was sampled."""
        return self._load_s

    @property
    def last_load_s(self) -> float | None:
        """How long the newest of them took; None before the first."""
        return self._last_load_s

    def run(self) -> None:
        """Work; returns when everything in hand is delivered or handed back."""
        while not self._must_leave():
            self._swap_weights()
            self._lease_tasks()
            self._step_episodes()
            self._drop_lost_leases()
        self._finish_or_hand_back()

    def _must_leave(self) -> bool:
        self._weights.check()
        self._scoring.check()
        self._evaluating.check()
        return self._leaving.is_set() or self._weights.is_finished

    def _swap_weights(self) -> None:
        if self._evaluating.keeps_weights:
            return
        with self._weights.newest() as newest:
            if newest is None:
                return
            started = time.monotonic()
            self._load(newest)
            reach("mid-swap")
            duration_s = time.monotonic() - started
            self._serving = newest.manifest
        self._evaluating.begin(self._serving)
        self._num_loads += 1
        self._load_s += duration_s
        self._last_load_s = duration_s
        logger.info(
            "swapped weights",
            extra={
                "version": str(self._serving.version),
                "duration_s": round(duration_s, 3),
                "num_running": len(self._sampling),
            },
        )
        early, self._early = self._early, {}
        for leased in early.values():
            self._admit(leased)

    @retry(
        retry=retry_if_exception_type(LoadFailed),
        stop=stop_after_attempt(LOAD_ATTEMPTS),
        before_sleep=before_sleep_log(logger, logging.WARNING),
        reraise=True,
    )
    def _load(self, weights: VerifiedWeights) -> None:
        """Load, at once again where it broke off: until it succeeds nothing can be sampled."""
        self._engine.load(weights.tensors(), weights.manifest.version)

    def _lease_tasks(self) -> None:
        num_generations = self._spec.sampling.num_generations
        while num_groups := self._episodes.num_free_seqs // num_generations:
            # Whatever is waited for here, running rows would wait for as well.
            block_s = 0.0 if self._is_busy else IDLE_S
            # First, for the weights that others wait for come only when there are none left.
            if not self._evaluating.is_sampling and self._evaluating.take(1):
                continue
            if self._start_alone():
                self._weights.wait(block_s)
                return
            # With slow rewards a worker would take all there is, and others would have nothing.
            if not self._scoring.has_room(self._num_groups_at_once, block_s):
                return
            taken = self._intake.take(num_groups, block_s) if self._is_current() else []
            if not taken and not self._evaluating.take(num_groups):
                if not self._is_current():
                    self._weights.wait(block_s)
                return
            for leased in taken:
                self._leases.add(leased)
                self._admit(leased)

    @property
    def _is_busy(self) -> bool:
        return bool(self._sampling) or self._evaluating.keeps_weights

    def _is_current(self) -> bool:
        """Whether the serving weights are new enough to begin anything."""
        head = self._weights.head
        if head is None or self._serving is None or self._early:
            return False
        return head.version.step - self._serving.version.step <= self._spec.max_staleness

    def _admit(self, leased: LeasedTask) -> None:
        """Start a task as soon as its weights are here and its company suits it."""
        assert self._serving is not None, "nothing is leased before the first weights"
        if leased.task.min_version > self._serving.version:
            self._early[leased.id] = leased
        elif not leased.task.alone:
            self._start(leased)
        elif self._is_only_suspect(leased):
            self._alone[leased.id] = leased
        else:
            # If the other one kills this worker too, this one is not to be blamed for it again.
            self._fail(leased, FailureReason.HANDED_BACK, "the worker has another one like it")

    def _is_only_suspect(self, leased: LeasedTask) -> bool:
        others = (held for held in self._leases.held() if held.id != leased.id)
        return not any(other.task.alone for other in others)

    def _start_alone(self) -> bool:
        """Whether what is in hand wants no company; the first such task begins when it has none."""
        held = self._leases.held()
        if self._alone and len(held) == len(self._alone):
            self._start(self._alone.pop(next(iter(self._alone))))
        self._leases.put_last(frozenset(self._alone))
        return any(leased.task.alone for leased in held)

    def _start(self, leased: LeasedTask) -> None:
        task = leased.task
        self._episodes.begin(
            EpisodesRequest(
                leased.id,
                task.prompt,
                task.prompt_ids,
                task.columns,
                task.seed,
                self._spec.sampling,
            )
        )
        self._sampling[leased.id] = leased

    def _step_episodes(self) -> None:
        if not (self._sampling or self._evaluating.is_sampling):
            return
        try:
            step = self._evaluating.split(self._episodes.step())
        except Exception:
            self._evaluating.break_off()
            for leased in self._sampling.values():
                self._fail(leased, FailureReason.ENGINE, traceback.format_exc())
            self._scoring.close(DRAIN_S)
            raise
        self._leases.advance(step.num_tokens)
        self._leases.wait(self._episodes.waiting)
        reach("mid-generation")
        for ended in step.ended:
            leased = self._sampling.pop(ended.id)
            if isinstance(ended, EpisodesFailed):
                self._fail(leased, ended.reason, ended.detail)
            else:
                self._scoring.submit(leased, ended.episodes)

    def _drop_lost_leases(self) -> None:
        self._evaluating.drop_lost()
        for task_id in self._leases.take_lost():
            if self._sampling.pop(task_id, None):
                self._episodes.abort(task_id)
            elif not (self._early.pop(task_id, None) or self._alone.pop(task_id, None)):
                # Being scored, or delivered by now: the queue will call it a duplicate.
                continue
            self._leases.release(task_id, completed=False)
            logger.warning("lost a lease", extra={"task": task_id})

    def _finish_or_hand_back(self) -> None:
        deadline = time.monotonic() + DRAIN_S
        if not self._weights.is_finished:
            while self._sampling and time.monotonic() < deadline:
                self._step_episodes()
        self._scoring.close(max(0.0, deadline - time.monotonic()))
        self._evaluating.leave(max(0.0, deadline - time.monotonic()))
        held = self._leases.held()
        try:
            for leased in held:
                failure = failure_of(
                    leased.task, self._name, FailureReason.HANDED_BACK, "the worker is leaving"
                )
                self._queue.complete(leased.lease, encode(failure))
        except QueueError as error:
            logger.warning("could not hand tasks back: %s", error)
        logger.info(
            "left the run",
            extra={"num_groups": self._leases.num_groups, "num_handed_back": len(held)},
        )

    def _fail(self, leased: LeasedTask, reason: FailureReason, detail: str) -> None:
        self._scoring.submit_failure(
            leased.lease, failure_of(leased.task, self._name, reason, detail)
        )
