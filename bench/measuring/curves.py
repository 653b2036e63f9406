"""Reward curves of runs that differ in staleness and correction: as CSV, table and picture."""

import csv
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import fmean, stdev

COLUMNS = ("correction", "lag", "seed", "num_samples", "reward", "effective_sample_share", "kl")
SMOOTHED_STEPS = 10


@dataclass(frozen=True, slots=True)
class Point:
    """A step of one run."""

    correction: str
    lag: int
    seed: int
    num_samples: int
    reward: float
    effective_sample_share: float
    kl: float


@dataclass(frozen=True, slots=True)
class End:
    """What one run has come to."""

    correction: str
    lag: int
    seed: int
    held_out: float


def write_points(points: Iterable[Point], path: Path) -> None:
    """One line a step."""
    with path.open("w", newline="", encoding="utf-8") as file:
        writer = csv.writer(file)
        writer.writerow(COLUMNS)
        writer.writerows([_shown(getattr(point, name)) for name in COLUMNS] for point in points)


def _shown(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def table(points: Sequence[Point], ends: Sequence[End]) -> str:
    """Mean and standard deviation over the seeds, a line for every correction and lag."""
    lines = [f"{'correction':12}{'lag':>4}{'held out':>16}{'mean reward':>16}{'eff. samples':>14}"]
    for correction, lag in dict.fromkeys((end.correction, end.lag) for end in ends):
        chosen = [one for one in points if (one.correction, one.lag) == (correction, lag)]
        held_out = [end.held_out for end in ends if (end.correction, end.lag) == (correction, lag)]
        rewards = [
            fmean(one.reward for one in chosen if one.seed == seed)
            for seed in dict.fromkeys(one.seed for one in chosen)
        ]
        share = fmean(one.effective_sample_share for one in chosen)
        line = f"{correction:12}{lag:4}{_spread(held_out):>16}{_spread(rewards):>16}{share:14.3f}"
        lines.append(line)
    return "\n".join(lines) + "\n"


def _spread(values: Sequence[float]) -> str:
    spread = stdev(values) if len(values) > 1 else 0.0
    return f"{fmean(values):.3f} +- {spread:.3f}"


def draw(points: Sequence[Point], titles: Mapping[str, str], png: Path) -> None:
    """A panel for every correction, a line for every lag: the mean over the seeds."""
    # Half a second, spent by those who want a picture.
    from matplotlib.figure import Figure

    figure = Figure(figsize=(4 * len(titles), 3.6), dpi=120, layout="constrained")
    for axes, (correction, title) in zip(
        figure.subplots(1, len(titles), sharey=True), titles.items(), strict=True
    ):
        # Without a lag there is nothing to be corrected: that curve belongs in every panel.
        chosen = [one for one in points if one.correction == correction or one.lag == 0]
        for lag in sorted({one.lag for one in chosen}):
            thousands, rewards = _mean_curve([one for one in chosen if one.lag == lag])
            axes.plot(thousands, rewards, label=f"{lag} versions")
        axes.set(title=title, xlabel="thousand samples seen")
        axes.grid(alpha=0.3)
    figure.axes[0].set_ylabel("reward")
    figure.axes[-1].legend(title="held back", loc="lower right")
    figure.savefig(png)


def _mean_curve(points: Sequence[Point]) -> tuple[list[float], list[float]]:
    """Over the seeds, then over some steps; samples in thousands."""
    by_samples: dict[int, list[float]] = {}
    for one in points:
        by_samples.setdefault(one.num_samples, []).append(one.reward)
    thousands = [num_samples / 1000 for num_samples in by_samples]
    means = [fmean(rewards) for rewards in by_samples.values()]
    starts = range(max(1, len(means) - SMOOTHED_STEPS + 1))
    smooth = [fmean(means[start : start + SMOOTHED_STEPS]) for start in starts]
    return thousands[-len(smooth) :], smooth
