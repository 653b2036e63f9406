"""`volley pause`, `resume`, `checkpoint`, `stop`, `drain`: what a person tells a run.

And `volley page`, where all that is a click. They find the learner as `volley status` does; its
admin token is in the run folder, or given by VOLLEY_ADMIN_TOKEN or VOLLEY_ADMIN_TOKEN_FILE.
"""

from contextlib import closing
from pathlib import Path
from typing import Annotated

import typer

from volley.launcher.options import Panel, Url
from volley.telemetry.stops import ExitCode, Stop, reporting_stops

TOKEN_PLACE = "the file `token` of its run folder, or VOLLEY_TOKEN"
URL_EXAMPLES = """
Examples:

volley {verb}

{token}=secret volley {verb} http://10.0.0.5:8000
"""
DRAIN_EXAMPLES = """
Examples:

volley drain 3f2a

VOLLEY_ADMIN_TOKEN=secret volley drain 3f2a http://10.0.0.5:8000
"""


def add_commands(app: typer.Typer) -> None:
    """Let `app` have these verbs."""
    for verb in (page, pause, resume, checkpoint, stop):
        token = "VOLLEY_TOKEN" if verb is page else "VOLLEY_ADMIN_TOKEN"
        examples = URL_EXAMPLES.format(verb=verb.__name__, token=token)
        app.command(epilog=examples, rich_help_panel=Panel.STEER)(verb)
    app.command(epilog=DRAIN_EXAMPLES, rich_help_panel=Panel.STEER)(drain)


def page(url: Url = None) -> None:
    """Open the run's live page in the browser, which asks for the run's token as the password."""
    with reporting_stops():
        from volley.launcher.status import find_learner

        address = find_learner(url, Path("runs"))
        typer.echo(f"{address.url}/: any name; the password is the run's token, in {TOKEN_PLACE}")
        typer.launch(f"{address.url}/")


def pause(url: Url = None) -> None:
    """Issue nothing and train nothing after the step in hand, until `volley resume`.

    Workers finish what they hold and wait. A learner that is started again does not remember it.
    """
    _tell(url, "/v1/control/pause")


def resume(url: Url = None) -> None:
    """Go on after a pause."""
    _tell(url, "/v1/control/resume")


def checkpoint(url: Url = None) -> None:
    """Save a checkpoint after the step in hand."""
    _tell(url, "/v1/control/checkpoint")


def stop(url: Url = None) -> None:
    """End the run after the step in hand, with a checkpoint; `volley run` goes on with it later."""
    _tell(url, "/v1/control/stop")


def drain(
    worker: Annotated[str, typer.Argument(help="As `volley status` names it, or its beginning.")],
    url: Url = None,
) -> None:
    """Let one worker finish or hand back what it holds, and leave. It is not started again."""
    with reporting_stops():
        from volley.launcher.status import ask, find_learner
        from volley.transport.learner_client import LearnerClient

        address = find_learner(url, Path("runs"))
        with closing(LearnerClient(address.url, address.token)) as client:
            names = [report.worker for report in ask(client).workers]
        _tell(url, f"/v1/workers/{_named(worker, names)}/drain")


def _named(beginning: str, names: list[str]) -> str:
    """The one name that begins so; raises Stop."""
    found = [name for name in names if name.startswith(beginning)]
    if len(found) == 1:
        return found[0]
    there = f"there is: {', '.join(names)}" if names else "the run has no worker"
    what = "is the beginning of several workers" if found else "is no worker of this run"
    raise Stop(ExitCode.CONFIG, f"WORKER: {beginning} {what}; {there}")


def _tell(url: str | None, path: str) -> None:
    with reporting_stops():
        from volley.launcher.status import find_commander, translating
        from volley.transport.learner_client import LearnerClient

        address = find_commander(url, Path("runs"))
        with closing(LearnerClient(address.url, address.token)) as client, translating():
            typer.echo(client.command(path))
