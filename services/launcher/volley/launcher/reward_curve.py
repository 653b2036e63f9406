"""The reward of a run over its steps: read from metrics.jsonl, drawn as a PNG."""

import importlib.util
import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from statistics import fmean

REWARD = "reward_mean"
"""As metrics.jsonl names it."""
SMOOTHED_SHARE = 0.02
"""Of the steps: how far the line in front looks to either side."""


Series = list[tuple[int, float]]
"""Steps with a value each."""


def read_metric(metrics: Path, name: str) -> Series:
    """Step and value of every step that has one; empty where there is no file."""
    if not metrics.exists():
        return []
    steps = [json.loads(line) for line in metrics.read_text(encoding="utf-8").splitlines()]
    return [(step["step"], step[name]) for step in steps if step.get(name) is not None]


def smooth(values: Sequence[float], reach: int) -> list[float]:
    """The mean of each value and up to `reach` neighbours on either side."""
    return [
        fmean(values[max(0, index - reach) : index + reach + 1]) for index in range(len(values))
    ]


def can_draw() -> bool:
    """Whether matplotlib is installed."""
    return importlib.util.find_spec("matplotlib") is not None


def draw_reward_curve(
    rewards: Series,
    title: str,
    png: Path,
    levels: Mapping[str, float],
    rates: Mapping[str, Series],
) -> None:
    """Write the curve, a dashed line at each of `levels`, and the `rates` as they are."""
    # Half a second, spent by those who want a curve.
    from matplotlib.figure import Figure

    steps, means = zip(*rewards, strict=True)
    reach = round(SMOOTHED_SHARE * len(means))
    figure = Figure(figsize=(8, 4.5), dpi=150, layout="constrained")
    axes = figure.subplots()
    axes.plot(steps, means, color="tab:blue", alpha=0.3, linewidth=1, label="mean of a step")
    axes.plot(steps, smooth(means, reach), color="tab:blue", label=f"mean of {2 * reach + 1} steps")
    for index, (name, level) in enumerate(levels.items(), start=1):
        label = f"{name}: {level:.2f}"
        axes.axhline(level, color=f"C{index}", linestyle="--", linewidth=1, label=label)
    for index, (name, series) in enumerate(rates.items(), start=1 + len(levels)):
        axes.plot(*zip(*series, strict=True), color=f"C{index}", linewidth=1, label=name)
    axes.set(title=title, xlabel="optimiser step", ylabel="reward")
    axes.grid(alpha=0.3)
    axes.legend(loc="center right")
    figure.savefig(png)
