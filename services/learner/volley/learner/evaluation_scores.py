"""What the answers to held-out prompts say of a version; pure."""

import math
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from statistics import fmean, stdev

from volley.learner.advantages import combine_rewards
from volley.schemas.groups import Trajectory

Metrics = dict[str, float | None]


@dataclass(frozen=True, slots=True)
class Answer:
    """One completion of a held-out prompt."""

    reward: float | None
    """None where no reward function applied, or it failed."""
    num_tokens: int
    is_truncated: bool
    metrics: Mapping[str, float]
    """What its environment has counted."""


def answer_in(trajectory: Trajectory, weights: Sequence[float]) -> Answer:
    """What counts of a completion, under the weights of the reward functions."""
    return Answer(
        combine_rewards(trajectory.rewards, weights),
        trajectory.num_tokens,
        trajectory.stop_reason.is_truncated,
        trajectory.metrics,
    )


def describe_answers(
    sampled: Sequence[Sequence[Answer]],
    greedy: Sequence[Answer],
    num_prompts: int,
    pass_reward: float,
) -> Metrics:
    """Means over prompts; `sampled` has the answers of each prompt that has all of them.

    An answer without a reward counts nowhere but in the lengths and the environment's metrics.
    """
    rewarded = [some for answers in sampled if (some := _rewards(answers))]
    every = [answer for answers in sampled for answer in answers]
    return {
        "num_prompts": num_prompts,
        "num_answered": min(len(sampled), len(greedy)),
        **_mean_and_error("reward", [fmean(rewards) for rewards in rewarded]),
        **_mean_and_error("reward_greedy", _rewards(greedy)),
        **_pass_rates(rewarded, pass_reward),
        "completion_length_mean": _mean([answer.num_tokens for answer in every]),
        "truncated_share": _mean([float(answer.is_truncated) for answer in every]),
        **{f"environment/{name}": value for name, value in _counted(every)},
    }


def pass_at(k: int, num_samples: int, num_passed: int) -> float:
    """The unbiased estimate that one of k samples passes, from more samples than that.

    Chen et al. 2021, "Evaluating Large Language Models Trained on Code", equation 1.
    """
    return 1.0 - math.comb(num_samples - num_passed, k) / math.comb(num_samples, k)


def _pass_rates(rewarded: Sequence[Sequence[float]], pass_reward: float) -> Metrics:
    """pass@1 and pass@n for the smallest number of rewards that all prompts have."""
    num_samples = min(map(len, rewarded), default=0)
    counts = [(len(some), sum(reward >= pass_reward for reward in some)) for some in rewarded]
    return {
        f"pass@{k}": fmean(pass_at(k, *one) for one in counts)
        for k in sorted({1, num_samples} - {0})
        if counts
    }


def _mean_and_error(name: str, values: Sequence[float]) -> Metrics:
    """The mean, and its standard error over the prompts."""
    error = stdev(values) / math.sqrt(len(values)) if len(values) > 1 else None
    return {name: _mean(values), f"{name}_stderr": error}


def _counted(answers: Sequence[Answer]) -> Iterator[tuple[str, float]]:
    numbers: dict[str, list[float]] = defaultdict(list)
    for answer in answers:
        for name, number in answer.metrics.items():
            numbers[name].append(number)
    for name, some in sorted(numbers.items()):
        yield name, fmean(some)


def _rewards(answers: Sequence[Answer]) -> list[float]:
    return [answer.reward for answer in answers if answer.reward is not None]


def _mean(values: Sequence[float]) -> float | None:
    return fmean(values) if values else None
