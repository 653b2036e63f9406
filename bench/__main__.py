"""Every bench in turn, and one table of what they found.

    python bench [--quick]

Each runs in a process of its own; one that fails is a row that says so. The results go to
bench/results: a file a bench with everything that it measured, and the table as summary. A quick
run takes fewer steps and turns, which is enough to see that the benches work and too few for
figures: nothing of it is kept.
"""

import importlib.util
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated

import msgspec
import typer
from measuring.report import circumstances
from measuring.table import Comparison, Result, as_markdown, as_table
from rich.console import Console

HERE = Path(__file__).resolve().parent
RESULTS = HERE / "results"
CORES = f"{os.cpu_count()}-cores"


@dataclass(frozen=True, slots=True)
class Bench:
    """A script, and how it is called."""

    name: str
    script: str
    options: tuple[str, ...] = ()
    quick: tuple[str, ...] = ()
    """Options of a quick run, beside the others."""


BENCHES = (
    Bench("queue", "queue_speed.py"),
    Bench("learner", "learner.py"),
    Bench("rollout", "rollout.py"),
    Bench(
        "end-to-end-transformers",
        "end_to_end.py",
        ("--engine", "transformers"),
        quick=("--steps", "20"),
    ),
    Bench("end-to-end-vllm", "end_to_end.py", ("--engine", "vllm"), quick=("--steps", "20")),
    Bench("durability", "durability.py", quick=("--steps", "20", "--turns", "1")),
    # The curves of docs/algorithm.md, four steps and five seeds for each one here, are kept apart.
    Bench("staleness-short", "staleness.py", quick=("--steps", "4", "--lags", "0", "8")),
)


def main(
    quick: Annotated[bool, typer.Option("--quick", help="Fewer steps; nothing is kept.")] = False,
) -> None:
    """Run every bench in turn and print one table of what they found."""
    console = Console()
    load = os.getloadavg()[0]
    benches = [bench for bench in BENCHES if "vllm" not in bench.options or has_vllm()]
    results = [run(bench, console, quick=quick) for bench in benches]
    console.print(as_table(results))
    if not quick:
        keep(results, load)
        console.print(f"Kept in {os.path.relpath(RESULTS)}", soft_wrap=True, highlight=False)
    raise typer.Exit(any(result.failure is not None for result in results))


def has_vllm() -> bool:
    return importlib.util.find_spec("vllm") is not None


def run(bench: Bench, console: Console, *, quick: bool) -> Result:
    """Run it to its end."""
    options = (*bench.options, *(bench.quick if quick else ()))
    start_s = time.monotonic()
    with console.status(f"{bench.name} ..."):
        done = subprocess.run(
            [sys.executable, f"{HERE.name}/{bench.script}", *options, "--json"],
            cwd=HERE.parent,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
    console.print(f"{bench.name}: {time.monotonic() - start_s:.0f} s", highlight=False)
    last_line = done.stdout.strip().rpartition("\n")[2]
    if done.returncode:
        console.print(done.stdout, markup=False, highlight=False)
        return Result(bench.name, failure=last_line)
    if not quick:
        (RESULTS / f"{bench.name}-{CORES}.json").write_text(f"{last_line}\n", encoding="utf-8")
    return Result(bench.name, msgspec.json.decode(last_line, type=Found).comparisons)


class Found(msgspec.Struct):
    """What of a bench's last line goes into the table."""

    comparisons: tuple[Comparison, ...]


def keep(results: Sequence[Result], load: float) -> None:
    """Write the table, and where and when it was measured; the load is what others did before."""
    origin = {**circumstances(), "commit": commit(), "load average before": round(load, 2)}
    summary = RESULTS / f"summary-{CORES}.json"
    summary.write_bytes(msgspec.json.format(msgspec.json.encode({**origin, "results": results})))
    lines = "".join(f"- {name}: {value}\n" for name, value in origin.items())
    summary.with_suffix(".md").write_text(
        f"# `make bench`\n\n{lines}\n{as_markdown(results)}", encoding="utf-8"
    )


def commit() -> str:
    """Of what was measured, with a mark if there is more in the folder than was committed."""
    words = ["git", "describe", "--always", "--dirty", "--abbrev=12"]
    done = subprocess.run(words, cwd=HERE, stdout=subprocess.PIPE, text=True, check=False)
    return done.stdout.strip() or "unknown"


if __name__ == "__main__":
    typer.run(main)
