"""What becomes of long completions: a table by tenths of a step's completions, shortest first.

Whatever is lost more often the longer it is (stale by the time it is done, failed, truncated)
biases what is learnt towards the short, and no mean over a step shows it.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from itertools import pairwise
from statistics import fmean

NUM_TENTHS = 10


class Fate(StrEnum):
    """What became of a completion."""

    TRAINED = "trained"
    FILTERED = "filtered"
    """It had a reward and nothing to teach, or is left out for being truncated."""
    FAILED = "failed"
    """No reward function gave it one."""
    STALE = "stale"
    """Too far behind the head when it came, so that its prompt was given out again."""


SHOWN = (Fate.TRAINED, Fate.STALE, Fate.FAILED)


@dataclass(frozen=True, slots=True)
class Completion:
    """One that was delivered."""

    num_tokens: int
    is_truncated: bool
    """It ended at the length limit."""
    fate: Fate


def describe_lengths(completions: Sequence[Completion]) -> dict[str, float | None]:
    """Mean length in tokens and the shares of the fates and of the truncated, per tenth."""
    by_length = sorted(completions, key=lambda one: one.num_tokens)
    bounds = [tenth * len(by_length) // NUM_TENTHS for tenth in range(NUM_TENTHS + 1)]
    return {
        f"tenth_{tenth}/{name}": value
        for tenth, (start, stop) in enumerate(pairwise(bounds), 1)
        for name, value in _describe(by_length[start:stop]).items()
    }


def _describe(completions: Sequence[Completion]) -> dict[str, float | None]:
    columns: dict[str, list[int]] = {
        "length": [one.num_tokens for one in completions],
        **{f"{fate}_share": [one.fate is fate for one in completions] for fate in SHOWN},
        "truncated_share": [one.is_truncated for one in completions],
    }
    return {name: fmean(values) if values else None for name, values in columns.items()}
