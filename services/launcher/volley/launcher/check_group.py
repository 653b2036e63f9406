"""A group that a worker has delivered, on its way through the learner."""

from collections.abc import Sequence
from dataclasses import dataclass

import torch

from volley.launcher.check_findings import (
    agreement_finding,
    length_finding,
    reward_findings,
    step_finding,
    trained_finding,
)
from volley.launcher.check_inputs import Inputs
from volley.launcher.check_notes import Notes, is_bad
from volley.launcher.check_sampling import Delivered
from volley.launcher.findings import Finding, ok
from volley.launcher.rehearsal import HEAD, group_in
from volley.learner.advantages import combine_rewards
from volley.learner.policy import Policy
from volley.learner.selection import advantages_of
from volley.learner.settings import Settings
from volley.learner.step_metrics import Metrics
from volley.learner.step_rules import selection_rules
from volley.learner.trajectory_record import Step, TrajectoryRecord, records_of
from volley.learner.update import StepResult, Update
from volley.schemas.groups import Group
from volley.telemetry.stops import ExitCode, Stop

NEXT_TO_NOTHING = 1e-9


@dataclass(frozen=True, slots=True)
class _Taken:
    """A step, and what engine and learner say of the same tokens: also without a signal."""

    result: StepResult
    compared: Metrics


def look_into_training(
    delivered: Delivered,
    settings: Settings,
    inputs: Inputs,
    notes: Notes,
) -> tuple[list[TrajectoryRecord], Metrics]:
    """What the group is, and what a step on it would be; less where something is wrong."""
    vocab_size = inputs.policy.vocab_size
    task, answer = delivered.task, delivered.answer
    group = notes.take("reward", lambda: group_in(answer.body, task, settings, vocab_size))
    if group is None:
        if answer.unrewarded is None:
            return [], {}
        seen = group_in(answer.unrewarded, task, settings, vocab_size)
        return _records_in(seen, settings, None, inputs.policy), {}
    taken = None
    # Where memory is too small, a step might take the whole machine with it.
    if not is_bad(notes.findings):
        taken = notes.take("step", lambda: _take_step(group, settings, inputs.policy))
    disposition = taken.result.dispositions[group.number] if taken else None
    records = _records_in(group, settings, disposition, inputs.policy)
    rewards = [record.reward for record in records]
    notes.add(*reward_findings(rewards, answer.complaints))
    notes.add(length_finding(records, settings.sampling.max_completion_length))
    if taken is None:
        return records, {}
    metrics = taken.result.metrics
    notes.add(trained_finding(records, metrics))
    if metrics["num_sequences"]:
        notes.add(step_finding(metrics))
    if taken.compared["num_sequences"]:
        notes.add(agreement_finding(settings, taken.compared))
    return records, metrics


def look_into_evaluation(
    delivered: Delivered, settings: Settings, inputs: Inputs, notes: Notes
) -> None:
    """Whether held-out prompts can be answered and rewarded."""
    vocab_size = inputs.policy.vocab_size
    body, task = delivered.answer.body, delivered.task
    group = notes.take("evaluation", lambda: group_in(body, task, settings, vocab_size))
    if group is not None:
        notes.add(_evaluation_finding(group, settings.reward.function_weights))


def _evaluation_finding(group: Group, weights: Sequence[float]) -> Finding:
    rewards = [combine_rewards(one.rewards, weights) for one in group.trajectories]
    given = [reward for reward in rewards if reward is not None]
    mean = f"mean reward {sum(given) / len(given):.4g}" if given else "no reward"
    return ok("evaluation", f"{len(rewards)} answers to its first prompt, {mean}")


def _take_step(group: Group, settings: Settings, policy: Policy) -> _Taken:
    """The step of a run, on this group alone and in memory alone; raises Stop."""
    torch.manual_seed(settings.run.seed)
    try:
        update = Update(policy, settings)
        result = update.step([group], HEAD)
        if result.metrics["num_sequences"]:
            return _Taken(result, result.metrics)
        update.adopt(_without_filter(settings))
        return _Taken(result, update.step([group], HEAD).metrics)
    except torch.OutOfMemoryError as error:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"{error}: lower optim.micro_batch_tokens, or set model.gradient_checkpointing = true",
        ) from error


def _without_filter(settings: Settings) -> Settings:
    """The settings with a term of the loss for which a group without a signal is not left out."""
    loss = settings.loss.model_copy(update={"entropy_coef": NEXT_TO_NOTHING})
    return settings.model_copy(update={"loss": loss})


def _records_in(
    group: Group, settings: Settings, disposition: str | None, policy: Policy
) -> list[TrajectoryRecord]:
    """A record for each trajectory, as `volley trajectories` has them."""
    step = Step(
        run=group.run,
        epoch=HEAD.epoch,
        step=HEAD.step + 1,
        attempt=group.attempt,
        functions=settings.reward.functions,
        weights=settings.reward.function_weights,
        answer_tag=str(settings.environment.options.get("answer_tag", "answer")),
        text_of=policy.text_of,
    )
    worth = advantages_of([group], selection_rules(settings))
    [advantages_G], [valid_G] = worth.advantages_PG.tolist(), worth.valid_PG.tolist()
    given_G = [a if valid else None for a, valid in zip(advantages_G, valid_G, strict=True)]
    return [*records_of(group, step, disposition, given_G)]
