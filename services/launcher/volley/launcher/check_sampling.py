"""One group of the first prompt, and of the first held-out one, from a worker of its own.

The worker is a process with the engine, the device and the options that the config names; it works
in a temporary folder instead of with a learner.
"""

import signal
import sys
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

import msgspec
from safetensors import SafetensorError

from volley.launcher.check_inputs import Inputs
from volley.launcher.children import Child
from volley.launcher.run import environment_of, worker_options
from volley.learner.prompts import Prompts
from volley.learner.run_spec import describe_run, group_limits, sampling_spec
from volley.learner.settings import Settings
from volley.learner.tasks import sampling_seed
from volley.learner.weight_store import WeightStore
from volley.rollout.rehearsal import Answer, Rehearsal
from volley.schemas.codec import InvalidMessage, decode_result
from volley.schemas.groups import SCHEMA_VERSION, Failure, Group, Task, Version
from volley.schemas.run_spec import SamplingSpec
from volley.telemetry.stops import ExitCode, Stop

HEAD = Version(1, 0)
NOBODY = "http://127.0.0.1"
"""The learner of a worker that asks none."""


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the worker made of a task."""

    task: Task
    answer: Answer


def sample(settings: Settings, inputs: Inputs, code_folder: Path, folder: Path) -> list[Delivered]:
    """For the first prompt and, if there are any, the first held-out one; raises Stop."""
    try:
        _write(settings, inputs, code_folder, folder)
    except (OSError, SafetensorError) as error:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"no copy of the model in {folder.parent}, where the worker looks for it: {error}: "
            "make room, or set TMPDIR to a folder with more",
        ) from error
    device = device_of(settings)
    worker = Child(
        "the worker",
        [
            *(sys.executable, "-m", "volley.rollout.rehearse", str(folder)),
            *worker_options(settings, code_folder, device, NOBODY),
        ],
        folder / "logs" / "rollout.log",
        environment_of(settings, "of nobody"),
    )
    try:
        worker.exit_code = worker.start().wait()
    finally:
        worker.send(signal.SIGKILL)
    if worker.exit_code != 0:
        raise worker.reason()
    answers = msgspec.msgpack.decode((folder / "answers").read_bytes(), type=list[Answer])
    tasks = _tasks(settings, inputs, folder.name)
    return [Delivered(task, answer) for task, answer in zip(tasks, answers, strict=True)]


def device_of(settings: Settings) -> str:
    """Of the first worker; a run without any on this machine has them elsewhere."""
    return next(iter(settings.devices.rollout), "auto")


def group_in(delivered: Delivered, settings: Settings, vocab_size: int) -> Group:
    """What the learner would take in; raises Stop where it would take nothing."""
    return _decode(delivered.answer.body, delivered.task, settings, vocab_size)


def unrewarded_group_in(delivered: Delivered, settings: Settings, vocab_size: int) -> Group | None:
    """What there is to be seen of a group whose reward has failed."""
    body = delivered.answer.unrewarded
    return _decode(body, delivered.task, settings, vocab_size) if body else None


def _decode(body: bytes, task: Task, settings: Settings, vocab_size: int) -> Group:
    limits = group_limits(settings, vocab_size, task.run)
    if task.sampling is not None:
        limits = replace(limits, num_generations=task.sampling.num_generations)
    try:
        result = decode_result(body, limits)
    except InvalidMessage as error:
        raise Stop(ExitCode.CONFIG, str(error)) from error
    if isinstance(result, Failure):
        raise Stop(ExitCode.CONFIG, result.detail)
    return result


def _write(settings: Settings, inputs: Inputs, code_folder: Path, folder: Path) -> None:
    blobs = folder / "blobs"
    blobs.mkdir()
    spec = describe_run(
        *(settings, inputs.policy, WeightStore(blobs, folder.name, 1), folder.name),
        *(inputs.rewards, inputs.environment, code_folder, ""),
    )
    tasks = tuple(_tasks(settings, inputs, folder.name))
    (folder / "rehearsal").write_bytes(msgspec.msgpack.encode(Rehearsal(spec, tasks)))
    inputs.policy.save_pretrained(folder / "model")


def _tasks(settings: Settings, inputs: Inputs, run: str) -> Iterator[Task]:
    sampling = sampling_spec(settings, inputs.policy)
    if inputs.prompts:
        yield _task(inputs.prompts, run, settings.run.seed, None)
    if inputs.held_out:
        assert settings.evaluation is not None, "there is something to evaluate"
        num_generations = settings.evaluation.num_generations or sampling.num_generations
        own = msgspec.structs.replace(sampling, num_generations=num_generations)
        yield _task(inputs.held_out, run, settings.run.seed, own)


def _task(prompts: Prompts, run: str, seed: int, sampling: SamplingSpec | None) -> Task:
    """Number 0, as a learner would issue it first."""
    first = prompts[0]
    return Task(
        schema_version=SCHEMA_VERSION,
        run=run,
        number=0,
        attempt=0,
        seed=sampling_seed(seed, 0, 0),
        min_version=HEAD,
        prompt=first.prompt,
        prompt_ids=first.prompt_ids,
        columns=first.columns,
        sampling=sampling,
    )
