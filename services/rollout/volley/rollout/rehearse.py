"""`python -m volley.rollout.rehearse FOLDER OPTIONS`: a worker's part of a rehearsal.

A process of its own, as a worker is: with the options of `volley rollout`, its devices and its
engine, but nobody on the network is asked for anything. The folder's content: rehearsal.py.

Standard output has nothing but the number of tasks that have been sampled, a line each time.
"""

import os
import sys
from pathlib import Path

import typer

from volley.rollout.__main__ import rollout
from volley.rollout.settings import WorkerSettings


def main(folder: Path, options: list[str]) -> None:
    """Answer what is in the folder, as `volley rollout OPTIONS` would."""
    numbers = os.fdopen(os.dup(sys.stdout.fileno()), "w", buffering=1)
    # Engines print what they like.
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())

    def work(settings: WorkerSettings) -> None:
        from volley.rollout.rehearsal import rehearse

        rehearse(folder, settings, lambda num_sampled: print(num_sampled, file=numbers))

    app = typer.Typer(add_completion=False)
    app.command()(rollout)
    app(options, prog_name="volley rollout", obj=work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
