"""Which trajectories of a step are trained on, and how strongly.

Axes: P prompts (one group each), G trajectories per group, T tokens of one completion.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import chain, compress, repeat

import torch

from volley.learner.advantages import (
    AdvantageEstimator,
    Advantages,
    ScaleRewards,
    combine_rewards,
    compute_advantages,
)
from volley.learner.batching import TrainSequence
from volley.learner.ledger import Disposition
from volley.learner.lengths import Completion, Fate
from volley.learner.overlong import OverlongRules, overlong_penalty
from volley.schemas.groups import Group, Trajectory, Version


@dataclass(frozen=True, slots=True)
class SelectionRules:
    """The knobs of [reward], [sampling] and [loss] that decide what is trained."""

    num_generations: int
    reward_weights: tuple[float, ...]
    scale_rewards: ScaleRewards
    mask_truncated_completions: bool
    filter_without_signal: bool
    """Only where nothing but the advantage has a gradient: with a KL term such groups count."""
    overlong: OverlongRules
    advantage_estimator: AdvantageEstimator = "grpo"


@dataclass(frozen=True, slots=True)
class Selection:
    """What a step is made of."""

    sequences: tuple[TrainSequence, ...]
    dispositions: dict[int, Disposition]
    """TRAINED or FILTERED, by the number of the group."""
    rewards: tuple[float | None, ...]
    """Combined, of all P x G trajectories, before any penalty."""
    completions: tuple[Completion, ...]
    """Lengths and fates of all P x G trajectories."""
    num_without_signal: int
    """Groups in which all valid rewards, penalties included, are equal."""


def select_sequences(
    groups: Sequence[Group],
    head: Version,
    rules: SelectionRules,
    kl_penalties: Sequence[float] = (),
) -> Selection:
    """The trajectories of `groups`, collected under `head`, that have something to teach.

    `kl_penalties` are taken off the rewards of all P x G trajectories, where they are given.
    """
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = [combine_rewards(one.rewards, rules.reward_weights) for one in trajectories]
    advantages = advantages_of(groups, rules, kl_penalties)
    sequences = [
        _sequence(group, trajectory, head, advantage)
        for group, advantages_G in zip(groups, advantages.advantages_PG.tolist(), strict=True)
        for trajectory, advantage in zip(group.trajectories, advantages_G, strict=True)
    ]
    teaches_PG = advantages.valid_PG
    if rules.filter_without_signal:
        teaches_PG = teaches_PG & advantages.has_signal_P[:, None]
    is_trained = [
        teaches and _is_trained(sequence, trajectory, rules)
        for teaches, sequence, trajectory in zip(
            teaches_PG.flatten().tolist(), sequences, trajectories, strict=True
        )
    ]
    trained_numbers = {one.number for one in compress(sequences, is_trained)}
    return Selection(
        tuple(compress(sequences, is_trained)),
        {
            group.number: Disposition.TRAINED
            if group.number in trained_numbers
            else Disposition.FILTERED
            for group in groups
        },
        tuple(rewards),
        tuple(map(_completion, trajectories, rewards, is_trained)),
        num_without_signal=int((~advantages.has_signal_P).sum()),
    )


def sampled_sequences(groups: Sequence[Group], head: Version) -> list[TrainSequence]:
    """All P x G trajectories as sequences without an advantage."""
    return [_sequence(group, one, head, 0.0) for group in groups for one in group.trajectories]


def advantages_of(
    groups: Sequence[Group], rules: SelectionRules, kl_penalties: Sequence[float] = ()
) -> Advantages:
    """What all P x G trajectories are worth to the step, penalties included."""
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    rewards = [combine_rewards(one.rewards, rules.reward_weights) for one in trajectories]
    penalised = [
        math.nan if reward is None else reward - overlong_penalty(one.num_tokens, rules.overlong)
        for one, reward in zip(trajectories, rewards, strict=True)
    ]
    if kl_penalties:
        penalised = [
            reward - penalty for reward, penalty in zip(penalised, kl_penalties, strict=True)
        ]
    rewards_PG = torch.tensor(penalised, dtype=torch.float64).view(-1, rules.num_generations)
    return compute_advantages(rewards_PG, rules.scale_rewards, rules.advantage_estimator)


def _sequence(
    group: Group, trajectory: Trajectory, head: Version, advantage: float
) -> TrainSequence:
    return TrainSequence(
        prompt_ids=group.prompt_ids,
        completion_ids=trajectory.token_ids,
        trained=_sampled_tokens(trajectory),
        sampler_logprobs=trajectory.sampler_logprobs,
        advantage=advantage,
        number=group.number,
        lags=_lags(trajectory, head),
    )


def _lags(trajectory: Trajectory, head: Version) -> tuple[int, ...]:
    spans = trajectory.version_spans
    return tuple(
        chain.from_iterable(repeat(head.step - one.version.step, one.num_tokens) for one in spans)
    )


def _sampled_tokens(trajectory: Trajectory) -> tuple[bool, ...]:
    """False where the environment inserted a token."""
    sampled_T = [True] * trajectory.num_tokens
    for span in trajectory.inserted_spans:
        sampled_T[span.start : span.stop] = [False] * (span.stop - span.start)
    return tuple(sampled_T)


def _is_trained(sequence: TrainSequence, trajectory: Trajectory, rules: SelectionRules) -> bool:
    is_masked = rules.mask_truncated_completions and trajectory.stop_reason.is_truncated
    return not is_masked and any(sequence.trained)


def _completion(trajectory: Trajectory, reward: float | None, is_trained: bool) -> Completion:
    lost = Fate.FAILED if reward is None else Fate.FILTERED
    return Completion(
        trajectory.num_tokens,
        trajectory.stop_reason.is_truncated,
        Fate.TRAINED if is_trained else lost,
    )
