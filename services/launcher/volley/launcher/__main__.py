"""The `volley` command: its verbs; what one of them needs is imported when it runs."""

import json
from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

import volley.launcher.dead
import volley.learner.__main__
import volley.rollout.__main__
from volley.launcher import commands, commands_past
from volley.launcher.options import Config, Overrides, Panel, Url
from volley.learner.settings import load_settings
from volley.telemetry.logs import set_up_logs
from volley.telemetry.stops import reporting_stops

RUN_EXAMPLES = """
Examples:

volley run config.toml

volley run config.toml --set optim.learning_rate=3e-6 --set run.steps=50

volley run config.toml --fresh
"""

SFT_EXAMPLES = """
Examples:

volley sft config.toml

volley sft config.toml runs/warm --set cold_start.learning_rate=2e-5
"""

STATUS_EXAMPLES = """
Examples:

volley status --watch

VOLLEY_TOKEN=secret volley status http://10.0.0.5:8000 --json
"""

DOCTOR_EXAMPLES = """
Examples:

volley doctor

volley doctor config.toml --set devices.engine=vllm
"""

CHECK_EXAMPLES = """
Examples:

volley check config.toml

volley check config.toml --set devices.engine=transformers --set run.seed=1
"""

EVALUATE_EXAMPLES = """
Examples:

volley evaluate config.toml held_out.jsonl --model runs/sums-20260101-120000/model

volley evaluate config.toml --set sampling.temperature=0.6 --json
"""

DEMO_EXAMPLES = """
Examples:

volley demo

volley demo sort --engine transformers
"""

app = typer.Typer(
    help="GRPO post-training for language models as separate processes that scale on their own.",
    epilog="Try: volley demo. Exit codes and what to do: docs/errors/README.md",
    no_args_is_help=True,
    add_completion=False,
    pretty_exceptions_enable=False,
)


class DemoName(StrEnum):
    SEARCH = "search"
    SORT = "sort"


class DemoEngine(StrEnum):
    AUTO = "auto"
    TRANSFORMERS = "transformers"
    VLLM = "vllm"


@app.command(epilog=RUN_EXAMPLES, rich_help_panel=Panel.TRAIN)
def run(
    config: Config,
    overrides: Overrides = None,
    run_folder: Annotated[
        Path | None,
        typer.Option(help="Where the run is kept; left out: its newest unfinished one, or a new."),
    ] = None,
    fresh: Annotated[
        bool, typer.Option("--fresh", help="Begin another run; what there is stays as it is.")
    ] = False,
    go_on: Annotated[
        bool, typer.Option("--continue", help="Go on with a run that has diverged.")
    ] = False,
    rewind: Annotated[
        bool,
        typer.Option("--rewind", help="Give up logged steps that are damaged, and all after them."),
    ] = False,
) -> None:
    """Train on this machine: start Redis, the learner and its workers, and watch over them.

    An unfinished run goes on where it was. Ctrl-C stops everything cleanly, after the step in hand.
    """
    with reporting_stops():
        set_up_logs("launcher", style="text")
        from volley.launcher.run import Plan, run_plan

        consent = [name for name, given in (("--continue", go_on), ("--rewind", rewind)) if given]
        run_plan(Plan.read(config, overrides or [], run_folder, fresh=fresh, consent=consent))


app.command(epilog=volley.learner.__main__.EXAMPLES, rich_help_panel=Panel.TRAIN)(
    volley.learner.__main__.learner
)
app.command(epilog=volley.rollout.__main__.EXAMPLES, rich_help_panel=Panel.TRAIN)(
    volley.rollout.__main__.rollout
)
app.add_typer(volley.launcher.dead.app, name="dead", rich_help_panel=Panel.PAST)
commands.add_commands(app)
commands_past.add_commands(app)


@app.command(epilog=SFT_EXAMPLES, rich_help_panel=Panel.TRAIN)
def sft(
    config: Config,
    out: Annotated[
        Path | None,
        typer.Argument(help="The folder to make; left out: <run.folder>/<run.name>-cold-start."),
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Fine-tune model.path on the demonstrations of section cold_start, into OUT/model.

    `volley run` does the same by itself before GRPO. Stopped, it goes on with the same command.
    """
    with reporting_stops():
        set_up_logs("launcher", style="text")
        from volley.launcher.sft import run_sft

        run_sft(config, out, overrides or [])


@app.command(epilog=STATUS_EXAMPLES, rich_help_panel=Panel.STEER)
def status(
    url: Url = None,
    watch: Annotated[
        bool, typer.Option("--watch", help="Again every second, until Ctrl-C.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="The report as the learner gives it.")
    ] = False,
) -> None:
    """Show a run at a glance: step, reward, prompt numbers, queue, workers."""
    with reporting_stops():
        from volley.launcher.status import find_learner, show_status

        show_status(find_learner(url, Path("runs")), watch=watch, as_json=as_json)


@app.command(epilog=DOCTOR_EXAMPLES, rich_help_panel=Panel.TRY)
def doctor(
    config: Annotated[
        Path | None,
        typer.Argument(help="A run's TOML, to size its needs as well.", show_default=False),
    ] = None,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as one object.")] = False,
) -> None:
    """Look whether this machine is fit for a run, and say what to do where it is not.

    Nothing is started and nothing is fetched. Exit code 0 if nothing is bad, else 3.
    """
    with reporting_stops():
        from volley.launcher.doctor import run_doctor

        raise typer.Exit(run_doctor(config, overrides or [], as_json=as_json))


@app.command(epilog=CHECK_EXAMPLES, rich_help_panel=Panel.TRY)
def check(
    config: Config,
    overrides: Overrides = None,
    as_json: Annotated[bool, typer.Option("--json", help="All of it as one object.")] = False,
) -> None:
    """Take one prompt all the way: tokens, answers, rewards, advantages, a step, memory.

    Finds what would stop a run, in the words of the run. Nothing is kept, and no Redis is started.
    Exit code 0 if nothing is bad, 2 if it is the config or your code, else 3.
    """
    with reporting_stops():
        set_up_logs("launcher", "WARNING", style="text")
        settings = load_settings(config, overrides or [])
        from volley.launcher.check import run_check

        raise typer.Exit(run_check(settings, config.parent.resolve(), as_json=as_json))


@app.command(epilog=EVALUATE_EXAMPLES, rich_help_panel=Panel.TRY)
def evaluate(
    config: Config,
    data: Annotated[
        Path | None,
        typer.Argument(
            help="JSONL like data.train; left out: evaluation.data.", show_default=False
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A folder, or a model id; left out: model.path, as before a run."),
    ] = None,
    num_generations: Annotated[
        int | None,
        typer.Option(
            min=1, help="Answers to each prompt, beside a greedy one; left out: as a run."
        ),
    ] = None,
    overrides: Overrides = None,
    as_json: Annotated[
        bool, typer.Option("--json", help="One object, with the keys of evaluations.jsonl.")
    ] = False,
) -> None:
    """Ask a model held-out prompts, with the environment and the rewards of a run.

    A worker is started with the config's engine; no Redis and no learner. Nothing is kept.
    """
    with reporting_stops():
        set_up_logs("launcher", style="text")
        given = {
            "evaluation.data": data and data.resolve(),
            "model.path": model and (Path(model).resolve() if Path(model).is_dir() else model),
        }
        settings = load_settings(
            config,
            [
                *(overrides or []),
                *(f"{key}={json.dumps(str(value))}" for key, value in given.items() if value),
                *([f"evaluation.num_generations={num_generations}"] if num_generations else []),
            ],
        )
        from volley.launcher.evaluation import run_evaluation

        run_evaluation(settings, config.parent.resolve(), as_json=as_json)


@app.command(epilog=DEMO_EXAMPLES, rich_help_panel=Panel.TRAIN)
def demo(
    name: Annotated[DemoName, typer.Argument(help="Which one.")] = DemoName.SEARCH,
    steps: Annotated[
        int | None,
        typer.Option(min=1, help="Of GRPO; left out: 80 of search, 400 of sort."),
    ] = None,
    cold_start_steps: Annotated[
        int | None,
        typer.Option(min=1, help="Batches of right answers to begin with; left out: 240, 64."),
    ] = None,
    folder: Annotated[Path, typer.Option(help="Where its run folder is made.")] = Path("runs"),
    seed: Annotated[int, typer.Option(help="Of the data, the model and the run.")] = 0,
    engine: Annotated[
        DemoEngine, typer.Option(help="What the worker samples with; auto: vllm if installed.")
    ] = DemoEngine.AUTO,
) -> None:
    """Build a tiny model, train it with GRPO on this machine, and show what it learnt.

    search: a model of 0.3M parameters learns to look up what it cannot know, in several turns.

    sort: the same model learns to sort letters, in one turn.
    """
    with reporting_stops():
        set_up_logs("launcher", style="text")
        from volley.launcher.demo import demonstrate

        options = {
            "--steps": steps,
            "--cold-start-steps": cold_start_steps,
            "--engine": engine,
        }
        given = {option: value for option, value in options.items() if value is not None}
        demonstrate(name, given, folder, seed)


def main() -> None:
    """The console script."""
    app()


if __name__ == "__main__":
    main()
