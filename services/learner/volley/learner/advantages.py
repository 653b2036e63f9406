"""Group-relative advantages: how much better a trajectory is than its siblings.

Axes: P prompts (one group each), G trajectories per group. NaN in `rewards_PG` means no reward.
Equations and sources: docs/algorithm.md.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

ScaleRewards = Literal["group", "batch", "none"]
AdvantageEstimator = Literal["grpo", "rloo", "reinforce_plus_plus_baseline"]

# Keeps the quotient finite where all rewards are nearly equal; the value is TRL's.
STD_FLOOR = 1e-4


@dataclass(frozen=True, slots=True, eq=False)
class Advantages:
    """What the rewards of one step say about its trajectories."""

    advantages_PG: Tensor
    """0 where there is none."""
    valid_PG: Tensor
    """True where a trajectory has a reward and a sibling to be compared with."""
    has_signal_P: Tensor
    """False where all valid rewards of the group are equal."""


def combine_rewards(rewards: Sequence[float | None], weights: Sequence[float]) -> float | None:
    """The weighted sum of the functions that gave a reward; None where none did."""
    given = [
        reward * weight
        for reward, weight in zip(rewards, weights, strict=True)
        if reward is not None
    ]
    return sum(given) if given else None


def compute_advantages(
    rewards_PG: Tensor, scale_rewards: ScaleRewards, estimator: AdvantageEstimator = "grpo"
) -> Advantages:
    """Rewards less what they are compared with, over what the comparison is scaled by."""
    given_PG = ~rewards_PG.isnan()
    valid_PG = given_PG & (given_PG.sum(-1, keepdim=True) >= 2)
    deviations_PG = _select(rewards_PG - _means_P1(rewards_PG, valid_PG), valid_PG)
    has_signal_P = _has_signal_P(rewards_PG, valid_PG)
    match scale_rewards:
        case "none":
            advantages_PG = deviations_PG
        case "group":
            advantages_PG = deviations_PG / (_group_stds_P1(deviations_PG, valid_PG) + STD_FLOOR)
        case "batch":
            # REINFORCE++ takes the spread of what is left when the groups' means are gone.
            spread_PG = rewards_PG if estimator == "grpo" else deviations_PG
            advantages_PG = deviations_PG / (_batch_std(spread_PG, valid_PG) + STD_FLOOR)
    if estimator == "rloo":
        advantages_PG = leave_one_out(advantages_PG, valid_PG)
    # Equal rewards can leave a rounding error of their mean behind, which is no signal.
    advantages_PG = _select(advantages_PG, valid_PG & has_signal_P[:, None])
    return Advantages(advantages_PG, valid_PG, has_signal_P)


def leave_one_out(deviations_PG: Tensor, valid_PG: Tensor) -> Tensor:
    """Deviations from the mean of the siblings alone: those from the group's, times n / (n - 1)."""
    num_valid_P1 = valid_PG.sum(-1, keepdim=True)
    return deviations_PG * num_valid_P1 / _ddof_1(num_valid_P1)


def _select(values: Tensor, mask: Tensor) -> Tensor:
    return torch.where(mask, values, 0.0)


def _means_P1(rewards_PG: Tensor, valid_PG: Tensor) -> Tensor:
    num_valid_P1 = valid_PG.sum(-1, keepdim=True).clamp(min=1)
    return _select(rewards_PG, valid_PG).sum(-1, keepdim=True) / num_valid_P1


def _group_stds_P1(deviations_PG: Tensor, valid_PG: Tensor) -> Tensor:
    squares_P1 = deviations_PG.square().sum(-1, keepdim=True)
    return (squares_P1 / _ddof_1(valid_PG.sum(-1, keepdim=True))).sqrt()


def _has_signal_P(rewards_PG: Tensor, valid_PG: Tensor) -> Tensor:
    highest_P = torch.where(valid_PG, rewards_PG, -torch.inf).amax(-1)
    lowest_P = torch.where(valid_PG, rewards_PG, torch.inf).amin(-1)
    return highest_P > lowest_P


def _batch_std(rewards_PG: Tensor, valid_PG: Tensor) -> Tensor:
    """Over all valid rewards of the step, around their common mean."""
    mean = _select(rewards_PG, valid_PG).sum() / valid_PG.sum().clamp(min=1)
    squares_PG = _select(rewards_PG - mean, valid_PG).square()
    return (squares_PG.sum() / _ddof_1(valid_PG.sum())).sqrt()


def _ddof_1(num_valid: Tensor) -> Tensor:
    return (num_valid - 1).clamp(min=1)
