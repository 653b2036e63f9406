"""`volley sft`: the cold start of a config by itself, in front of a person."""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from volley.learner.settings import load_settings

if TYPE_CHECKING:  # heavy, and not needed to answer --help
    from volley.learner.cold_start_folder import ColdStartLine

LINE_STEPS = 10
"""Steps between two lines where there is no terminal."""


def run_sft(config: Path, out: Path | None, overrides: Sequence[str]) -> None:
    """Fine-tune as the config says; returns at the end or when told to stop. Raises Stop."""
    from volley.learner.cold_start import start_cold
    from volley.learner.environment_code import read_environment_spec, tool_schemas
    from volley.learner.loop import stop_on_signals

    settings = load_settings(config, overrides)
    tools = tool_schemas(read_environment_spec(settings.environment, config.parent))
    out = out or settings.run.folder / f"{settings.run.name}-cold-start"
    console = Console(highlight=False, soft_wrap=True)
    with Display(console) as display:
        is_done = start_cold(settings, out, stop_on_signals(), display.tell, tools)
    if not is_done:
        console.print("Stopped; the same command goes on from there.")
        return
    console.print(f"{display.summary()}The model is in {out / 'model'}, every step in "
                  f"{out / 'metrics.jsonl'}.")  # fmt: skip


class Display:
    """A bar on a terminal, else a line now and then."""

    def __init__(self, console: Console) -> None:
        self._console = console
        self._first: ColdStartLine | None = None
        self._last: ColdStartLine | None = None
        self._bar = Progress(
            TextColumn("cold start"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.description}"),
            TimeRemainingColumn(),
            console=console,
            disable=not console.is_terminal,
            transient=True,
        )
        self._task = self._bar.add_task("", total=None)

    def __enter__(self) -> Self:
        self._bar.start()
        return self

    def __exit__(self, *error: object) -> None:
        self._bar.stop()

    def tell(self, line: "ColdStartLine", num_steps: int) -> None:
        """Show a step that was taken."""
        self._first, self._last = self._first or line, line
        loss = f"loss {line.loss:.3f}"
        self._bar.update(self._task, total=num_steps, completed=line.step, description=loss)
        if not self._console.is_terminal and _is_told(line.step, num_steps):
            self._console.print(f"step {line.step} of {num_steps}: {loss}")

    def summary(self) -> str:
        """What was done, in a sentence; empty if nothing was left to do."""
        if self._first is None or self._last is None:
            return ""
        return (
            f"Steps {self._first.step} to {self._last.step}: loss {self._first.loss:.3f} -> "
            f"{self._last.loss:.3f}. "
        )


def _is_told(step: int, num_steps: int) -> bool:
    return step in (1, num_steps) or step % LINE_STEPS == 0
