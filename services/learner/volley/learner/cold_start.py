"""A cold start: supervised fine-tuning that gives GRPO something to reward.

    python -m volley.learner.cold_start MODEL DATA OUT --steps 64 --learning-rate 1e-3

GRPO learns from differences between answers, so a model that never succeeds has to see a few
successes first. OUT is a Hugging Face folder for `model.path`. The last line on standard output
is a JSON object with what was done.
"""

import json
import time
from pathlib import Path
from typing import Annotated, Literal

import typer
from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn

from volley.learner.settings import ModelSettings
from volley.telemetry.stops import ExitCode, Stop, reporting_stops

app = typer.Typer(add_completion=False, rich_markup_mode=None)


@app.command()
def cold_start(
    model: Annotated[str, typer.Argument(help="A Hugging Face model id or a folder.")],
    data: Annotated[Path, typer.Argument(help="JSONL with `prompt` and `completion`.")],
    out: Annotated[Path, typer.Argument(help="Folder for the fine-tuned model.")],
    steps: Annotated[int, typer.Option(min=1, help="Optimiser steps.")] = 64,
    learning_rate: Annotated[float, typer.Option(min=0.0, help="After the warm-up.")] = 1e-5,
    batch_size: Annotated[int, typer.Option(min=1, help="Demonstrations in a step.")] = 64,
    warmup_steps: Annotated[int, typer.Option(min=0)] = 10,
    seed: Annotated[int, typer.Option(help="Of the order of the demonstrations.")] = 0,
    dtype: Annotated[
        Literal["float32", "bfloat16"], typer.Option(help="Of the forward and of the result.")
    ] = "float32",
    device: Annotated[str, typer.Option(help="cpu, cuda:0, ...; auto: an accelerator.")] = "auto",
) -> None:
    """Fine-tune MODEL on the demonstrations in DATA and write it to OUT.

    Example: python -m volley.learner.cold_start Qwen/Qwen3-0.6B demos.jsonl runs/start
    """
    with reporting_stops():
        _make_folder(out)
        # Heavy, and not needed to answer --help.
        from volley.learner.demonstrations import read_demonstrations
        from volley.learner.policy import Policy
        from volley.learner.supervised import FineTuningRules, fine_tune

        started_s = time.monotonic()
        policy = Policy.load(ModelSettings(path=model, dtype=dtype), device)
        demonstrations = read_demonstrations(data, policy)
        rules = FineTuningRules(steps, learning_rate, batch_size, warmup_steps, seed)
        losses: list[float] = []
        with _progress() as progress:
            bar = progress.add_task("cold start", total=steps, loss="")
            for loss in fine_tune(policy, demonstrations, rules):
                losses.append(loss)
                progress.update(bar, advance=1, loss=f"loss {loss:.3f}")
        policy.save_pretrained(out)
    summary = {
        "model": str(out),
        "steps": steps,
        "demonstrations": len(demonstrations),
        "first_loss": losses[0],
        "last_loss": losses[-1],
        "wall_s": time.monotonic() - started_s,
    }
    typer.echo(json.dumps(summary))


def _make_folder(out: Path) -> None:
    try:
        out.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise Stop(
            ExitCode.ENVIRONMENT, f"OUT: cannot make the folder {out}: {error.strerror}"
        ) from error


def _progress() -> Progress:
    return Progress(
        TextColumn("{task.description}"),
        BarColumn(),
        MofNCompleteColumn(),
        TextColumn("{task.fields[loss]}"),
        console=Console(stderr=True),
    )


if __name__ == "__main__":
    app()
