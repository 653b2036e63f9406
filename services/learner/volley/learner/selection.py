"""Which trajectories of a step are trained on, and how strongly.

Axes: P prompts (one group each), G trajectories per group, T tokens of one completion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch

from volley.learner.advantages import ScaleRewards, combine_rewards, compute_advantages
from volley.learner.batching import TrainSequence
from volley.learner.ledger import Disposition
from volley.schemas.groups import Group, StopReason, Trajectory


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """The knobs of [reward], [sampling] and [loss] that decide what is trained."""

    num_generations: int
    reward_weights: tuple[float, ...]
    scale_rewards: ScaleRewards
    mask_truncated_completions: bool
    filter_without_signal: bool
    """Only where nothing but the advantage has a gradient: with a KL term such groups count."""


@dataclass(frozen=True, slots=True)
class Selection:
    """What a step is made of."""

    sequences: tuple[TrainSequence, ...]
    trajectories: tuple[Trajectory, ...]
    """Where the sequences come from, in the same order."""
    dispositions: dict[int, Disposition]
    """TRAINED or FILTERED, by the number of the group."""
    rewards: tuple[float | None, ...]
    """Combined, of all P x G trajectories."""
    num_without_signal: int
    """Groups in which all valid rewards are equal."""


def select_sequences(groups: Sequence[Group], rules: SelectionRules) -> Selection:
    """The trajectories of `groups` that have something to teach."""
    rewards = tuple(
        combine_rewards(trajectory.rewards, rules.reward_weights)
        for group in groups
        for trajectory in group.trajectories
    )
    rewards_PG = torch.tensor(
        [math.nan if reward is None else reward for reward in rewards], dtype=torch.float64
    ).view(len(groups), rules.num_generations)
    advantages = compute_advantages(rewards_PG, rules.scale_rewards)

    sequences: list[TrainSequence] = []
    trajectories: list[Trajectory] = []
    dispositions: dict[int, Disposition] = {}
    has_signal_P: list[bool] = advantages.has_signal_P.tolist()
    for group, has_signal, advantages_G, valid_G in zip(
        groups,
        has_signal_P,
        advantages.advantages_PG.tolist(),
        advantages.valid_PG.tolist(),
        strict=True,
    ):
        dispositions[group.number] = Disposition.FILTERED
        if rules.filter_without_signal and not has_signal:
            continue
        for trajectory, advantage, is_valid in zip(
            group.trajectories, advantages_G, valid_G, strict=True
        ):
            sequence = _sequence(group, trajectory, advantage)
            if is_valid and _is_trained(sequence, trajectory, rules):
                sequences.append(sequence)
                trajectories.append(trajectory)
                dispositions[group.number] = Disposition.TRAINED
    return Selection(
        tuple(sequences),
        tuple(trajectories),
        dispositions,
        rewards,
        num_without_signal=has_signal_P.count(False),
    )


def _sequence(group: Group, trajectory: Trajectory, advantage: float) -> TrainSequence:
    return TrainSequence(
        prompt_ids=group.prompt_ids,
        completion_ids=trajectory.token_ids,
        trained=_sampled_tokens(trajectory),
        sampler_logprobs=trajectory.sampler_logprobs,
        advantage=advantage,
        number=group.number,
    )


def _sampled_tokens(trajectory: Trajectory) -> tuple[bool, ...]:
    """False where the environment inserted a token."""
    sampled_T = [True] * trajectory.num_tokens
    for span in trajectory.inserted_spans:
        sampled_T[span.start : span.stop] = [False] * (span.stop - span.start)
    return tuple(sampled_T)


def _is_trained(sequence: TrainSequence, trajectory: Trajectory, rules: SelectionRules) -> bool:
    is_masked = rules.mask_truncated_completions and trajectory.stop_reason is StopReason.LENGTH
    return not is_masked and any(sequence.trained)
