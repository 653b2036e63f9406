"""The last screen of a run: what came of it, where it is, what to type next."""

import json
import os
import shutil
import sys
from collections.abc import Mapping
from pathlib import Path
from statistics import fmean

from rich.console import Console
from rich.table import Table
from rich.text import Text

from volley.launcher.reward_curve import REWARD, can_draw, draw_reward_curve, read_metric

NUM_COMPARED_STEPS = 10
"""Steps at each end whose rewards are averaged."""


def read_summary(folder: Path) -> dict[str, object]:
    """What the learner wrote at its end; empty if it never came to that."""
    path = folder / "summary.json"
    if not path.exists():
        return {}
    summary: dict[str, object] = json.loads(path.read_text(encoding="utf-8"))
    return summary


def save_curve(folder: Path, levels: Mapping[str, float], rates: Mapping[str, str]) -> Path | None:
    """Draw reward.png into the folder; None without steps to draw or matplotlib to draw with.

    `rates` are metrics, by the names that are to stand beside them: they get lines of their own.
    """
    metrics = folder / "metrics.jsonl"
    rewards = read_metric(metrics, REWARD)
    if not rewards or not can_draw():
        return None
    series = {name: read_metric(metrics, metric) for name, metric in rates.items()}
    png = folder / "reward.png"
    title = f"{folder.name}: reward over {rewards[-1][0]} steps"
    draw_reward_curve(rewards, title, png, levels, series)
    return png


def show_ending(console: Console, folder: Path, steps: int, config: Path) -> None:
    """Print figures, paths and what to type next, of a run that is over."""
    summary = read_summary(folder)
    done = summary.get("steps", 0)
    save_curve(folder, {}, {})
    console.print(
        f"{'Finished' if done == steps else 'Stopped'} after {done} of {steps} steps.",
        style="bold",
        highlight=False,
    )
    console.print(_figures(folder, summary))
    console.print(paths_table(folder))
    if done != steps:
        console.print(
            f"Next: {typed('volley')} run {os.path.relpath(config)} --run-folder "
            f"{os.path.relpath(folder)} goes on from there",
            soft_wrap=True,
            highlight=False,
        )
    elif (folder / "model").exists():
        model = Path(os.path.relpath(folder / "model"))
        console.print(
            f"Next: {typed('volley')} evaluate {os.path.relpath(config)} HELD_OUT.jsonl "
            f"--model {model}",
            soft_wrap=True,
            highlight=False,
        )


def typed(command: str) -> str:
    """How to type a command of this environment, which need not be activated."""
    own = Path(sys.executable).with_name(command)
    return command if shutil.which(command) == str(own) else os.path.relpath(own)


def paths_table(folder: Path) -> Table:
    """What there is to look at in a run folder, by name."""
    table = Table.grid(padding=(0, 2))
    for name, path in {
        "trained model": folder / "model",
        "reward curve": folder / "reward.png",
        "metrics": folder / "metrics.jsonl",
        "logs": folder / "logs",
    }.items():
        if path.exists():
            table.add_row(name, Text(os.path.relpath(path), no_wrap=True, overflow="fold"))
    return table


def _figures(folder: Path, summary: Mapping[str, object]) -> Table:
    table = Table.grid(padding=(0, 2))
    rewards = [reward for _, reward in read_metric(folder / "metrics.jsonl", REWARD)]
    if rewards:
        first, last = rewards[:NUM_COMPARED_STEPS], rewards[-NUM_COMPARED_STEPS:]
        table.add_row(
            "reward",
            f"{fmean(first):.3f} -> {fmean(last):.3f} "
            f"(means of the first and the last {len(first)} steps)",
        )
    if "samples_per_s" in summary:
        table.add_row("samples/s", f"{summary['samples_per_s']:.0f}")
    return table
