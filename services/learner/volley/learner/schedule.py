"""The learning rate as a function of the step, so that a resumed run needs no scheduler state."""

import math
from dataclasses import dataclass
from typing import Literal


@dataclass(frozen=True, slots=True)
class ScheduleRules:
    """A warm-up, then a constant rate or a decay to `min_lr_rate` of it."""

    learning_rate: float
    shape: Literal["constant", "linear", "cosine"]
    warmup_steps: int
    num_steps: int
    min_lr_rate: float


def learning_rate_at(step: int, rules: ScheduleRules) -> float:
    """The rate of step 0, 1, ...; no step before `num_steps` has the rate 0."""
    if step < rules.warmup_steps:
        return rules.learning_rate * (step + 1) / (rules.warmup_steps + 1)
    decay_steps = max(rules.num_steps - rules.warmup_steps, 1)
    progress = min((step - rules.warmup_steps) / decay_steps, 1.0)
    share = rules.min_lr_rate + (1 - rules.min_lr_rate) * _remaining(progress, rules)
    return rules.learning_rate * share


def _remaining(progress: float, rules: ScheduleRules) -> float:
    match rules.shape:
        case "constant":
            return 1.0
        case "linear":
            return 1.0 - progress
        case "cosine":
            return (1 + math.cos(math.pi * progress)) / 2
