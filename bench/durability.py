"""What it costs to lose nothing: a run as it is, against one that writes nothing down.

    python bench/durability.py [--steps N] [--turns N] [--json]

The sort demo's GRPO part runs with `volley run`, its step log, its checkpoints (every 50 steps) and
a Redis that syncs every write; in turns with it the same run without any of them. The ratio of
their samples per second, from the first step on, is to be at least 0.95.
"""

import argparse
import os
import tempfile
from pathlib import Path
from statistics import median

from measuring.report import report
from measuring.sort_runs import FORGETFUL_RUN, RUN, run_to_end, write_task
from measuring.table import Comparison

NUM_STEPS = 100
NUM_TURNS = 3


def main() -> None:
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_task(folder / "task", arguments.steps, "transformers")
        turns = [measure(config, folder / str(turn)) for turn in range(arguments.turns)]
    ratio = median(durable / forgetful for durable, forgetful in turns)
    durable, forgetful = (median(speeds) for speeds in zip(*turns, strict=True))
    report(
        [
            Comparison(
                "a run, everything on the disk", "samples/s", durable, "nothing of it", forgetful
            )
        ],
        {"steps": arguments.steps, "turns": arguments.turns, "median_ratio": ratio},
    )


def measure(config: Path, folder: Path) -> tuple[float, float]:
    """Samples a second with everything on the disk, and with nothing."""
    durable = run_to_end(RUN, config, folder / "durable")
    forgetful = run_to_end(FORGETFUL_RUN, config, folder / "forgetful", synced=False)
    return durable.from_first_step, forgetful.from_first_step


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure what durability costs.")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="of GRPO, in each run")
    parser.add_argument("--turns", type=int, default=NUM_TURNS, help="runs of each kind")
    parser.add_argument("--json", action="store_true", help="print one object, last")
    return parser.parse_args()


if __name__ == "__main__":
    main()
