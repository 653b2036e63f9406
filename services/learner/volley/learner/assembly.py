"""A learner put together from its settings, run to its end, and taken apart again."""

import sys
from collections.abc import Iterator
from contextlib import closing, contextmanager
from functools import partial
from pathlib import Path

import msgspec
import torch

from volley.learner.api import ApiServer, create_app
from volley.learner.loop import Loop, LoopRules
from volley.learner.policy import Policy
from volley.learner.prompts import read_rows, tokenise_rows
from volley.learner.record import Record
from volley.learner.reward_code import read_reward_specs
from volley.learner.run_folder import RunFolder
from volley.learner.settings import NEUTRAL_SAMPLING, Settings
from volley.learner.status import Progress, report_status
from volley.learner.tasks import TaskRules, Tasks
from volley.learner.update import Update
from volley.learner.weight_store import WeightStore
from volley.schemas.codec import GroupLimits
from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.schemas.run_spec import ModelFile, RewardSpec, RunSpec, SamplingSpec
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_stream import LearnerQueue, QueueMisconfigured

# Resuming, and with it a second epoch, comes with the step log.
FIRST_VERSION = Version(1, 0)


def run_learner(
    settings: Settings, code_folder: Path, folder: RunFolder, redis_url: str, token: str
) -> None:
    """Train as the settings say; the folder holds the model and a summary afterwards.

    One line of JSON on standard output says where the learner listens, as soon as it does.
    """
    rewards = read_reward_specs(settings.reward, code_folder)
    rows = read_rows(settings.data.train)
    torch.set_num_threads(settings.devices.threads)
    torch.manual_seed(settings.run.seed)
    policy = Policy.load(settings.model, settings.devices.learner)
    room = policy.context_length - settings.sampling.max_completion_length
    prompts = tokenise_rows(rows, policy.tokenise, room, settings.run.seed)
    folder.write_config(settings)

    store = WeightStore(folder.weights, folder.run, settings.weights.keep)
    spec = _run_spec(settings, policy, store, folder.run, rewards, code_folder, redis_url)
    queue = _queue(redis_url, folder.run)
    rules = _task_rules(settings)
    tasks = Tasks(prompts, queue, _limits(settings, policy, folder), rules, FIRST_VERSION)
    progress = Progress(run=folder.run, steps=settings.run.steps, version=FIRST_VERSION)
    record = Record(folder, progress, prompts)
    update = Update(policy, settings)
    loop = Loop(_loop_rules(settings), tasks, queue, update, policy, store, record, progress)
    report = partial(report_status, progress, tasks, queue, rules.places)
    api = ApiServer(
        create_app(store, spec, report, token), settings.server.host, settings.server.port
    )
    with closing(queue), _serving(api, store, folder, token):
        loop.stop_on_signals()
        loop.run()
        record.summary(report())
        policy.save_pretrained(folder.model)


@contextmanager
def _serving(api: ApiServer, store: WeightStore, folder: RunFolder, token: str) -> Iterator[None]:
    """The learner can be reached while inside and says where; workers are told of the end."""
    api.start()
    try:
        folder.write_server(api.url, token)
        line = msgspec.json.encode({"url": api.url, "run": folder.run, "folder": str(folder.path)})
        sys.stdout.write(line.decode() + "\n")
        sys.stdout.flush()
        yield
    finally:
        store.finish()
        api.stop()


def _queue(redis_url: str, run: str) -> LearnerQueue:
    try:
        return LearnerQueue(redis_url, run, FIRST_VERSION.epoch)
    except QueueMisconfigured as error:
        raise Stop(ExitCode.CONFIG, str(error)) from error


def _run_spec(
    settings: Settings,
    policy: Policy,
    store: WeightStore,
    run: str,
    rewards: tuple[RewardSpec, ...],
    code_folder: Path,
    redis_url: str,
) -> RunSpec:
    sampling = settings.sampling
    return RunSpec(
        schema_version=SCHEMA_VERSION,
        run=run,
        model_files=tuple(
            ModelFile(name, store.add(content)) for name, content in policy.model_files().items()
        ),
        dtype=settings.model.dtype,
        max_context_length=policy.context_length,
        vocab_size=policy.vocab_size,
        sampling=SamplingSpec(
            num_generations=sampling.num_generations,
            temperature=sampling.temperature,
            max_completion_length=sampling.max_completion_length,
            stop_token_ids=policy.stop_token_ids(sampling.stop_token_ids),
            **{key: getattr(sampling, key) for key in NEUTRAL_SAMPLING},
        ),
        rewards=rewards,
        code_folder=str(code_folder),
        redis_url=redis_url,
        lease_s=settings.queue.lease_s,
        max_staleness=settings.queue.max_staleness,
        max_body_bytes=settings.queue.max_body_bytes,
    )


def _limits(settings: Settings, policy: Policy, folder: RunFolder) -> GroupLimits:
    return GroupLimits(
        run=folder.run,
        num_generations=settings.sampling.num_generations,
        max_completion_length=settings.sampling.max_completion_length,
        num_rewards=len(settings.reward.functions),
        vocab_size=policy.vocab_size,
        max_body_bytes=settings.queue.max_body_bytes,
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
        lease_s=settings.queue.lease_s,
    )
