"""`volley audit RUN_DIR`: whether a run folder keeps its promises, in a table."""

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING

import typer
from rich import box
from rich.console import Console
from rich.table import Table
from rich.text import Text

from volley.launcher.progress_bar import progress_bar
from volley.telemetry.stops import ExitCode

if TYPE_CHECKING:  # heavy, and not needed to answer --help
    from volley.learner.audit import Finding

SHOWN_FAULTS = 5
"""Of one check; as a rule the first ones tell what the others come from."""


def run_audit(run_folder: Path, *, from_start: bool, as_json: bool) -> ExitCode:
    """Audit a folder in front of a person; DONE where every promise is kept."""
    from volley.learner.audit import audit
    from volley.learner.past_run import open_run

    with open_run(run_folder) as run, progress_bar() as progress:
        start = run.oldest_kept(from_start=from_start)
        bar = progress.add_task("replaying", total=len(run.places(start, None)))
        findings = audit(run, start, lambda step: progress.advance(bar))
    if as_json:
        typer.echo(json.dumps([asdict(finding) for finding in findings]))
    else:
        show_findings(run_folder, findings)
    kept = not any(finding.faults for finding in findings)
    return ExitCode.DONE if kept else ExitCode.ENVIRONMENT


def show_findings(run_folder: Path, findings: "Sequence[Finding]") -> None:
    """A table of the checks, and what to do where one has failed."""
    console = Console(highlight=False)
    table = Table("check", "looked at", "found", box=box.SIMPLE_HEAD)
    for finding in findings:
        table.add_row(finding.check, finding.looked_at, _found(finding.faults))
    console.print(table)
    if any(finding.faults for finding in findings):
        console.print(
            f"{run_folder} does not keep its promises: compare it with its backup, and please tell "
            "us with this table and the folder's logs",
            soft_wrap=True,
        )


def _found(faults: Sequence[str]) -> Text:
    if not faults:
        return Text("ok", style="green")
    rest = len(faults) - SHOWN_FAULTS
    more = [f"and {rest} more"] if rest > 0 else []
    return Text("\n".join([*faults[:SHOWN_FAULTS], *more]), style="bold red")
