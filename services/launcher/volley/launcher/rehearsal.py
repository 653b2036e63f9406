"""Tasks for a worker of one's own: without a learner, for those who only want to see its answers.

The worker is a process with the engine, the device and the options that the config names; it works
in a temporary folder, whose content is told by volley.rollout.rehearsal.
"""

import signal
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

import msgspec
from safetensors import SafetensorError

from volley.launcher.check_inputs import Inputs
from volley.launcher.children import Child
from volley.launcher.run import engine_of, environment_of, worker_options
from volley.learner.prompts import Prompt
from volley.learner.run_spec import describe_run, group_limits
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


@contextmanager
def temporary_folder(verb: str) -> Iterator[Path]:
    """Gone at the end, also where SIGTERM is the end, which from now on does what Ctrl-C does."""
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    with TemporaryDirectory(prefix=f"volley-{verb}-") as folder:
        yield Path(folder)


def rehearse(
    settings: Settings,
    inputs: Inputs,
    tasks: Sequence[Task],
    code_folder: Path,
    folder: Path,
    tell: Callable[[int], None] = lambda num_sampled: None,
) -> list[Answer]:
    """What a worker makes of the tasks; `tell` hears how many it has sampled. Raises Stop."""
    try:
        _write(settings, inputs, tasks, code_folder, folder)
    except (OSError, SafetensorError) as error:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"no copy of the model in {folder.parent}, where the worker looks for it: {error}: "
            "make room, or set TMPDIR to a folder with more",
        ) from error
    worker = Child(
        "the worker",
        [
            *(sys.executable, "-m", "volley.rollout.rehearse", str(folder)),
            *worker_options(settings, code_folder, device_of(settings), NOBODY),
        ],
        folder / "logs" / "rollout.log",
        environment_of(settings, "of nobody"),
        speaks=True,
    )
    try:
        process = worker.start()
        assert process.stdout is not None, "it speaks"
        for line in process.stdout:
            tell(int(line))
        worker.exit_code = process.wait()
    finally:
        worker.send(signal.SIGKILL)
    if worker.exit_code != 0:
        raise worker.reason()
    return msgspec.msgpack.decode((folder / "answers").read_bytes(), type=list[Answer])


def task_of(
    prompt: Prompt, number: int, run: str, seed: int, sampling: SamplingSpec | None
) -> Task:
    """As a learner would issue it first."""
    return Task(
        schema_version=SCHEMA_VERSION,
        run=run,
        number=number,
        attempt=0,
        seed=sampling_seed(seed, number, 0),
        min_version=HEAD,
        prompt=prompt.prompt,
        prompt_ids=prompt.prompt_ids,
        columns=prompt.columns,
        sampling=sampling,
    )


def group_in(body: bytes, task: Task, settings: Settings, vocab_size: int) -> Group:
    """What the learner would take in; raises Stop where it would take nothing."""
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


def device_of(settings: Settings) -> str:
    """Of the first worker; a run without any on this machine has them elsewhere."""
    return next(iter(settings.devices.rollout), "auto")


def place_of(settings: Settings) -> str:
    """Where the answers come from, for people: `vllm on cpu`."""
    return f"{engine_of(settings.devices.engine)} on {device_of(settings)}"


def _write(
    settings: Settings, inputs: Inputs, tasks: Sequence[Task], code_folder: Path, folder: Path
) -> None:
    blobs = folder / "blobs"
    blobs.mkdir()
    spec = describe_run(
        *(settings, inputs.policy, WeightStore(blobs, folder.name, 1), folder.name),
        *(inputs.rewards, inputs.environment, code_folder, ""),
    )
    (folder / "rehearsal").write_bytes(msgspec.msgpack.encode(Rehearsal(spec, tuple(tasks))))
    inputs.policy.save_pretrained(folder / "model")
