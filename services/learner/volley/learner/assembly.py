"""A learner put together from its settings, run to its end, and taken apart again.

A run folder with state is resumed: the server answers while the logged steps are taken again, and
the loop begins where the run had come to.
"""

import logging
import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import tenacity
import torch

from volley.learner.api import ApiServer, create_app
from volley.learner.disk import Disk
from volley.learner.history import Fingerprints, History, Reached
from volley.learner.identity import (
    Identity,
    changed_settings,
    frozen_settings,
    hash_code,
    hash_config,
    hash_file,
)
from volley.learner.ledger import Ledger
from volley.learner.loop import Loop, LoopRules, stop_on_signals
from volley.learner.policy import Policy
from volley.learner.prompts import read_rows, tokenise_rows
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
from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.schemas.status import LearnerState
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_stream import LearnerQueue, QueueMisconfigured, QueueUnavailable

logger = logging.getLogger(__name__)

FIRST_CONNECT_S = 60.0
"""A Redis that has not answered for so long has a wrong address, not a slow start."""


def run_learner(
    settings: Settings, code_folder: Path, folder: RunFolder, redis_url: str, token: str
) -> None:
    """Train as the settings say; the folder holds the model and a summary afterwards.

    One line of JSON on standard output says where the learner listens, as soon as it does.
    """
    stopping = stop_on_signals()
    rewards = read_reward_specs(settings.reward, code_folder)
    rows = read_rows(settings.data.train)
    torch.set_num_threads(settings.devices.threads)
    torch.manual_seed(settings.run.seed)
    policy = Policy.load(settings.model, settings.devices.learner)
    room = policy.context_length - settings.sampling.max_completion_length
    prompts = tokenise_rows(rows, policy.tokenise, room, settings.run.seed)
    identity = _identity(settings, folder, policy, hash_code(rewards))
    fingerprints = _fingerprints(settings, folder, identity)

    queue = _claim_queue(redis_url, folder)
    limits = group_limits(settings, policy.vocab_size, folder.run)
    rules = _task_rules(settings)
    progress = Progress(folder.run, settings.run.steps, Version(queue.epoch, 0))
    store = WeightStore(folder.weights, folder.run, settings.weights.keep)
    spec = describe_run(settings, policy, store, folder.run, rewards, code_folder, redis_url)
    tasks = Tasks(prompts, queue, limits, rules, progress.version)
    update = Update(policy, settings)
    history = History(folder, settings.checkpoint, fingerprints)
    disk = Disk(folder.path, settings.checkpoint.min_free_bytes, progress, stopping)
    record = Record(folder, progress, prompts)
    loop = Loop(
        *(_loop_rules(settings), tasks, queue, update, policy, store),
        *(history, disk, record, progress, stopping),
    )
    replay = Replay(
        policy, update, limits, lambda name: recorded_settings(folder.config(name), settings)
    )
    report = partial(report_status, progress, tasks, queue, rules.places)
    api = ApiServer(
        create_app(store, spec, report, token), settings.server.host, settings.server.port
    )
    with closing(queue), _serving(api, store, folder, progress, token):
        recovery = Recovery(history, replay, queue.epoch)
        reached = recovery.run(
            Reached(progress.version, identity.start_root),
            stopping,
            partial(_tell_replay, progress),
        )
        if stopping.is_set():
            return
        _go_on(reached, recovery, progress, tasks, record)
        update.adopt(settings)
        loop.run()
        record.summary(report())
        policy.save_pretrained(folder.model)


def _identity(settings: Settings, folder: RunFolder, policy: Policy, code_hash: str) -> Identity:
    """What the run is; raises Stop where the folder holds another one."""
    now = Identity(
        schema_version=SCHEMA_VERSION,
        run=folder.run,
        data_hash=hash_file(settings.data.train),
        code_hash=code_hash,
        start_root=root_of_tensors(policy.published_tensors()),
        frozen=frozen_settings(settings),
    )
    if folder.has_state:
        msgspec.convert(folder.read_json("run.json"), Identity).check(now)
    else:
        folder.write_json("run.json", msgspec.to_builtins(now))
    return now


def _fingerprints(settings: Settings, folder: RunFolder, identity: Identity) -> Fingerprints:
    """Hashes for the log; a config that differs from the last one is said and kept beside it."""
    config = folder.path / "config.toml"
    if config.exists():
        for change in changed_settings(recorded_settings(config, settings), settings):
            logger.warning("from the next step on %s", change)
    config_hash = hash_config(settings)
    folder.write_config(settings, config_hash)
    return Fingerprints(config_hash, identity.code_hash, identity.data_hash)


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
    except QueueMisconfigured as error:
        raise Stop(ExitCode.CONFIG, str(error)) from error
    except QueueUnavailable as error:
        raise Stop(ExitCode.ENVIRONMENT, str(error)) from error
    folder.enter_epoch(queue.epoch)
    return queue


def _tell_waiting(state: tenacity.RetryCallState) -> None:
    if state.attempt_number == 1 and state.outcome is not None:
        logger.warning("waiting for Redis", extra={"reason": str(state.outcome.exception())})


def _tell_replay(progress: Progress, how_far: str) -> None:
    progress.state, progress.replay = LearnerState.REPLAYING, how_far
    logger.info("resuming: %s", how_far)


def _go_on(
    reached: Reached, recovery: Recovery, progress: Progress, tasks: Tasks, record: Record
) -> None:
    """Everything that counts begins at what was reached, under a version of this epoch."""
    progress.version = Version(progress.version.epoch, reached.version.step)
    progress.root, progress.replay = reached.root, None
    progress.num_samples, progress.num_tokens = reached.num_samples, reached.num_tokens
    tasks.resume(Ledger.of(reached.ledger), reached.closed, progress.version)
    record.resume(recovery.taken)


@contextmanager
def _serving(
    api: ApiServer, store: WeightStore, folder: RunFolder, progress: Progress, token: str
) -> Iterator[None]:
    """The learner can be reached while inside and says where; the end of the run is announced."""
    api.start()
    try:
        folder.write_server(api.url, token)
        line = msgspec.json.encode({"url": api.url, "run": folder.run, "folder": str(folder.path)})
        sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()
        yield
    finally:
        if progress.state is LearnerState.FINISHED:
            store.finish()
        api.stop()


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
        lease_s=settings.queue.lease_s,
    )
