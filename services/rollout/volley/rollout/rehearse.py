"""`python -m volley.rollout.rehearse FOLDER OPTIONS`: a worker's part of `volley check`.

A process of its own, as a worker is: with the options of `volley rollout`, its devices and its
engine, but nobody on the network is asked for anything. The folder's content: rehearsal.py.
"""

import sys
from pathlib import Path

import typer

from volley.rollout.__main__ import rollout
from volley.rollout.settings import WorkerSettings


def main(folder: Path, options: list[str]) -> None:
    """Answer what is in the folder, as `volley rollout OPTIONS` would."""

    def work(settings: WorkerSettings) -> None:
        from volley.rollout.rehearsal import rehearse

        rehearse(folder, settings)

    app = typer.Typer(add_completion=False)
    app.command()(rollout)
    app(options, prog_name="volley rollout", obj=work)


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
