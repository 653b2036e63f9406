"""The last screen of a demo: how the model did before GRPO and after it, in figures and texts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import islice, zip_longest
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from volley.launcher.ending import paths_table, save_curve, typed
from volley.launcher.trajectories import STYLES

NUM_SHOWN = 2
"""Held-out prompts of which the answers are printed."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What one demo does otherwise than another."""

    title: str
    """What its reward is the share of."""
    samples_per_prompt: int
    """Of an evaluation at temperature 1."""
    rates: Mapping[str, str]
    """What else is shown: its name, and the environment's metric of which it is the mean."""


class Sample(msgspec.Struct):
    """One answer to a held-out prompt."""

    prompt: str
    turns: tuple[str, ...]
    insertions: tuple[str, ...]
    reward: float | None


class Evaluation(msgspec.Struct):
    """The last line of `python -m volley.rollout.evaluate`."""

    sampled: float
    """Mean reward at temperature 1."""
    sampled_stderr: float
    greedy: float
    prompts: int
    metrics: dict[str, float]
    """Means of what the environment counts, at temperature 1."""
    samples: tuple[Sample, ...]


def show(
    console: Console, folder: Path, demo: Demonstration, before: Evaluation, after: Evaluation
) -> None:
    """Print what was learnt, where it is, and what to type next."""
    save_curve(
        folder, {"held-out before": before.sampled, "held-out after": after.sampled}, demo.rates
    )
    console.print("", figures_table(demo, before, after), "", answers_table(before, after), "")
    console.print(paths_table(folder))
    shown = Path(os.path.relpath(folder))
    console.print("\nNext:")
    for command, purpose in (
        (
            f"{typed('volley')} run {shown / 'task' / 'config.toml'} --set run.seed=1",
            "train it again",
        ),
        (f"{typed('volley')} trajectories {shown}", "what the model was asked, said and was told"),
        ("README.md", "your own data, reward and model"),
    ):
        console.print(f"  {command}", style="bold", soft_wrap=True)
        console.print(f"      {purpose}")


def figures_table(demo: Demonstration, before: Evaluation, after: Evaluation) -> Table:
    """Means over the held-out prompts."""
    table = Table(demo.title, "before GRPO", "after", box=box.SIMPLE_HEAD)
    table.add_row(
        f"sampling at temperature 1 ({demo.samples_per_prompt} x {before.prompts})",
        f"{before.sampled:.3f} +- {before.sampled_stderr:.3f}",
        f"{after.sampled:.3f} +- {after.sampled_stderr:.3f}",
        style="bold",
    )
    table.add_row(f"greedy ({before.prompts})", f"{before.greedy:.3f}", f"{after.greedy:.3f}")
    for name, metric in demo.rates.items():
        table.add_row(
            f"{name} at temperature 1",
            f"{before.metrics[metric]:.3f}",
            f"{after.metrics[metric]:.3f}",
        )
    return table


def answers_table(before: Evaluation, after: Evaluation) -> Table:
    """The same prompts, answered before and after; what was inserted has a colour of its own."""
    table = Table("prompt", "GRPO", "answer", box=box.SIMPLE_HEAD)
    pairs = zip(before.samples, after.samples, strict=True)
    for old, new in islice(pairs, NUM_SHOWN):
        table.add_row(Text(old.prompt, STYLES["prompt"]), "before", answer_of(old))
        table.add_row("", "after", answer_of(new), end_section=True)
    return table


def answer_of(sample: Sample) -> Text:
    """A line for each turn and each insertion, then the reward."""
    lines = []
    for turn, insertion in zip_longest(sample.turns, sample.insertions, fillvalue=""):
        lines += [Text(turn, STYLES["generated"]), Text(insertion, STYLES["inserted"])]
    reward = "no reward" if sample.reward is None else f"reward {sample.reward:g}"
    return Text("\n").join([*filter(None, lines), Text(reward, "bold")])
