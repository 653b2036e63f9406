"""`volley check CONFIG.toml`: one prompt, all the way that a run would take it.

    data, code -> model -> prompt -> one group of a worker -> rewards, advantages -> one step

What is wrong on the way is noted, and what needs it is left out. Nothing stays on the disk, and no
Redis and no learner is needed.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from rich.console import Console

from volley.launcher.check_group import look_into_evaluation, look_into_training
from volley.launcher.check_inputs import Inputs, read_files, read_inputs, tools_findings
from volley.launcher.check_machine import (
    Room,
    disk_findings,
    look_around,
    memory_findings,
    shape_of,
)
from volley.launcher.check_notes import Notes
from volley.launcher.check_sampling import sample
from volley.launcher.check_screen import Shown, Token, show_all, show_json
from volley.launcher.findings import ok
from volley.launcher.rehearsal import place_of, temporary_folder
from volley.learner.policy import Policy
from volley.learner.settings import Settings
from volley.telemetry.stops import ExitCode

Tell = Callable[[str], None]
"""Hears what is being waited for."""


def run_check(settings: Settings, code_folder: Path, *, as_json: bool) -> ExitCode:
    """Show what a run would do; the code says whether it would start."""
    notes = Notes()
    # What is waited for is said on the other stream: this one may be read by a program.
    with (
        Console(stderr=True).status("loading the data and the model") as status,
        temporary_folder("check") as folder,
    ):
        shown = examine(settings, code_folder, folder, notes, status.update)
    if as_json:
        show_json(shown, notes.findings)
    else:
        show_all(shown, notes.findings, Console(highlight=False))
    return notes.exit_code


def examine(settings: Settings, code_folder: Path, folder: Path, notes: Notes, tell: Tell) -> Shown:
    """Everything, as far as what comes before it is right."""
    torch.set_num_threads(settings.devices.threads)
    room, shown, shape = Room.look(), Shown(), None
    inputs = read_inputs(settings, read_files(settings, code_folder, notes), notes)
    if inputs is not None:
        shape = shape_of(settings.model)
        notes.add(*memory_findings(settings, shape, room))
        _show_inputs(inputs, shown)
        if shown.prompt is not None:
            notes.add(*tools_findings(inputs.environment, shown.prompt))
        if not notes.has_mistakes:
            num_answers = settings.sampling.num_generations
            tell(f"starting a worker, for {num_answers} answers and their rewards")
            _rehearse(settings, inputs, code_folder, folder, notes, shown)
    look_around(settings, notes)
    notes.add(*disk_findings(settings, shape))
    return shown


def _rehearse(
    settings: Settings,
    inputs: Inputs,
    code_folder: Path,
    folder: Path,
    notes: Notes,
    shown: Shown,
) -> None:
    """One group, and a step on it."""
    began_s = time.monotonic()
    delivered = notes.take("worker", lambda: sample(settings, inputs, code_folder, folder))
    if delivered is None:
        return
    took_s = time.monotonic() - began_s
    notes.add(ok("worker", f"{place_of(settings)}, {took_s:.0f} s with its start"))
    for one in delivered:
        if one.task.sampling is None:
            shown.trajectories, shown.metrics = look_into_training(one, settings, inputs, notes)
        else:
            look_into_evaluation(one, settings, inputs, notes)


def _show_inputs(inputs: Inputs, shown: Shown) -> None:
    if inputs.prompts:
        prompt_ids = inputs.prompts[0].prompt_ids
        shown.prompt = inputs.policy.text_of(prompt_ids)
        shown.prompt_tokens = _tokens(prompt_ids, (False,) * len(prompt_ids), inputs.policy)
    if inputs.demonstrations:
        first = inputs.demonstrations[0]
        trained = (*(False,) * len(first.prompt_ids), *first.trained)
        shown.demonstration = _tokens(
            (*first.prompt_ids, *first.completion_ids), trained, inputs.policy
        )


def _tokens(token_ids: Sequence[int], trained: Sequence[bool], policy: Policy) -> list[Token]:
    return [
        Token(token_id, policy.text_of([token_id]), is_trained)
        for token_id, is_trained in zip(token_ids, trained, strict=True)
    ]
