"""`volley replay RUN_DIR`: logged steps once more, without any worker."""

import time
from collections.abc import Sequence
from pathlib import Path
from statistics import fmean
from typing import TYPE_CHECKING

from rich import box
from rich.console import Console
from rich.table import Table

from volley.launcher.progress_bar import progress_bar
from volley.telemetry.stops import ExitCode

if TYPE_CHECKING:  # heavy, and not needed to answer --help
    from volley.learner.retake import Retaken

COMPARED = ("loss", "grad_norm", "kl", "entropy", "clip_fraction", "ratio_mean", "ratio_max")
"""Of metrics.jsonl: what other settings of a step change."""


def run_replay(
    run_folder: Path, first: int | None, last: int | None, overrides: Sequence[str]
) -> ExitCode:
    """Replay in front of a person; DONE unless steps that were not changed give other weights."""
    from volley.learner.metrics_file import MetricsFile
    from volley.learner.past_run import open_run
    from volley.learner.retake import Retake

    console = Console(highlight=False)
    steps: list[Retaken] = []
    metrics = run_folder / time.strftime("replay-%Y%m%d-%H%M%S.jsonl", time.gmtime())
    with open_run(run_folder) as run, progress_bar() as progress:
        retake = Retake(run, first, last, overrides)
        bar = progress.add_task("replaying", total=len(retake.places))
        for retaken in retake.steps():
            progress.advance(bar)
            if retaken is not None:
                steps.append(retaken)
                MetricsFile(metrics).append(retaken.line)
    console.print(comparison(steps))
    console.print(f"metrics of every step: {metrics}", soft_wrap=True)
    return _verdict(console, steps, is_changed=bool(overrides))


def comparison(steps: "Sequence[Retaken]") -> Table:
    """Means over the steps, as recorded and as replayed."""
    table = Table(f"mean of {len(steps)} steps", "recorded", "replayed", box=box.SIMPLE_HEAD)
    for name in COMPARED:
        recorded = [step.recorded.metrics.get(name) for step in steps]
        replayed = [step.line.metrics.get(name) for step in steps]
        table.add_row(name, _mean(recorded), _mean(replayed))
    return table


def _verdict(console: Console, steps: "Sequence[Retaken]", *, is_changed: bool) -> ExitCode:
    different = [step.line.version.step for step in steps if not step.is_same]
    if is_changed or not different:
        same = "" if is_changed else f"all {len(steps)} steps gave the recorded weights; "
        root = steps[-1].line.root[:12] if steps else "none"
        console.print(f"{same}the last root is {root}")
        return ExitCode.DONE
    console.print(
        f"{len(different)} of {len(steps)} steps gave other weights than recorded, the first one "
        f"is step {different[0]}: was the run made with another build, device or devices.threads?",
        soft_wrap=True,
    )
    return ExitCode.ENVIRONMENT


def _mean(values: Sequence[float | None]) -> str:
    given = [value for value in values if value is not None]
    return f"{fmean(given):.6g}" if given else "-"
