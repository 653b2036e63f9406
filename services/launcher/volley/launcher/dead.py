"""`volley dead RUN_DIR ...`: what a run gave up on, and the way back."""

from collections.abc import Sequence
from pathlib import Path
from typing import Annotated

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from volley.launcher.options import AnyRun
from volley.learner.dead import DeadLetters, DeadMessage, DeadNumber
from volley.telemetry.stops import ExitCode, Stop, reporting_stops

EXAMPLES = """
Examples:

volley dead runs/sums-20260101-120000 ls

volley dead runs/sums-20260101-120000 show 17

volley dead runs/sums-20260101-120000 requeue 17 42
"""
SHOWN_PROMPT = 40
"""Characters of a prompt in the table."""

app = typer.Typer(no_args_is_help=True)


@app.callback(epilog=EXAMPLES)
def dead(
    context: typer.Context,
    run_folder: AnyRun,
) -> None:
    """Look at prompts that a run has skipped or refused, and have them tried again."""
    context.obj = run_folder


@app.command()
def ls(context: typer.Context) -> None:
    """List the prompt numbers that were given up, and the answers that could not be read."""
    with reporting_stops():
        letters = _letters(context.obj)
        console = Console(highlight=False)
        if numbers := letters.numbers():
            console.print(numbers_table(numbers))
        if messages := letters.messages():
            console.print(messages_table(messages))
        if not numbers and not messages:
            console.print("No prompt was given up, and every answer could be read.")


@app.command()
def show(
    context: typer.Context,
    number: Annotated[int, typer.Argument(help="Of a prompt that was given up.")],
) -> None:
    """Show all that is known about a prompt number, the failure's traceback for one."""
    with reporting_stops():
        letter = _letters(context.obj).show(number)
        console = Console(highlight=False)
        for name in ("number", "disposition", "reason", "num_attempts", "time", "prompt", "detail"):
            console.print(f"{name}: {getattr(letter, name)}", markup=False, soft_wrap=True)


@app.command()
def requeue(
    context: typer.Context,
    numbers: Annotated[
        list[int] | None, typer.Argument(help="Of prompts that were given up.", metavar="NUMBER...")
    ] = None,
    everything: Annotated[bool, typer.Option("--all", help="All that `ls` lists.")] = False,
) -> None:
    """Have prompts tried again, as if they had never failed."""
    with reporting_stops():
        letters = _letters(context.obj)
        chosen = [letter.number for letter in letters.numbers()] if everything else numbers
        if not chosen:
            raise Stop(ExitCode.CONFIG, "nothing to try again: name numbers that `ls` lists")
        letters.requeue(chosen)
        typer.echo(
            f"{len(chosen)} to be tried again: the learner opens them at its next step, or when "
            "the run is resumed"
        )


def numbers_table(numbers: Sequence[DeadNumber]) -> Table:
    """Prompt numbers, a row each."""
    table = Table("number", "state", "reason", "attempts", "since", "prompt", box=box.SIMPLE_HEAD)
    for letter in numbers:
        prompt = Text(letter.prompt.replace("\n", "\\n")[:SHOWN_PROMPT])
        table.add_row(
            str(letter.number),
            letter.disposition.value,
            Text(letter.reason),
            str(letter.num_attempts),
            letter.time,
            prompt,
        )
    return table


def messages_table(messages: Sequence[DeadMessage]) -> Table:
    """Unreadable answers, a row each."""
    table = Table("file", "for number", "bytes", "since", "reason", box=box.SIMPLE_HEAD)
    for letter in messages:
        table.add_row(
            f"dead/message-{letter.index}.bin",
            str(letter.number),
            str(letter.num_bytes),
            letter.time,
            Text(letter.reason),
        )
    return table


def _letters(folder: Path) -> DeadLetters:
    if not (folder / "run.json").exists():
        raise Stop(
            ExitCode.CONFIG,
            f"{folder} has no run.json: give the folder of a run, as `volley run` prints it",
        )
    return DeadLetters(folder / "dead")
