"""A learner put together from its settings, run to its end, and taken apart again.

A run folder with state is resumed: the server answers while the logged steps are taken again, and
the loop begins where the run had come to. Before all that comes the cold start, if there is one.
"""

import logging
import threading
from collections.abc import Iterator, Sequence
from contextlib import closing, contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import tenacity
import torch

from volley.learner.alarms import Alarms
from volley.learner.chat_frames import framed
from volley.learner.control import Control
from volley.learner.dead import DeadLetters
from volley.learner.disk import Disk
from volley.learner.environment_code import read_environment_spec, tool_schemas
from volley.learner.evaluations import EvaluationRules, Evaluations
from volley.learner.front import Front
from volley.learner.health import HealthRules, judged
from volley.learner.history import History, Reached
from volley.learner.identity import identify, keep_config
from volley.learner.ledger import Ledger
from volley.learner.loop import Loop, LoopRules, stop_on_signals
from volley.learner.policy import Policy
from volley.learner.prompts import Prompts, Row, read_rows, tokenise_rows
from volley.learner.publisher import Publisher
from volley.learner.record import Record
from volley.learner.recovery import Recovery
from volley.learner.replay import Replay, recorded_settings
from volley.learner.reward_code import read_reward_specs
from volley.learner.run_folder import RunFolder, after_cold_start
from volley.learner.run_spec import (
    describe_run,
    evaluation_samplings,
    group_limits,
    sampling_spec,
)
from volley.learner.served import Served
from volley.learner.settings import Settings
from volley.learner.status import Progress, report_status
from volley.learner.tasks import TaskRules, Tasks
from volley.learner.token import Tokens
from volley.learner.trackers import Trackers, check_trackers
from volley.learner.update import Update
from volley.learner.warm_up import warm_up
from volley.learner.weight_store import WeightStore, root_of_tensors
from volley.schemas.groups import Version
from volley.schemas.run_spec import EnvironmentSpec, RewardSpec, SamplingSpec
from volley.schemas.status import LearnerState, StatusReport
from volley.telemetry.logs import on_every_line
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_stream import (
    LearnerQueue,
    QueueError,
    QueueUnavailable,
    evaluation_stream,
)

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
    tokens: Tokens
    rewind: bool
    """Logged steps that cannot be read are given up, and all after them."""


@dataclass(frozen=True, slots=True)
class Files:
    """What a person has written for the run, read before anything that takes long."""

    rewards: tuple[RewardSpec, ...]
    environment: EnvironmentSpec | None
    rows: list[Row]
    held_out: list[Row]

    @classmethod
    def read(cls, start: Start) -> "Files":
        """All of it; raises Stop naming what is wrong."""
        settings = start.settings
        return cls(
            read_reward_specs(settings.reward, start.code_folder),
            read_environment_spec(settings.environment, start.code_folder),
            read_rows(settings.data.train),
            read_held_out(settings),
        )


def run_learner(start: Start) -> None:
    """Train as the settings say; the folder holds the model and a summary afterwards.

    One line of JSON on standard output says where the learner listens, as soon as it does.
    """
    settings, folder = start.settings, start.folder
    check_trackers(settings.tracking)
    files = Files.read(start)
    tools = tool_schemas(files.environment)
    stopping = stop_on_signals()
    control = Control(stopping)
    with Front(settings.server, folder, start.tokens) as front:
        if warm_up(settings, folder, front, control, stopping, tools):
            Learner(start, files, front, control, stopping).run()


class Learner:
    """The parts of a learner; what there is to be resumed is resumed when it runs."""

    def __init__(
        self,
        start: Start,
        files: Files,
        front: Front,
        control: Control,
        stopping: threading.Event,
    ) -> None:
        folder = start.folder
        self._settings = settings = after_cold_start(start.settings, folder.path)
        self._start = start
        self._front = front
        self._stopping = stopping
        torch.set_num_threads(settings.devices.threads)
        torch.manual_seed(settings.run.seed)
        self._policy = policy = Policy.load(
            settings.model, settings.devices.learner, tool_schemas(files.environment)
        )
        prompts = tokenised(files.rows, policy, settings)
        stop_token_ids = policy.stop_token_ids(settings.sampling.stop_token_ids)
        environment = framed(files.environment, policy, stop_token_ids, files.rows)
        self._start_root = root_of_tensors(policy.published_tensors())
        identity = identify(settings, folder, self._start_root, files.rewards, environment)
        fingerprints = keep_config(start.settings, folder, identity)
        limits = group_limits(settings, policy.vocab_size, folder.run)

        self._queue = _claim_queue(start.redis_url, folder)
        version = Version(self._queue.epoch, 0)
        self._progress = progress = Progress(folder.run, settings.run.steps, version)
        self._tasks = Tasks(
            *(prompts, self._queue, limits, _task_rules(settings)),
            *(version, DeadLetters(folder.dead)),
        )
        self._update = Update(policy, settings)
        self._store = store = WeightStore(folder.weights, folder.run, settings.weights.keep)
        self._history = History(folder, settings.checkpoint, fingerprints)
        recorded = partial(_recorded, folder, settings)
        self._replay = Replay(policy, self._update, limits, recorded)
        self._alarms = Alarms(settings.alarms)
        self._evaluations = self._make_evaluations(tokenised(files.held_out, policy, settings))
        self._record = Record(folder, progress, prompts, Trackers.of(start.settings, folder))
        disk = Disk(folder.path, settings.checkpoint.min_free_bytes, progress, stopping)
        publisher = Publisher(policy, store)
        self._loop = Loop(
            *(_loop_rules(settings), self._tasks, self._queue, self._update, publisher, store),
            *(self._history, disk, self._alarms, self._evaluations, self._record),
            *(progress, control, stopping),
        )
        self._served = self._make_served(files.rewards, environment, control)

    def run(self) -> None:
        """Go on where the run had come to, until its end or until told to stop."""
        folder = self._start.folder
        evaluations = self._evaluations
        on_every_line(step=lambda: self._progress.version.step)
        with (
            closing(self._queue),
            closing(evaluations) if evaluations else nullcontext(),
            closing(self._record),
            self._serving(),
        ):
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
        self._update.adopt(self._settings)
        progress.version, progress.root = Version(epoch, reached.version.step), reached.root
        progress.num_samples, progress.num_tokens = reached.num_samples, reached.num_tokens
        progress.replay = None
        self._tasks.resume(
            *(Ledger.of(reached.ledger), reached.closed, reached.reopened),
            *(progress.version, recovery.concluded),
        )
        for line in self._record.resume(recovery.taken):
            for alarm in self._alarms.look(line.metrics):
                progress.note(alarm, line.version.step)
        if self._evaluations:
            self._evaluations.resume(self._record.resume_evaluations())
        return True

    def _make_served(
        self,
        rewards: tuple[RewardSpec, ...],
        environment: EnvironmentSpec | None,
        control: Control,
    ) -> Served:
        start, store = self._start, self._store
        spec = describe_run(
            *(self._settings, self._policy, store, start.folder.run, rewards, environment),
            *(start.code_folder, start.redis_url),
        )
        parts = (start.folder.path, store, self._report, control, spec, self._queue.dismiss)
        return Served(*parts)

    def _make_evaluations(self, held_out: Prompts) -> Evaluations | None:
        settings, policy, folder = self._settings, self._policy, self._start.folder
        if settings.evaluation is None:
            return None
        return Evaluations(
            _evaluation_rules(settings, sampling_spec(settings, policy)),
            held_out,
            LearnerQueue(self._start.redis_url, evaluation_stream(folder.run), self._queue.epoch),
            group_limits(settings, policy.vocab_size, folder.run),
            self._stopping,
        )

    def _report(self) -> StatusReport:
        places = _task_rules(self._settings).places
        head = self._store.head
        report = report_status(self._progress, self._tasks, self._queue, places, head)
        queue = self._settings.queue
        return judged(report, HealthRules(queue.max_staleness, queue.lease_s))

    @contextmanager
    def _serving(self) -> Iterator[None]:
        """Reachable while inside; workers are told when the run is over."""
        with self._front:
            self._front.show(self._served)
            try:
                yield
            finally:
                if self._progress.state is LearnerState.FINISHED:
                    self._store.finish()
                self._store.close()


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


def _recorded(folder: RunFolder, settings: Settings, config_hash: str) -> Settings:
    """What a step was taken under, on this machine."""
    return recorded_settings(folder.config(config_hash), settings)


def tokenised(rows: Sequence[Row], policy: Policy, settings: Settings) -> Prompts:
    """The prompts of a run; raises Stop naming the line of one that does not fit."""
    room = policy.context_length - settings.sampling.max_completion_length
    return tokenise_rows(rows, policy.tokenise, room, settings.run.seed)


def read_held_out(settings: Settings) -> list[Row]:
    """What is evaluated, if anything is; raises Stop."""
    evaluation = settings.evaluation
    if evaluation is None:
        return []
    return read_rows(evaluation.data, "evaluation.data")[: evaluation.max_prompts]


def _evaluation_rules(settings: Settings, sampling: SamplingSpec) -> EvaluationRules:
    evaluation = settings.evaluation
    assert evaluation is not None, "there is something to evaluate"
    return EvaluationRules(
        eval_steps=evaluation.eval_steps,
        num_steps=settings.run.steps,
        samplings=evaluation_samplings(evaluation, sampling),
        reward_weights=settings.reward.function_weights,
        pass_reward=evaluation.pass_reward,
        seed=settings.run.seed,
        lease_s=settings.queue.lease_s,
        timeout_s=evaluation.timeout_s,
    )


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
