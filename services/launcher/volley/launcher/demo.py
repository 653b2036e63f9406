"""`volley demo sort`: from a model that knows nothing to one that sorts letters, in one command.

    build -> evaluate -> GRPO, as `volley run` does it -> evaluate -> what was learnt

    runs/sort-<time>/
        task/     data, config.toml, and start/, a model that has seen a few right answers
        model/    the model after GRPO; and whatever else a run leaves

Every stage is a child process, so this one imports neither torch nor transformers.
"""

import json
import os
import sys
import time
from pathlib import Path

import msgspec
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from volley.launcher.children import Child
from volley.launcher.ending import paths_table, read_summary, save_curve, typed
from volley.launcher.run import Plan, train
from volley.launcher.supervisor import Interrupted, Supervisor
from volley.learner.run_folder import new_run_folder
from volley.learner.settings import RunSettings

SAMPLES_PER_PROMPT = 4
EVALUATION = (
    f"--reward exact_match --max-completion-length 10 --samples-per-prompt {SAMPLES_PER_PROMPT} "
    "--device cpu"
)


class Sample(msgspec.Struct):
    """One answer to a held-out prompt."""

    prompt: str
    completion: str
    reward: float | None


class Evaluation(msgspec.Struct):
    """The last line of `python -m volley.rollout.evaluate`."""

    sampled: float
    """Mean reward at temperature 1."""
    sampled_stderr: float
    greedy: float
    prompts: int
    samples: tuple[Sample, ...]


def demonstrate_sort(steps: int, runs: Path, seed: int, engine: str) -> None:
    """Run the demo in front of a person; returns at its end or when told to stop."""
    console = Console(highlight=False)
    started_s = time.monotonic()
    with Supervisor() as supervisor:
        demo = Demo(
            new_run_folder(RunSettings(name="sort", folder=runs)), seed, supervisor, console
        )
        try:
            before, after = demo.perform(steps, engine)
        except Interrupted:
            console.print(f"Stopped; what there is lies in {demo.folder}", soft_wrap=True)
            return
    complete_summary(demo.folder, before, after, time.monotonic() - started_s)
    show(console, demo.folder, before, after)


class Demo:
    """The stages of one demonstration, in a run folder."""

    def __init__(self, folder: Path, seed: int, supervisor: Supervisor, console: Console) -> None:
        self.folder = folder
        self._task = folder / "task"
        self._seed = seed
        self._supervisor = supervisor
        self._console = console

    def perform(self, steps: int, engine: str) -> tuple[Evaluation, Evaluation]:
        """All stages; how the model did before GRPO and after it."""
        self._console.print(f"run folder {self.folder}", soft_wrap=True)
        self._build(steps, engine)
        before = self._evaluate("before", self._task / "start")
        self._console.print(f"GRPO: {steps} steps of 32 prompts with 8 answers each")
        train(
            Plan.read(self._task / "config.toml", (), self.folder), self._supervisor, self._console
        )
        return before, self._evaluate("after", self.folder / "model")

    def _build(self, steps: int, engine: str) -> None:
        """Write the data, the run's config and a model that knows enough to be rewarded at all."""
        options = f"--steps {steps} --engine {engine}"
        self._stage("build", "volley.learner.sort_task", self._task, options=options)

    def _evaluate(self, when: str, model: Path) -> Evaluation:
        data = self._task / "held_out.jsonl"
        answer = self._stage(
            f"evaluate-{when}", "volley.rollout.evaluate", model, data, options=EVALUATION
        )
        return msgspec.json.decode(answer, type=Evaluation)

    def _stage(self, name: str, module: str, *paths: Path, options: str = "") -> str:
        """Run a module to its end; the last line that it wrote."""
        child = Child(
            name,
            [
                *(sys.executable, "-m", module),
                *map(str, paths),
                *options.split(),
                *("--seed", str(self._seed)),
            ],
            self.folder / "logs" / f"{name}.log",
            {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            speaks=True,
        )
        started_s = time.monotonic()
        with self._console.status(f"{name} ..."):
            last_line = self._supervisor.finish(child)
        self._console.print(f"{name}: {time.monotonic() - started_s:.1f} s")
        return last_line


def complete_summary(folder: Path, before: Evaluation, after: Evaluation, wall_s: float) -> None:
    """Add to summary.json what the learner cannot know."""
    summary = read_summary(folder) | {
        "held_out_before": before.sampled,
        "held_out_after": after.sampled,
        "greedy_before": before.greedy,
        "greedy_after": after.greedy,
        "wall_s": wall_s,
    }
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")


def show(console: Console, folder: Path, before: Evaluation, after: Evaluation) -> None:
    """Print what was learnt, where it is, and what to type next."""
    save_curve(folder, {"held-out before": before.sampled, "held-out after": after.sampled})
    console.print("", figures_table(before, after), "", answers_table(before, after), "")
    console.print(paths_table(folder))
    shown = Path(os.path.relpath(folder))
    console.print("\nNext:")
    for command, purpose in (
        (
            f"{typed('volley')} run {shown / 'task' / 'config.toml'} --set run.seed=1",
            "train it again",
        ),
        (f"less {shown / 'logs' / 'rollout-0.log'}", "see what a worker does"),
        ("README.md", "your own data, reward and model"),
    ):
        console.print(f"  {command}", style="bold", soft_wrap=True)
        console.print(f"      {purpose}")


def figures_table(before: Evaluation, after: Evaluation) -> Table:
    """Mean rewards on the held-out prompts."""
    table = Table("share of held-out prompts sorted", "before GRPO", "after", box=box.SIMPLE_HEAD)
    table.add_row(
        f"sampling at temperature 1 ({SAMPLES_PER_PROMPT} x {before.prompts})",
        f"{before.sampled:.3f} +- {before.sampled_stderr:.3f}",
        f"{after.sampled:.3f} +- {after.sampled_stderr:.3f}",
        style="bold",
    )
    table.add_row(f"greedy ({before.prompts})", f"{before.greedy:.3f}", f"{after.greedy:.3f}")
    return table


def answers_table(before: Evaluation, after: Evaluation) -> Table:
    """The same prompts, answered before and after."""
    table = Table("prompt", "before GRPO", "after", box=box.SIMPLE_HEAD)
    for old, new in zip(before.samples, after.samples, strict=True):
        table.add_row(old.prompt, _marked(old), _marked(new))
    return table


def _marked(sample: Sample) -> Text:
    is_right = sample.reward == 1.0
    return Text(
        f"{sample.completion} {'right' if is_right else 'wrong'}",
        style="green" if is_right else "red",
    )
