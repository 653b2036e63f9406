"""`volley learner CONFIG.toml`: read the settings, set up logs, then load the rest and run."""

from pathlib import Path
from typing import Annotated

import typer

from volley.learner.redis_url import read_redis_url
from volley.learner.run_folder import RunFolder, divergence_of, find_run_folder
from volley.learner.settings import Settings, load_settings
from volley.learner.token import read_tokens
from volley.telemetry.logs import set_up_logs
from volley.telemetry.stops import ExitCode, Stop, reporting_stops

EXAMPLES = """
Examples:

volley learner config.toml

VOLLEY_REDIS_URL=redis://:secret@10.0.0.5:6379 volley learner config.toml --set server.host=0.0.0.0
"""


def learner(
    config: Annotated[Path, typer.Argument(help="The run's TOML.", show_default=False)],
    overrides: Annotated[
        list[str] | None,
        typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; repeatable."),
    ] = None,
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
    """Train: issue prompts, collect groups, take GRPO steps, publish weights.

    Needs a Redis (queue.redis_url or VOLLEY_REDIS_URL) and prints the address that workers join.
    """
    with reporting_stops():
        settings = load_settings(config, overrides or ())
        set_up_logs("learner", settings.logging.level, settings.logging.format)
        redis_url = _redis_url(settings)
        tokens = read_tokens(settings.server)
        if fresh and run_folder is not None:
            raise Stop(ExitCode.CONFIG, "--fresh makes a folder of its own: leave --run-folder out")
        folder = RunFolder(run_folder or find_run_folder(settings.run, fresh=fresh))
        _check_divergence(folder, go_on=go_on)
        from volley.learner.assembly import Start, run_learner

        run_learner(Start(settings, config.parent.resolve(), folder, redis_url, tokens, rewind))


def _check_divergence(folder: RunFolder, *, go_on: bool) -> None:
    """Raise Stop for a run that has diverged, unless a person says that it may go on."""
    if go_on:
        folder.forget_divergence()
    reason = divergence_of(folder.path)
    if reason is not None:
        raise Stop(
            ExitCode.DIVERGED,
            f"run {folder.run} has stopped before: {reason}\nIt goes on from its last "
            "good step with --continue (and other settings); --fresh begins another run",
        )


def _redis_url(settings: Settings) -> str:
    redis_url = read_redis_url(settings.queue)
    if redis_url is None:
        raise Stop(
            ExitCode.CONFIG,
            "queue.redis_url is needed: give redis://[:password@]host:port, there or in "
            "VOLLEY_REDIS_URL; `volley run` starts a Redis of its own",
        )
    return redis_url


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLES)(learner)
    app()
