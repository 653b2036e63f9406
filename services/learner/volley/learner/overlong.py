"""A penalty that grows over the last tokens before the length limit, in units of reward.

DAPO's soft overlong punishment; see docs/algorithm.md.
"""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class OverlongRules:
    """The knobs that decide how much a long completion costs."""

    max_completion_length: int
    buffer_tokens: int = 0
    """0 turns the penalty off."""
    penalty: float = 1.0


def overlong_penalty(num_tokens: int, rules: OverlongRules) -> float:
    """0 before the buffer, rising evenly to the whole penalty where it is full."""
    num_beyond = num_tokens - (rules.max_completion_length - rules.buffer_tokens)
    if rules.buffer_tokens == 0 or num_beyond <= 0:
        return 0.0
    return rules.penalty * min(num_beyond / rules.buffer_tokens, 1.0)
