"""A learner put together from its settings, run to its end, and taken apart again.

A run folder with state is resumed: the server answers while the logged steps are taken again, and
the loop begins where the run had come to.
"""

import logging
import sys
import threading
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import msgspec
import tenacity
import torch

from volley.learner.alarms import Alarms
from volley.learner.api import ApiServer, create_app
from volley.learner.dead import DeadLetters
from volley.learner.disk import Disk
from volley.learner.history import History, Reached
from volley.learner.identity import identify, keep_config
from volley.learner.ledger import Ledger
from volley.learner.loop import Loop, LoopRules, stop_on_signals
from volley.learner.policy import Policy
from volley.learner.prompts import read_rows, tokenise_rows
from volley.learner.publisher import Publisher
from volley.learner.record import Record
from volley.learner.recovery import Recovery
from volley.learner.replay import Replay, recorded_settings
from volley.learner.reward_code import read_reward_specs
from volley.learner.run_folder import RunFolder
from volley.learner.run_spec import describe_run, group_limits
from volley.learner.settings import Settings
from volley.learner.status import Progress, report_status
from volley.learner.tasks import TaskRules, Tasks
from volley.learner.update import Update
from volley.learner.weight_store import WeightStore, root_of_tensors
from volley.schemas.groups import Version
from volley.schemas.status import LearnerState, StatusReport
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_stream import LearnerQueue, QueueError, QueueUnavailable

logger = logging.getLogger(__name__)

FIRST_CONNECT_S = 30.0
"""A Redis that has not answered for so long has a wrong address, not a slow start."""


@dataclass(frozen=True, slots=True)
class Start:
    """What one start of a learner is told."""

    settings: Settings
    code_folder: Path
    """Of the reward functions."""
    folder: RunFolder
    redis_url: str
    token: str
    rewind: bool
    """Logged steps that cannot be read are given up, and all after them."""


def run_learner(start: Start) -> None:
    """Train as the settings say; the folder holds the model and a summary afterwards.

    One line of JSON on standard output says where the learner listens, as soon as it does.
    """
    stopping = stop_on_signals()
    Learner(start, stopping).run()


class Learner:
    """The parts of a learner; what there is to be resumed is resumed when it runs."""

    def __init__(self, start: Start, stopping: threading.Event) -> None:
        settings, folder = start.settings, start.folder
        self._start = start
        self._stopping = stopping
        rewards = read_reward_specs(settings.reward, start.code_folder)
        rows = read_rows(settings.data.train)
        torch.set_num_threads(settings.devices.threads)
        torch.manual_seed(settings.run.seed)
        self._policy = policy = Policy.load(settings.model, settings.devices.learner)
        room = policy.context_length - settings.sampling.max_completion_length
        prompts = tokenise_rows(rows, policy.tokenise, room, settings.run.seed)
        self._start_root = root_of_tensors(policy.published_tensors())
        identity = identify(settings, folder, self._start_root, rewards)
        fingerprints = keep_config(settings, folder, identity)
        limits = group_limits(settings, policy.vocab_size, folder.run)

        self._queue = _claim_queue(start.redis_url, folder)
        self._progress = progress = Progress(
            folder.run, settings.run.steps, Version(self._queue.epoch, 0)
        )
        self._tasks = Tasks(
            *(prompts, self._queue, limits, _task_rules(settings)),
            *(progress.version, DeadLetters(folder.dead)),
        )
        self._update = Update(policy, settings)
        self._store = store = WeightStore(folder.weights, folder.run, settings.weights.keep)
        self._history = History(folder, settings.checkpoint, fingerprints)
        self._replay = Replay(
            *(policy, self._update, limits),
            lambda config: recorded_settings(folder.config(config), settings),
        )
        self._alarms = Alarms(settings.alarms)
        self._record = Record(folder, progress, prompts)
        disk = Disk(folder.path, settings.checkpoint.min_free_bytes, progress, stopping)
        publisher = Publisher(policy, store)
        self._loop = Loop(
            *(_loop_rules(settings), self._tasks, self._queue, self._update, publisher, store),
            *(self._history, disk, self._alarms, self._record, progress, stopping),
        )
        spec = describe_run(
            *(settings, policy, store, folder.run, rewards),
            *(start.code_folder, start.redis_url),
        )
        self._api = ApiServer(
            create_app(store, spec, self._report, start.token),
            *(settings.server.host, settings.server.port),
        )

    def run(self) -> None:
        """Go on where the run had come to, until its end or until told to stop."""
        folder = self._start.folder
        with closing(self._queue), self._serving():
            if not self._resume():
                return
            with _remembering_divergence(folder):
                self._loop.run()
            self._record.summary(self._report())
            self._policy.save_pretrained(folder.model)

    def _resume(self) -> bool:
        """Be where the folder says the run was; False when told to stop on the way."""
        progress = self._progress
        epoch = progress.version.epoch
        recovery = Recovery(self._history, self._replay, epoch, rewind=self._start.rewind)
        beginning = Reached(progress.version, self._start_root)
        reached = recovery.run(beginning, self._stopping, partial(_tell_replay, progress))
        if self._stopping.is_set():
            return False
        self._update.adopt(self._start.settings)
        progress.version, progress.root = Version(epoch, reached.version.step), reached.root
        progress.num_samples, progress.num_tokens = reached.num_samples, reached.num_tokens
        progress.replay = None
        self._tasks.resume(
            *(Ledger.of(reached.ledger), reached.closed, reached.reopened),
            *(progress.version, recovery.concluded),
        )
        for line in self._record.resume(recovery.taken):
            self._alarms.look(line.metrics)
        return True

    def _report(self) -> StatusReport:
        places = _task_rules(self._start.settings).places
        return report_status(self._progress, self._tasks, self._queue, places)

    @contextmanager
    def _serving(self) -> Iterator[None]:
        """Reachable while inside, and says where; workers are told when the run is over."""
        folder, api = self._start.folder, self._api
        api.start()
        try:
            folder.write_server(api.url, self._start.token)
            place = {"url": api.url, "run": folder.run, "folder": str(folder.path)}
            sys.stdout.write(msgspec.json.encode(place).decode() + "\n")
            sys.stdout.flush()
            yield
        finally:
            if self._progress.state is LearnerState.FINISHED:
                self._store.finish()
            self._store.close()
            api.stop()


def _claim_queue(redis_url: str, folder: RunFolder) -> LearnerQueue:
    """The queue under an epoch that is on the disk before anybody hears of it."""
    retry = tenacity.Retrying(
        retry=tenacity.retry_if_exception_type(QueueUnavailable),
        wait=tenacity.wait_fixed(1.0),
        stop=tenacity.stop_after_delay(FIRST_CONNECT_S),
        before_sleep=_tell_waiting,
        reraise=True,
    )
    try:
        queue: LearnerQueue = retry(LearnerQueue.claim, redis_url, folder.run, folder.epoch())
    except QueueError as error:
        raise Stop(ExitCode.ENVIRONMENT, str(error)) from error
    folder.enter_epoch(queue.epoch)
    return queue


def _tell_waiting(state: tenacity.RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        logger.warning("waiting for Redis", extra={"reason": str(state.outcome.exception())})


def _tell_replay(progress: Progress, how_far: str) -> None:
    progress.state, progress.replay = LearnerState.REPLAYING, how_far
    logger.info("resuming: %s", how_far)


@contextmanager
def _remembering_divergence(folder: RunFolder) -> Iterator[None]:
    """Let the next start know that a person has to look first."""
    try:
        yield
    except Stop as stop:
        if stop.code is ExitCode.DIVERGED:
            folder.remember_divergence(stop.message)
        raise


def _task_rules(settings: Settings) -> TaskRules:
    return TaskRules(
        places=(settings.queue.max_staleness + 1) * settings.optim.groups_per_step,
        max_staleness=settings.queue.max_staleness,
        max_attempts=settings.queue.max_attempts,
        seed=settings.run.seed,
    )


def _loop_rules(settings: Settings) -> LoopRules:
    return LoopRules(
        steps=settings.run.steps,
        groups_per_step=settings.optim.groups_per_step,
        max_refill_groups=settings.optim.max_refill_groups,
        lease_s=settings.queue.lease_s,
    )
