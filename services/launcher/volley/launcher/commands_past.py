"""`volley export`, `audit`, `replay`, `trajectories`: what a run has left on the disk."""

from pathlib import Path
from typing import Annotated

import typer

from volley.launcher.options import AnyRun, Overrides, Panel, StoppedRun
from volley.telemetry.logs import set_up_logs
from volley.telemetry.stops import reporting_stops

EXPORT_EXAMPLES = """
Examples:

volley export runs/sums-20260101-120000 model

volley export runs/sums-20260101-120000 model-at-100 --step 100

volley export runs/sums-20260101-120000 adapter --adapter
"""

AUDIT_EXAMPLES = """
Example:

volley audit runs/sums-20260101-120000
"""

REPLAY_EXAMPLES = """
Examples:

volley replay runs/sums-20260101-120000

volley replay runs/sums-20260101-120000 --from 20 --to 60 --set loss.epsilon_high=0.3
"""

TRAJECTORIES_EXAMPLES = """
Examples:

volley trajectories runs/sums-20260101-120000

volley trajectories runs/sums-20260101-120000 --number 17 --logprobs

volley trajectories runs/sums-20260101-120000 --step 80 --json | jq .reward
"""


def add_commands(app: typer.Typer) -> None:
    """Let `app` have these verbs."""
    app.command(epilog=EXPORT_EXAMPLES, rich_help_panel=Panel.PAST)(export)
    app.command(epilog=AUDIT_EXAMPLES, rich_help_panel=Panel.PAST)(audit)
    app.command(epilog=REPLAY_EXAMPLES, rich_help_panel=Panel.PAST)(replay)
    app.command(epilog=TRAJECTORIES_EXAMPLES, rich_help_panel=Panel.PAST)(trajectories)


def export(
    run_folder: AnyRun,
    out: Annotated[Path, typer.Argument(help="The folder to make.")],
    step: Annotated[
        int | None,
        typer.Option(min=0, help="Of the checkpoint to take; left out: the newest."),
    ] = None,
    adapter: Annotated[
        bool, typer.Option("--adapter", help="LoRA's adapters alone, as peft and vLLM load them.")
    ] = False,
) -> None:
    """Write the model of a checkpoint as a Hugging Face folder, for transformers, vLLM and others.

    The run may go on meanwhile. Nothing is ever written over.
    """
    with reporting_stops():
        set_up_logs("launcher", style="text")
        from volley.learner.export import export as write_model

        write_model(run_folder, out, step, adapters_alone=adapter)


def audit(
    run_folder: StoppedRun,
    from_start: Annotated[
        bool,
        typer.Option(
            "--from-start", help="Replay the whole run, if checkpoint.keep_all_steps kept it."
        ),
    ] = False,
    as_json: Annotated[bool, typer.Option("--json", help="The findings as a list.")] = False,
) -> None:
    """Check that nothing was lost and nothing trained twice: sums, states, and a replay.

    Exit code 0 if all is well, else 3. Nothing is written.
    """
    with reporting_stops():
        set_up_logs("launcher", style="text")
        from volley.launcher.audit import run_audit

        raise typer.Exit(run_audit(run_folder, from_start=from_start, as_json=as_json))


def replay(
    run_folder: StoppedRun,
    first: Annotated[
        int | None, typer.Option("--from", min=1, help="Step; left out: the oldest there is.")
    ] = None,
    last: Annotated[
        int | None, typer.Option("--to", min=1, help="Step; left out: the newest there is.")
    ] = None,
    overrides: Overrides = None,
) -> None:
    """Take logged steps again on the same groups, as they were or under other settings.

    As they were they must give the recorded weights: exit code 0, else 3. Writes
    replay-<UTC time>.jsonl into the run folder, with the keys of metrics.jsonl.
    """
    with reporting_stops():
        set_up_logs("launcher", style="text")
        from volley.launcher.replay import run_replay

        raise typer.Exit(run_replay(run_folder, first, last, overrides or []))


def trajectories(
    run_folder: AnyRun,
    step: Annotated[int | None, typer.Option(min=1, help="All groups of a step.")] = None,
    number: Annotated[int | None, typer.Option(min=0, help="All groups of a prompt.")] = None,
    last: Annotated[
        int | None, typer.Option(min=1, help="Of those only the last; of all steps, else: 2.")
    ] = None,
    has_logprobs: Annotated[
        bool, typer.Option("--logprobs", help="Every generated token with what the engine said.")
    ] = False,
    as_json: Annotated[
        bool, typer.Option("--json", help="All that is known, a line per trajectory.")
    ] = False,
) -> None:
    """Show what the model was asked, what it said, what was inserted and what it was worth.

    Steps are there from the oldest checkpoint on, or all with checkpoint.keep_all_steps.
    """
    with reporting_stops():
        from volley.launcher.trajectories import print_trajectories, show_trajectories
        from volley.learner.trajectories import Choice

        choice = Choice(step, number, 2 if (step, number, last) == (None, None, None) else last)
        if as_json:
            print_trajectories(run_folder, choice)
        else:
            show_trajectories(run_folder, choice, has_logprobs=has_logprobs)
