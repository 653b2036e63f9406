"""What a step says about its episodes: turns, failures, and what their environments counted."""

from collections import defaultdict
from collections.abc import Sequence
from statistics import fmean

from volley.schemas.groups import Group, StopReason


def describe_episodes(groups: Sequence[Group]) -> dict[str, float | None]:
    """Means over all trajectories that were collected; `environment/...` as it names them."""
    trajectories = [trajectory for group in groups for trajectory in group.trajectories]
    if not trajectories:
        return {"turns_mean": None, "failed_share": None}
    counted: dict[str, list[float]] = defaultdict(list)
    for trajectory in trajectories:
        for name, number in trajectory.metrics.items():
            counted[f"environment/{name}"].append(number)
    return {
        "turns_mean": fmean(trajectory.num_turns for trajectory in trajectories),
        "failed_share": fmean(one.stop_reason is StopReason.FAILED for one in trajectories),
        **{name: fmean(numbers) for name, numbers in sorted(counted.items())},
    }
