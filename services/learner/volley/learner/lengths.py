"""What becomes of long completions: a table by tenths of a step's trajectories, shortest first."""

from collections.abc import Sequence
from statistics import fmean

from volley.schemas.groups import StopReason, Trajectory

NUM_TENTHS = 10


def describe_lengths(
    trajectories: Sequence[Trajectory], is_trained: Sequence[bool]
) -> dict[str, float | None]:
    """Mean length in tokens, share that is trained and share that was truncated, per tenth."""
    by_length = sorted(
        zip(trajectories, is_trained, strict=True), key=lambda pair: pair[0].num_tokens
    )
    metrics: dict[str, float | None] = {}
    for tenth in range(1, NUM_TENTHS + 1):
        start, stop = ((tenth - lag) * len(by_length) // NUM_TENTHS for lag in (1, 0))
        chosen = by_length[start:stop]
        columns: dict[str, list[int]] = {
            "length": [one.num_tokens for one, _ in chosen],
            "trained_share": [trained for _, trained in chosen],
            "truncated_share": [one.stop_reason is StopReason.LENGTH for one, _ in chosen],
        }
        for name, values in columns.items():
            metrics[f"tenth_{tenth}/{name}"] = fmean(values) if values else None
    return metrics
