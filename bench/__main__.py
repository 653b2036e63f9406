"""Every bench in turn, and one table of what they found.

    python bench [NAME ...] [--quick]

Each runs in a process of its own; one that fails is a row that says so. What a bench measured is
kept in bench/results, a file each, and the table of all that is kept beside them, as summary. It
says how busy the machine was with other things, for speeds are worth little where it was busy.

A quick run takes fewer steps and turns, which is enough to see that the benches work and too few
for figures: nothing of it is kept.
"""

import importlib.util
import json
import os
import resource
import subprocess
import sys
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import psutil
import typer
from measuring.table import Result, as_markdown, as_table
from rich.console import Console

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"


@dataclass(frozen=True, slots=True)
class Bench:
    """A script, and how it is called."""

    script: str
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    """Options of a quick run, beside the others."""


BENCHES = {
    "queue": Bench("queue_speed.py"),
    "learner": Bench("learner.py"),
    "rollout": Bench("rollout.py"),
    "end-to-end-transformers": Bench(
        "end_to_end.py", ("--engine", "transformers"), quick=("--steps", "20")
    ),
    "end-to-end-vllm": Bench("end_to_end.py", ("--engine", "vllm"), quick=("--steps", "20")),
    "durability": Bench("durability.py", quick=("--steps", "20", "--turns", "1")),
    # The curves of docs/algorithm.md, four steps and five seeds for each one here, are kept apart.
    "staleness-short": Bench("staleness.py", quick=("--steps", "4", "--lags", "0", "8")),
}


def main(
    names: Annotated[
        list[str] | None, typer.Argument(help=f"{', '.join(BENCHES)}; left out: all.")
    ] = None,
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps; nothing is kept.")] = False,
) -> None:
    """Run benches in turn and print one table of what they found."""
    if unknown := set(names or ()) - BENCHES.keys():
        raise typer.BadParameter(f"{', '.join(sorted(unknown))}: there is {', '.join(BENCHES)}")
    console = Console()
    results = [run(name, console, quick=quick) for name in names or installed()]
    console.print(as_table(results))
    if not quick:
        write_summary()
        console.print(f"Kept in {os.path.relpath(RESULTS)}", soft_wrap=True, highlight=False)
    raise typer.Exit(int(any(result.failure is not None for result in results)))


def installed() -> list[str]:
    """Names of the benches that can run here."""
    has_vllm = importlib.util.find_spec("vllm") is not None
    return [name for name, bench in BENCHES.items() if has_vllm or "vllm" not in bench.options]


def run(name: str, console: Console, *, quick: bool) -> Result:
    """Run it to its end, and keep what it found unless it is quick."""
    bench = BENCHES[name]
    start_s, start_cpu_s = time.monotonic(), cpu_seconds_of_others()
    with console.status(f"{name} ..."):
        done = subprocess.run(
            [
                *(sys.executable, f"{HERE.name}/{bench.script}", *bench.options),
                *(*(bench.quick if quick else ()), "--json"),
            ],
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    took_s, others_s = time.monotonic() - start_s, cpu_seconds_of_others() - start_cpu_s
    console.print(f"{name}: {took_s:.0f} s", highlight=False)
    last_line = done.stdout.strip().rpartition("\n")[2]
    if done.returncode:
        console.print(done.stdout, markup=False, highlight=False)
        return Result(name, failure=last_line)
    busy = round(max(0.0, others_s) / took_s, 1)
    origin = {"bench": name, "commit": commit(), "busy_cores_beside": busy}
    figures = {**origin, **json.loads(last_line)}
    if not quick:
        result_file(name).write_text(json.dumps(figures, indent=1) + "\n", encoding="utf-8")
    return msgspec.convert(figures, Result)


def result_file(name: str) -> Path:
    """Where the last result of a bench on a machine like this one is kept."""
    return RESULTS / f"{name}-{os.cpu_count()}-cores.json"


def commit() -> str:
    """Of what is measured."""
    words = ["git", "rev-parse", "--short=12", "HEAD"]
    done = subprocess.run(words, cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip() or "unknown"


def cpu_seconds_of_others() -> float:
    """What all cores have spent on anything but this command and the benches that it has ended."""
    whole = psutil.cpu_times()
    own = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    own_s = sum(one.ru_utime + one.ru_stime for one in own)
    return whole.user + whole.nice + whole.system - own_s


def write_summary() -> None:
    """Put everything that is kept of machines like this one into one table."""
    files = [path for path in map(result_file, BENCHES) if path.exists()]
    results = [msgspec.json.decode(path.read_bytes(), type=Result) for path in files]
    summary = result_file("summary")
    summary.write_bytes(msgspec.json.format(msgspec.json.encode(results), indent=1) + b"\n")
    summary.with_suffix(".md").write_text(as_markdown(results), encoding="utf-8")


if __name__ == "__main__":
    typer.run(main)
