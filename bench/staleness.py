"""What staleness costs, and what correcting for it gives back.

    python bench/staleness.py [--steps N] [--seeds N] [--lags 0 2 4 8] [--csv FILE] [--png FILE]

The sort demo's learner, in one process, with the sampler's weights held back by a number of
versions, and

    none        trained as if the policy at the step's start had sampled it
    sampler     clipped around the policy that did sample (the default)
    truncated   clipped around the policy at the step's start, times the truncated weight

The curves of docs/algorithm.md are those of --steps 80 --seeds 5, half an hour on one core.
"""

import argparse
import os
import sys
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from statistics import fmean

import torch
from measuring.curves import End, Point, draw, table, write_points
from measuring.held_back import HeldBackRun
from measuring.report import report
from measuring.sort_runs import write_task
from measuring.table import Comparison

from volley.learner.settings import load_settings

NUM_STEPS = 20
NUM_SEEDS = 1
LAGS = (0, 2, 4, 8)
CORRECTIONS = {
    "none": ("loss.ratio_anchor=proximal", "loss.importance_sampling_mode=off"),
    "sampler": ("loss.ratio_anchor=sampler",),
    "truncated": ("loss.ratio_anchor=proximal", "loss.importance_sampling_mode=token_truncate"),
}
TITLES = {
    "none": "not corrected",
    "sampler": "ratio to the sampler",
    "truncated": "proximal, weight truncated at 2",
}


def main() -> None:
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    torch.set_num_threads(1)
    points: list[Point] = []
    ends: list[End] = []
    with tempfile.TemporaryDirectory() as name:
        config = write_task(Path(name) / "task", arguments.steps, "transformers")
        for correction, lag, seed in trials(arguments):
            points += run(config, correction, lag, seed, ends)
    if arguments.csv:
        write_points(points, arguments.csv)
    if arguments.png:
        draw(points, TITLES, arguments.png)
    sys.stdout.write(table(points, ends))
    report(
        compare(ends),
        {
            "steps": arguments.steps,
            "seeds": arguments.seeds,
            "held_out": {f"{end.correction}/{end.lag}/{end.seed}": end.held_out for end in ends},
        },
    )


def compare(ends: Sequence[End]) -> list[Comparison]:
    """What is left of the reward on held-out prompts at the largest lag, by correction."""
    lag = max(end.lag for end in ends)
    fresh = fmean(end.held_out for end in ends if end.lag == 0)
    return [
        Comparison(
            f"{lag} versions behind, {TITLES[correction]}",
            "held-out reward",
            fmean(end.held_out for end in ends if (end.correction, end.lag) == (correction, lag)),
            "no version behind",
            fresh,
        )
        for correction in CORRECTIONS
    ]


def trials(arguments: argparse.Namespace) -> Iterator[tuple[str, int, int]]:
    """Correction, lag and seed of each run; without a lag all corrections are the same."""
    for lag in arguments.lags:
        for correction in CORRECTIONS if lag else ("sampler",):
            for seed in range(arguments.seeds):
                yield correction, lag, seed


def run(config: Path, correction: str, lag: int, seed: int, ends: list[End]) -> list[Point]:
    """The curve of one run; what it has come to goes into `ends`."""
    settings = load_settings(config, (f"run.seed={seed}", *CORRECTIONS[correction]))
    one = HeldBackRun(settings, config.with_name("held_out.jsonl"), lag)
    points = [
        Point(
            *(correction, lag, seed, step.num_samples),
            reward=step.metrics["reward_mean"] or 0.0,
            effective_sample_share=step.metrics["effective_sample_share"] or 0.0,
            kl=step.metrics["kl"] or 0.0,
        )
        for step in one.steps()
    ]
    ends.append(End(correction, lag, seed, one.held_out()))
    return points


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what staleness costs.")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="of each run")
    parser.add_argument("--seeds", type=int, default=NUM_SEEDS, help="runs of each kind")
    parser.add_argument("--lags", type=int, nargs="+", default=LAGS, help="versions held back")
    parser.add_argument("--csv", type=Path, help="where to write every step")
    parser.add_argument("--png", type=Path, help="where to draw the curves")
    parser.add_argument("--json", action="store_true", help="one line of JSON at the end")
    return parser.parse_args()


if __name__ == "__main__":
    main()
