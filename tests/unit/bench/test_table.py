from pathlib import Path

import msgspec
from bench.measuring.table import Comparison, Result, as_markdown, as_table
from rich.console import Console

RESULTS = Path(__file__).parents[3] / "bench" / "results"
QUEUE = Result("queue", (Comparison("groups", "groups/s", 1500.0, "bare appends", 3000.0),))
STEPS = Result(
    "learner",
    (
        Comparison("a step", "tokens/s", 12.345, "a plain step", 8.0),
        Comparison("memory", "MB", 800.0, "a plain step", 8000.0),
    ),
)
FAILED = Result("rollout", failure="RuntimeError: no engine")


def test_the_table_has_both_figures_and_their_ratio_and_names_a_bench_once():
    lines = as_markdown([QUEUE, STEPS]).splitlines()
    assert lines[4:7] == [
        "| queue | groups | groups/s | 1,500 | 3,000 | bare appends | 0.50 |",
        "| learner | a step | tokens/s | 12.3 | 8 | a plain step | 1.54 |",
        "|  | memory | MB | 800 | 8,000 | a plain step | 0.10 |",
    ]


def test_a_bench_that_failed_is_a_row_among_the_others():
    console = Console(width=120)
    with console.capture() as shown:
        console.print(as_table([FAILED, QUEUE]))
    assert "failed: RuntimeError: no engine" in shown.get()
    assert "0.50" in shown.get()


def test_kept_results_are_the_rows_of_the_kept_summary():
    for summary in RESULTS.glob("summary-*.json"):
        results = msgspec.json.decode(summary.read_bytes(), type=list[Result])
        cores = summary.stem.removeprefix("summary-")
        for result in results:
            kept = (RESULTS / f"{result.bench}-{cores}.json").read_bytes()
            assert msgspec.json.decode(kept, type=Result) == result
        assert summary.with_suffix(".md").read_text() == as_markdown(results)


def test_all_benches_are_kept_with_where_they_come_from():
    [summary] = RESULTS.glob("summary-2-cores.json")
    results = msgspec.json.decode(summary.read_bytes(), type=list[Result])
    assert results
    assert all(one.comparisons and one.date and one.machine and one.commit for one in results)
