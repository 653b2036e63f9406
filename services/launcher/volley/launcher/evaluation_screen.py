"""What `volley evaluate` shows: means over held-out prompts, and some answers."""

import sys
from collections.abc import Iterator

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from volley.launcher.trajectories import STYLES, harmless
from volley.schemas.past import Source

NUM_SHOWN = 3
"""Prompts of which an answer is shown to a person."""
IN_THE_FIRST_ROWS = frozenset(
    (
        *("num_prompts", "num_answered", "reward", "reward_stderr"),
        *("reward_greedy", "reward_greedy_stderr"),
    )
)


class Part(msgspec.Struct, frozen=True):
    """Some of an answer, from one source."""

    source: Source
    text: str
    """Without special tokens."""


class Sample(msgspec.Struct, frozen=True):
    """One answer, at the sampling temperature."""

    prompt: str
    parts: tuple[Part, ...]
    """In their order; none of them is the prompt."""
    reward: float | None
    """The weighted sum; None where no function gave one."""


class Evaluation(msgspec.Struct, frozen=True):
    """One object, which `--json` prints."""

    model: str
    data: str
    temperature: float
    num_generations: int
    """Answers to each prompt at that temperature; beside them there is a greedy one."""
    metrics: dict[str, float | None]
    """With the keys of evaluations.jsonl."""
    samples: tuple[Sample, ...]
    """One for each of the first prompts."""


def show_json(evaluation: Evaluation) -> None:
    """For a program."""
    sys.stdout.write(msgspec.json.encode(evaluation).decode() + "\n")


def show(evaluation: Evaluation, console: Console) -> None:
    """For a person."""
    console.print(f"{evaluation.model} on {evaluation.data}", soft_wrap=True)
    table = Table("", "mean", box=box.SIMPLE_HEAD)
    for row in rows(evaluation):
        table.add_row(*row)
    console.print(table)
    for sample in evaluation.samples[:NUM_SHOWN]:
        console.print(Text(harmless(sample.prompt), "bold"), soft_wrap=True)
        console.print(answer_of(sample), "", soft_wrap=True)


def rows(evaluation: Evaluation) -> Iterator[tuple[str, str]]:
    """What was measured, and how much it is."""
    metrics = evaluation.metrics
    num_prompts = f"{metrics['num_prompts']:.0f}"
    sampled = f"{evaluation.num_generations} x {num_prompts}"
    yield (
        f"reward, sampling at temperature {evaluation.temperature:g} ({sampled})",
        with_error(metrics["reward"], metrics["reward_stderr"]),
    )
    yield (
        f"reward, greedy ({num_prompts})",
        with_error(metrics["reward_greedy"], metrics["reward_greedy_stderr"]),
    )
    for name, mean in metrics.items():
        if name not in IN_THE_FIRST_ROWS:
            yield name, with_error(mean, None)


def with_error(mean: float | None, error: float | None) -> str:
    """`0.907 +- 0.012`."""
    if mean is None:
        return "none"
    return f"{mean:.3f}" if error is None else f"{mean:.3f} +- {error:.3f}"


def answer_of(sample: Sample) -> Text:
    """A line for each part, in the colour of its source, then the reward."""
    lines = [Text(harmless(part.text), STYLES[part.source]) for part in sample.parts]
    reward = "no reward" if sample.reward is None else f"reward {sample.reward:.4g}"
    return Text("\n").join([*lines, Text(reward, "bold")])
