"""A group that a worker has delivered, on its way through the learner."""

from collections.abc import Sequence

import torch

from volley.launcher.check_findings import length_finding, reward_findings, step_findings
from volley.launcher.check_inputs import Inputs
from volley.launcher.check_notes import Notes, is_bad
from volley.launcher.check_sampling import HEAD, Delivered, group_in
from volley.launcher.findings import Finding, ok
from volley.learner.advantages import combine_rewards
from volley.learner.detokenizer import Detokenizer
from volley.learner.policy import Policy
from volley.learner.selection import advantages_of
from volley.learner.settings import Settings
from volley.learner.step_metrics import Metrics
from volley.learner.step_rules import selection_rules
from volley.learner.trajectory_record import Step, TrajectoryRecord, records_of
from volley.learner.update import StepResult, Update
from volley.schemas.groups import Group
from volley.telemetry.stops import ExitCode, Stop


def look_into_training(
    delivered: Delivered,
    settings: Settings,
    inputs: Inputs,
    detokenizer: Detokenizer,
    notes: Notes,
) -> tuple[list[TrajectoryRecord], Metrics]:
    """What the group is, and what a step on it would be; less where something is wrong."""
    policy = inputs.policy
    group = notes.take("reward", lambda: group_in(delivered, settings, policy.vocab_size))
    if group is None:
        return [], {}
    result = None
    if not is_bad(notes.findings):
        result = notes.take("step", lambda: _take_step(group, settings, policy))
    disposition = result.dispositions[group.number] if result else None
    records = _records_in(group, settings, disposition, detokenizer)
    rewards = [record.reward for record in records]
    notes.add(*reward_findings(rewards, delivered.answer.complaints))
    notes.add(length_finding(records, settings.sampling.max_completion_length))
    if result is None:
        return records, {}
    notes.add(*step_findings(settings, records, result.metrics))
    return records, result.metrics


def look_into_evaluation(
    delivered: Delivered, settings: Settings, inputs: Inputs, notes: Notes
) -> None:
    """Whether held-out prompts can be answered and rewarded."""
    vocab_size = inputs.policy.vocab_size
    group = notes.take("evaluation", lambda: group_in(delivered, settings, vocab_size))
    if group is not None:
        notes.add(_evaluation_finding(group, settings.reward.function_weights))


def _evaluation_finding(group: Group, weights: Sequence[float]) -> Finding:
    rewards = [combine_rewards(one.rewards, weights) for one in group.trajectories]
    given = [reward for reward in rewards if reward is not None]
    mean = f"mean reward {sum(given) / len(given):.4g}" if given else "no reward"
    return ok("evaluation", f"{len(rewards)} answers to its first prompt, {mean}")


def _take_step(group: Group, settings: Settings, policy: Policy) -> StepResult:
    """The step of a run, on this group alone and in memory alone; raises Stop."""
    torch.manual_seed(settings.run.seed)
    try:
        return Update(policy, settings).step([group], HEAD)
    except torch.OutOfMemoryError as error:
        raise Stop(
            ExitCode.ENVIRONMENT,
            f"{error}: lower optim.micro_batch_tokens, or set model.gradient_checkpointing = true",
        ) from error


def _records_in(
    group: Group, settings: Settings, disposition: str | None, detokenizer: Detokenizer
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
        text_of=detokenizer.text_of,
    )
    worth = advantages_of([group], selection_rules(settings))
    [advantages_G], [valid_G] = worth.advantages_PG.tolist(), worth.valid_PG.tolist()
    given_G = [a if valid else None for a, valid in zip(advantages_G, valid_G, strict=True)]
    return [*records_of(group, step, disposition, given_G)]
