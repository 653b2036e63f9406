"""What a step says about itself in metrics.jsonl.

A value that does not exist in this step, or is not finite, is None.
"""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from functools import reduce
from itertools import chain
from statistics import fmean

from volley.learner.loss import TokenSums
from volley.learner.selection import Selection
from volley.schemas.groups import Group

Metrics = dict[str, float | None]


@dataclass(frozen=True, slots=True, eq=False)
class Pass:
    """One pass over a step's sequences: its loss, and the gradient's norm before clipping."""

    loss: float
    grad_norm: float
    sums: TokenSums
    entropy_sum: float
    """Nats over trained tokens."""

    @property
    def is_finite(self) -> bool:
        return math.isfinite(self.loss) and math.isfinite(self.grad_norm)


def describe_groups(
    groups: Sequence[Group], selection: Selection, functions: Sequence[str]
) -> Metrics:
    """Rewards and completions of all that was collected."""
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    lengths = [trajectory.num_tokens for trajectory in trajectories]
    by_function = {
        f"reward/{function}": _mean(trajectory.rewards[index] for trajectory in trajectories)
        for index, function in enumerate(functions)
    }
    return {
        "reward_mean": _mean(selection.rewards),
        **by_function,
        "completion_length_mean": _mean(lengths),
        "completion_length_max": _max(lengths),
        "truncated_share": _mean(
            float(trajectory.stop_reason.is_truncated) for trajectory in trajectories
        ),
        "no_signal_share": selection.num_without_signal / len(groups) if groups else None,
    }


def describe_selection(selection: Selection) -> Metrics:
    """Amount and age of what was trained."""
    lags = list(chain.from_iterable(one.trained_lags for one in selection.sequences))
    return {
        "num_sequences": len(selection.sequences),
        "num_tokens": len(lags),
        "staleness_mean": _mean(lags),
        "staleness_max": _max(lags),
    }


def describe_passes(passes: Sequence[Pass], *, to_reference: bool) -> Metrics:
    """Loss and ratios, over all trained tokens of all passes; None where nothing was trained."""
    names = ("loss", "grad_norm", "kl", "kl_reference", "clip_fraction", "ratio_mean")
    if not passes:
        return dict.fromkeys((*names, "ratio_max", "entropy"))
    sums = reduce(TokenSums.merge, (one.sums for one in passes))
    num_tokens = float(sums.num_tokens)
    values = {
        "loss": fmean(one.loss for one in passes),
        "grad_norm": fmean(one.grad_norm for one in passes),
        "kl": float(sums.kl_to_sampler) / num_tokens,
        "kl_reference": float(sums.kl) / num_tokens if to_reference else math.nan,
        "clip_fraction": float(sums.num_clipped) / num_tokens,
        "ratio_mean": float(sums.ratio) / num_tokens,
        "ratio_max": float(sums.ratio_max),
        "entropy": sum(one.entropy_sum for one in passes) / num_tokens,
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _mean(values: Iterable[float | None]) -> float | None:
    given = [value for value in values if value is not None]
    return fmean(given) if given else None


def _max(values: Sequence[float]) -> float | None:
    return max(values, default=None)
