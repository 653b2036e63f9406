"""`volley demo`: from a model that knows nothing to one that has learnt a task, in one command.

    build -> evaluate -> GRPO, as `volley run` does it -> evaluate -> what was learnt

    runs/search-<time>/
        task/     data, config.toml, and start/, a model that has seen a few right answers
        model/    the model after GRPO; and whatever else a run leaves

Every stage is a child process, so this one imports neither torch nor transformers.
"""

import json
import sys
import time
from collections.abc import Mapping
from itertools import chain
from pathlib import Path

import msgspec
from rich.console import Console

from volley.launcher.children import Child
from volley.launcher.demo_screen import Demonstration, show
from volley.launcher.ending import read_summary
from volley.launcher.evaluation_screen import Evaluation
from volley.launcher.run import Plan, train
from volley.launcher.supervisor import Interrupted, Supervisor
from volley.learner.run_folder import new_run_folder
from volley.learner.settings import RunSettings

DEMOS: Mapping[str, Demonstration] = {
    "search": Demonstration(
        title="share of held-out questions answered",
        num_generations=2,
        rates={"search rate": "environment/searched"},
    ),
    "sort": Demonstration(title="share of held-out prompts sorted", num_generations=4, rates={}),
}
"""By name; their tasks are `python -m volley.learner.NAME_task`."""


def demonstrate(name: str, task_options: Mapping[str, object], runs: Path, seed: int) -> None:
    """Run a demo in front of a person; returns at its end or when told to stop."""
    console = Console(highlight=False)
    started_s = time.monotonic()
    with Supervisor() as supervisor:
        folder = new_run_folder(RunSettings(name=name, folder=runs))
        demo = Demo(name, folder, seed, supervisor, console)
        try:
            before, after = demo.perform(task_options)
        except Interrupted:
            console.print(f"Stopped; what there is lies in {folder}", soft_wrap=True)
            return
    complete_summary(folder, DEMOS[name], before, after, time.monotonic() - started_s)
    show(console, folder, DEMOS[name], before, after)


class Demo:
    """The stages of one demonstration, in a run folder."""

    def __init__(
        self, name: str, folder: Path, seed: int, supervisor: Supervisor, console: Console
    ) -> None:
        self._name = name
        self._folder = folder
        self._task = folder / "task"
        self._seed = seed
        self._supervisor = supervisor
        self._console = console

    def perform(self, task_options: Mapping[str, object]) -> tuple[Evaluation, Evaluation]:
        """All stages; how the model did before GRPO and after it."""
        self._console.print(f"run folder {self._folder}", soft_wrap=True)
        words = chain.from_iterable({**task_options, "--seed": self._seed}.items())
        self._stage("build", f"volley.learner.{self._name}_task", self._task, *words)
        plan = Plan.read(self._task / "config.toml", (), self._folder)
        before = self._evaluate("before", self._task / "start")
        self._console.print(
            f"GRPO: {plan.settings.run.steps} steps of {plan.settings.optim.groups_per_step} "
            f"prompts with {plan.settings.sampling.num_generations} answers each"
        )
        train(plan, self._supervisor, self._console)
        return before, self._evaluate("after", self._folder / "model")

    def _evaluate(self, when: str, model: Path) -> Evaluation:
        """How a model does on the held-out prompts, under the rules that it is trained by."""
        answer = self._stage(
            *(f"evaluate-{when}", "volley.launcher", "evaluate"),
            *(self._task / "config.toml", self._task / "held_out.jsonl", "--model", model),
            *("--num-generations", DEMOS[self._name].num_generations, "--json"),
            # Of so small a model vLLM would take longer to start than these to answer.
            *("--set", "devices.engine=transformers"),
        )
        return msgspec.json.decode(answer, type=Evaluation)

    def _stage(self, name: str, module: str, *words: object) -> str:
        """Run a module to its end; the last line that it wrote."""
        child = Child(
            name,
            [sys.executable, "-m", module, *map(str, words)],
            self._folder / "logs" / f"{name}.log",
            {"OMP_NUM_THREADS": "1", "TOKENIZERS_PARALLELISM": "false"},
            speaks=True,
        )
        started_s = time.monotonic()
        with self._console.status(f"{name} ..."):
            last_line = self._supervisor.finish(child)
        self._console.print(f"{name}: {time.monotonic() - started_s:.1f} s")
        return last_line


def complete_summary(
    folder: Path, demo: Demonstration, before: Evaluation, after: Evaluation, wall_s: float
) -> None:
    """Add to summary.json what the learner cannot know."""
    summary = read_summary(folder)
    for when, evaluation in (("before", before), ("after", after)):
        metrics = evaluation.metrics
        summary[f"held_out_{when}"] = metrics["reward"]
        summary[f"greedy_{when}"] = metrics["reward_greedy"]
        for name, metric in demo.rates.items():
            summary[f"{name.replace(' ', '_')}_{when}"] = metrics[metric]
    summary["wall_s"] = wall_s
    (folder / "summary.json").write_text(json.dumps(summary, indent=2) + "\n", encoding="utf-8")
