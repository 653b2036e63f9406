"""`volley rollout --learner URL`: read the settings, set up logs, then load the rest and work."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

from volley.rollout.settings import EngineName, WorkerSettings, check_learner_url, read_token
from volley.telemetry.logs import set_up_logs
from volley.telemetry.stops import reporting_stops

EXAMPLES = """
Examples:

VOLLEY_TOKEN=secret volley rollout --learner http://10.0.0.5:8000

VOLLEY_TOKEN_FILE=token volley rollout --learner http://learner:8000 --device cuda:1 --code rewards/
"""


class LogFormat(StrEnum):
    JSON = "json"
    TEXT = "text"


class LogLevel(StrEnum):
    DEBUG = "DEBUG"
    INFO = "INFO"
    WARNING = "WARNING"
    ERROR = "ERROR"


def rollout(
    learner: Annotated[str, typer.Option(help="The URL that the learner prints.")],
    redis: Annotated[
        str | None,
        typer.Option(
            envvar="VOLLEY_REDIS_URL",
            help="Address of Redis, if the one that the learner gives is not reachable from here.",
        ),
    ] = None,
    engine: Annotated[EngineName, typer.Option()] = EngineName.TRANSFORMERS,
    device: Annotated[str, typer.Option(help="auto, cpu, cuda:0, ...")] = "auto",
    threads: Annotated[int, typer.Option(min=1, help="CPU threads of the engine.")] = 1,
    code: Annotated[
        Path | None, typer.Option(help="Folder with the run's reward code.", show_default=False)
    ] = None,
    max_num_seqs: Annotated[int, typer.Option(min=1, help="Sequences sampled at once.")] = 256,
    log_format: Annotated[LogFormat, typer.Option()] = LogFormat.JSON,
    log_level: Annotated[LogLevel, typer.Option()] = LogLevel.INFO,
) -> None:
    """Sample groups for a learner, anywhere: needs its URL and VOLLEY_TOKEN (or VOLLEY_TOKEN_FILE).

    Joins a run at any time and may leave at any time (Ctrl-C, SIGTERM).
    """
    with reporting_stops():
        set_up_logs("rollout", log_level, log_format.value)
        settings = WorkerSettings(
            learner_url=check_learner_url(learner),
            token=read_token(),
            redis_url=redis,
            engine=engine,
            device=device,
            num_threads=threads,
            code_folder=code,
            max_num_seqs=max_num_seqs,
        )
        from volley.rollout.assembly import run_worker
        from volley.rollout.worker import leave_on_signals

        run_worker(settings, leave_on_signals())


if __name__ == "__main__":
    app = typer.Typer(add_completion=False)
    app.command(epilog=EXAMPLES)(rollout)
    app()
