"""The last screen of a demo: how the model did before GRPO and after it, in figures and texts."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from volley.launcher.ending import paths_table, save_curve, typed
from volley.launcher.evaluation_screen import Evaluation, answer_of, with_error
from volley.launcher.trajectories import STYLES

NUM_SHOWN = 2
"""Held-out prompts of which the answers are printed."""


@dataclass(frozen=True, slots=True)
class Demonstration:
    """What one demo does otherwise than another."""

    title: str
    """What its reward is the share of."""
    num_generations: int
    """Answers to each held-out prompt at temperature 1."""
    rates: Mapping[str, str]
    """What else is shown: its name, and the metric that it is."""


def show(
    console: Console, folder: Path, demo: Demonstration, before: Evaluation, after: Evaluation
) -> None:
    """Print what was learnt, where it is, and what to type next."""
    levels = {
        f"held-out {when}": evaluation.metrics["reward"] or 0.0
        for when, evaluation in (("before", before), ("after", after))
    }
    save_curve(folder, levels, demo.rates)
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
    num_prompts = f"{before.metrics['num_prompts']:.0f}"
    sampled = f"sampling at temperature 1 ({before.num_generations} x {num_prompts})"
    old, new = before.metrics, after.metrics
    table.add_row(
        sampled,
        with_error(old["reward"], old["reward_stderr"]),
        with_error(new["reward"], new["reward_stderr"]),
        style="bold",
    )
    others = {f"greedy ({num_prompts})": "reward_greedy"}
    others |= {f"{name} at temperature 1": metric for name, metric in demo.rates.items()}
    for name, metric in others.items():
        table.add_row(name, with_error(old[metric], None), with_error(new[metric], None))
    return table


def answers_table(before: Evaluation, after: Evaluation) -> Table:
    """The same prompts, answered before and after; what was inserted has a colour of its own."""
    table = Table("prompt", "GRPO", "answer", box=box.SIMPLE_HEAD)
    answered = {sample.prompt: sample for sample in after.samples}
    both = [sample for sample in before.samples if sample.prompt in answered]
    for old in both[:NUM_SHOWN]:
        table.add_row(Text(old.prompt, STYLES["prompt"]), "before", answer_of(old))
        table.add_row("", "after", answer_of(answered[old.prompt]), end_section=True)
    return table
