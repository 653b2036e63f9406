"""What a person has written for the run: data, code, and the model that is to read them.

Whatever is wrong is said by the code that a run reads it with.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import msgspec

from volley.launcher.check_notes import Notes
from volley.launcher.findings import Finding, ok, warn
from volley.learner.assembly import Files, read_held_out, tokenised
from volley.learner.batching import TrainSequence
from volley.learner.chat_frames import framed
from volley.learner.demonstrations import read_demonstrations
from volley.learner.environment_code import read_environment_spec, tool_schemas
from volley.learner.identity import Identity, identity_of
from volley.learner.policy import InvalidChat, Policy
from volley.learner.prompts import Prompts, Row, read_rows
from volley.learner.reward_code import read_reward_specs
from volley.learner.run_folder import divergence_of, find_run_folder
from volley.learner.settings import Settings
from volley.learner.weight_store import root_of_tensors
from volley.schemas.run_spec import EnvironmentSpec, RewardSpec

NUM_NAMED = 8
"""Columns that are listed."""


@dataclass(frozen=True, slots=True)
class Inputs:
    """All that a group is sampled from, or None in the place of what cannot be used."""

    policy: Policy
    rewards: tuple[RewardSpec, ...]
    environment: EnvironmentSpec | None
    prompts: Prompts | None = None
    held_out: Prompts | None = None
    demonstrations: Sequence[TrainSequence] = ()


def read_files(settings: Settings, code_folder: Path, notes: Notes) -> Files:
    """What can be read of them."""
    return Files(
        notes.take("reward", lambda: read_reward_specs(settings.reward, code_folder)) or (),
        notes.take("environment", lambda: read_environment_spec(settings.environment, code_folder)),
        notes.take("data", lambda: read_rows(settings.data.train)) or [],
        notes.take("evaluation", lambda: read_held_out(settings)) or [],
    )


def read_inputs(settings: Settings, files: Files, notes: Notes) -> Inputs | None:
    """The same as the model sees it; None where there is no model."""
    model, devices, section = settings.model, settings.devices, settings.cold_start
    tools = tool_schemas(files.environment)
    policy = notes.take("model", lambda: Policy.load(model, devices.learner, tools))
    if policy is None:
        return None
    notes.add(model_finding(settings, policy))
    stop_token_ids = policy.stop_token_ids(settings.sampling.stop_token_ids)
    inputs = Inputs(
        policy,
        files.rewards,
        notes.take(
            "environment", lambda: framed(files.environment, policy, stop_token_ids, files.rows)
        ),
        _tokenised("data", files.rows, policy, settings, notes),
        _tokenised("evaluation", files.held_out, policy, settings, notes),
        (section and notes.take("cold start", lambda: read_demonstrations(section.data, policy)))
        or (),
    )
    _note_inputs(settings, files, inputs, notes)
    if inputs.prompts and not notes.has_mistakes:
        notes.take("run folder", lambda: notes.add(*_unfinished_run(settings, inputs)))
    return inputs


def _tokenised(
    subject: str, rows: Sequence[Row], policy: Policy, settings: Settings, notes: Notes
) -> Prompts | None:
    return notes.take(subject, lambda: tokenised(rows, policy, settings)) if rows else None


def _note_inputs(settings: Settings, files: Files, inputs: Inputs, notes: Notes) -> None:
    room = inputs.policy.context_length - settings.sampling.max_completion_length
    if inputs.prompts:
        notes.add(data_finding("data", settings.data.train, inputs.prompts, room))
        notes.add(*columns_findings("data", files.rows))
        notes.add(*chat_findings(files.rows, inputs.policy))
    if settings.evaluation and inputs.held_out:
        path = settings.evaluation.data
        notes.add(data_finding("evaluation", path, inputs.held_out, room))
        if inputs.prompts:
            notes.add(*overlap_findings(inputs.prompts, inputs.held_out))
    if settings.cold_start and inputs.demonstrations:
        notes.add(_cold_start_finding(settings.cold_start.data, inputs.demonstrations))


def model_finding(settings: Settings, policy: Policy) -> Finding:
    """Its size and where it is."""
    num_parameters = sum(tensor.numel() for tensor in policy.published_tensors().values())
    num_trained = sum(parameter.numel() for parameter in policy.parameters().values())
    trained = "" if settings.model.lora_r is None else f", {num_trained:,} of adapters trained"
    template = "a chat template" if _can_chat(policy) else "no chat template"
    return ok(
        "model",
        f"{settings.model.path}, {num_parameters:,} parameters{trained}, {settings.model.dtype} "
        f"on {policy.device}, context {policy.context_length:,}, {template}",
    )


def data_finding(subject: str, path: Path, prompts: Prompts, room: int) -> Finding:
    """How much there is, and whether it fits."""
    every = [prompts[number] for number in range(len(prompts))]
    longest = max(len(one.prompt_ids) for one in every)
    columns = sorted({name for one in every for name in one.columns})
    named = ", ".join(columns[:NUM_NAMED]) + (", ..." if len(columns) > NUM_NAMED else "")
    return ok(
        subject,
        f"{path}, {len(every):,} prompt{'s' * (len(every) > 1)} of up to {longest:,} tokens, "
        f"{room:,} fit; columns beside prompt: {named or 'none'}",
    )


def columns_findings(subject: str, rows: Sequence[Row]) -> list[Finding]:
    """A column that only some rows have reaches a reward only now and then."""
    every = {name for row in rows for name in row.columns}
    return [
        warn(
            subject,
            f"{row.place}: column {missing[0]!r} is missing, which other lines have",
            "give every line the same columns: a reward gets those of one line at a time",
        )
        for row in rows
        if (missing := sorted(every - row.columns.keys()))
    ][:1]


def chat_findings(rows: Sequence[Row], policy: Policy) -> list[Finding]:
    """Texts are shown as they stand, which is not what a model that chats has learnt."""
    texts = [row for row in rows if isinstance(row.prompt, str)]
    if not texts or not _can_chat(policy):
        return []
    return [
        warn(
            "data",
            f"{texts[0].place}: the prompt is text, and the model has a chat template",
            'if it is a chat model, write {"prompt": [{"role": "user", "content": ...}]}',
        )
    ]


def tools_findings(environment: EnvironmentSpec | None, prompt: str) -> list[Finding]:
    """A chat template may take tools and show nothing of them."""
    names = [tool.name.rpartition(":")[2] for tool in environment.tools] if environment else []
    unseen = [name for name in names if name not in prompt]
    if not unseen:
        return []
    return [
        warn(
            "environment",
            f"the first prompt says nothing of {', '.join(unseen)}: the chat template shows no "
            "tools",
            "set model.chat_template to one that does, or tell of them in a system message",
        )
    ]


def overlap_findings(prompts: Prompts, held_out: Prompts) -> list[Finding]:
    """What is trained on says nothing when it is evaluated."""
    known = {prompts[number].prompt_ids for number in range(len(prompts))}
    num_known = sum(held_out[number].prompt_ids in known for number in range(len(held_out)))
    if not num_known:
        return []
    found = f"{num_known} of {len(held_out)} prompts are in data.train too"
    return [warn("evaluation", found, "hold them out: what was trained on proves nothing")]


def _unfinished_run(settings: Settings, inputs: Inputs) -> list[Finding]:
    """The run that would go on; raises Stop if it would not, under these settings."""
    folder = find_run_folder(settings.run, fresh=False)
    if not (folder / "run.json").exists():
        return []
    recorded = msgspec.json.decode((folder / "run.json").read_bytes(), type=Identity)
    # After a cold start it began with another model than model.path.
    root = recorded.start_root
    if settings.cold_start is None:
        root = root_of_tensors(inputs.policy.published_tensors())
    recorded.check(identity_of(settings, recorded.run, root, inputs.rewards, inputs.environment))
    reason = divergence_of(folder)
    if reason is not None:
        advice = "`volley run --continue` goes on from its last good step, --fresh begins another"
        return [warn("run folder", f"{folder} has stopped before: {reason}", advice)]
    return [ok("run folder", f"{folder}, unfinished: a run goes on there (--fresh: in another)")]


def _cold_start_finding(path: Path, demonstrations: Sequence[TrainSequence]) -> Finding:
    num_trained = sum(one.num_trained_tokens for one in demonstrations)
    return ok(
        "cold start",
        f"{path}, {len(demonstrations):,} demonstrations, {num_trained:,} trained tokens; what is "
        "sampled below comes from the model before it",
    )


def _can_chat(policy: Policy) -> bool:
    try:
        policy.render([{"role": "user", "content": "."}], add_generation_prompt=True)
    except InvalidChat:
        return False
    return True
