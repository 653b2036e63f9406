"""`volley trajectories RUN_DIR`: what the model was asked, said and was told, and what it got.

With colours, generated and inserted text are told apart by them; without, by marks in brackets.
"""

import math
import re
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec
import typer
from rich import box
from rich.color import Color
from rich.console import Console
from rich.style import Style
from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:  # heavy, and not needed to answer --help
    from volley.learner.trajectories import Choice
    from volley.learner.trajectory_record import Passage, TokenRecord, TrajectoryRecord

STYLES = {"prompt": "", "generated": "green", "inserted": "yellow"}
"""By the source of a text."""
CONTROL_CHARACTER = re.compile(r"[\x00-\x08\x0b-\x1f\x7f-\x9f]")
"""They could do something to a terminal, and a model may say anything."""


def show_trajectories(run_folder: Path, choice: "Choice", *, has_logprobs: bool) -> None:
    """The chosen groups, for a person."""
    from volley.learner.trajectories import read_trajectories

    console = Console(highlight=False)
    marks = console.color_system is None or console.no_color
    for records in read_trajectories(run_folder, choice):
        for text in describe_group(records, has_marks=marks):
            console.print(text, soft_wrap=True)
        for record in records:
            for text in describe_trajectory(record, len(records), has_marks=marks):
                console.print(text, soft_wrap=True)
            if has_logprobs:
                console.print(tokens_table(record.tokens))


def print_trajectories(run_folder: Path, choice: "Choice") -> None:
    """The chosen groups, for a program: a line of JSON per trajectory."""
    from volley.learner.trajectories import read_trajectories

    for records in read_trajectories(run_folder, choice):
        for record in records:
            typer.echo(msgspec.json.encode(record))


def describe_group(records: "Sequence[TrajectoryRecord]", *, has_marks: bool) -> Iterator[Text]:
    """What all answers to a prompt have in common."""
    first = records[0]
    what = f"step {first.step}, number {first.number}, {first.disposition or 'in training'}"
    yield Text(f"\n{what}", style="bold underline")
    yield _shown([one for one in first.passages if one.source == "prompt"], has_marks=has_marks)


def describe_trajectory(
    record: "TrajectoryRecord", num_trajectories: int, *, has_marks: bool
) -> Iterator[Text]:
    """An answer: what is known of it, then its text."""
    what = f"\n{record.index + 1} of {num_trajectories}: {', '.join(_facts(record))}"
    yield Text(what, style="bold")
    yield _shown([one for one in record.passages if one.source != "prompt"], has_marks=has_marks)


def tokens_table(tokens: "Sequence[TokenRecord]") -> Table:
    """Generated tokens, a row each, the less probable the redder."""
    table = Table("position", "token", "log-prob", "probability", "version", box=box.SIMPLE_HEAD)
    for token in tokens:
        if token.logprob is not None:
            probability = math.exp(token.logprob)
            table.add_row(
                str(token.position),
                Text(repr(token.text)),
                f"{token.logprob:.4f}",
                f"{probability:.3f}",
                token.version,
                style=tint(probability),
            )
    return table


def tint(probability: float) -> Style:
    """From red for 0 by yellow to green for 1."""
    share = min(1.0, probability)
    red, green = 2 * (1 - share), 2 * share
    return Style(color=Color.from_rgb(*(200 * min(1.0, part) for part in (red, green, 0.0))))


def _facts(record: "TrajectoryRecord") -> Iterator[str]:
    parts = ", ".join(f"{name} {_number(reward)}" for name, reward in record.rewards.items())
    yield f"reward {_number(record.reward)} ({parts})"
    yield f"advantage {_number(record.advantage)}"
    yield record.stop_reason.value
    yield f"{record.turns} turns" if record.turns > 1 else "1 turn"
    yield f"{len(record.input_ids) - len(record.prompt_ids)} tokens"
    versions = dict.fromkeys(one.version for one in record.tokens if one.version is not None)
    yield f"version {' '.join(versions)}"
    for name, number in record.metrics.items():
        yield f"{name} {_number(number)}"


def _number(value: float | None) -> str:
    return "none" if value is None else f"{value:.4g}"


def _shown(passages: "Sequence[Passage]", *, has_marks: bool) -> Text:
    if has_marks:
        return Text("\n".join(f"[{one.source}] {harmless(one.text)}" for one in passages))
    return Text.assemble(*((harmless(one.text), STYLES[one.source]) for one in passages))


def harmless(text: str) -> str:
    """The text with what could do something to a terminal spelt out."""
    return CONTROL_CHARACTER.sub(lambda found: f"\\x{ord(found[0]):02x}", text)
