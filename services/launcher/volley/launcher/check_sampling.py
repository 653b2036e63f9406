"""One group of the first prompt, and of the first held-out one, from a worker of its own."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from volley.launcher.check_inputs import Inputs
from volley.launcher.rehearsal import rehearse, task_of
from volley.learner.run_spec import evaluation_samplings, sampling_spec
from volley.learner.settings import Settings
from volley.rollout.rehearsal import Answer
from volley.schemas.groups import Task


@dataclass(frozen=True, slots=True)
class Delivered:
    """What the worker made of a task."""

    task: Task
    answer: Answer


def sample(settings: Settings, inputs: Inputs, code_folder: Path, folder: Path) -> list[Delivered]:
    """For the first prompt and, if there are any, the first held-out one; raises Stop."""
    tasks = list(_tasks(settings, inputs, folder.name))
    answers = rehearse(settings, inputs, tasks, code_folder, folder)
    return [Delivered(task, answer) for task, answer in zip(tasks, answers, strict=True)]


def _tasks(settings: Settings, inputs: Inputs, run: str) -> Iterator[Task]:
    seed = settings.run.seed
    if inputs.prompts:
        yield task_of(inputs.prompts[0], 0, run, seed, None)
    if inputs.held_out:
        assert settings.evaluation is not None, "there is something to evaluate"
        sampling = sampling_spec(settings, inputs.policy)
        sampled, _ = evaluation_samplings(settings.evaluation, sampling)
        yield task_of(inputs.held_out[0], 0, run, seed, sampled)
