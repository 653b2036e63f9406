"""How close a whole run comes to its slower half.

    python bench/end_to_end.py [--steps N] [--engine transformers|vllm] [--json]

The sort demo's GRPO part runs with `volley run`. Then its halves run by themselves: the worker with
a learner that trains nothing but publishes as often, and the learner's steps and publishes on the
groups of that very run. What the run loses between the two is the first speed over the smaller of
the others; the aim is 0.90.
"""

import argparse
import importlib.util
import os
import tempfile
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path

from measuring.learner_alone import repeat_steps
from measuring.report import report
from measuring.sort_runs import IDLE_RUN, RUN, run_to_end, write_task
from measuring.table import Comparison

NUM_STEPS = 100
"""Of the demo's 400: what can be measured in two minutes."""


def main() -> None:
    arguments = parse_arguments()
    os.environ["OMP_NUM_THREADS"] = "1"
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        config = write_task(folder / "task", arguments.steps, arguments.engine)
        whole = run_to_end(RUN, config, folder / "whole")
        worker = run_to_end(IDLE_RUN, config, folder / "worker")
        with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
            learner = process.submit(repeat_steps, config, folder / "whole").result()
    slower_half = min(worker.from_first_step, learner)
    report(
        [
            Comparison(what, "samples/s", samples_per_s, "its slower half", slower_half)
            for what, samples_per_s in (
                ("a run, from its first task on", whole.from_first_task),
                ("a run, from its first step on", whole.from_first_step),
            )
        ],
        {
            "steps": arguments.steps,
            "engine": arguments.engine,
            "worker_alone_samples_per_s": worker.from_first_step,
            "learner_alone_samples_per_s": learner,
        },
    )


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(description="Measure a run against its slower half.")
    parser.add_argument("--steps", type=int, default=NUM_STEPS, help="of GRPO")
    parser.add_argument(
        "--engine",
        choices=("transformers", "vllm"),
        default="vllm" if importlib.util.find_spec("vllm") else "transformers",
        help="what the worker samples with; left out: vllm if it is installed",
    )
    parser.add_argument("--json", action="store_true", help="print one object, last")
    return parser.parse_args()


if __name__ == "__main__":
    main()
