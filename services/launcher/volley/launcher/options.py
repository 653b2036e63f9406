"""What verbs share: arguments, options, and where `volley --help` lists them."""

from enum import StrEnum
from pathlib import Path
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; repeatable."),
]


Config = Annotated[Path, typer.Argument(help="The run's TOML.", show_default=False)]
Url = Annotated[
    str | None,
    typer.Argument(help="Of the learner; left out: the newest run in ./runs.", show_default=False),
]
AnyRun = Annotated[Path, typer.Argument(metavar="RUN_DIR", help="Of any run, going or not.")]
StoppedRun = Annotated[
    Path, typer.Argument(metavar="RUN_DIR", help="Of a run that no learner works on.")
]


class Panel(StrEnum):
    """Of `volley --help`."""

    TRAIN = "Train"
    TRY = "Before a run, and after it"
    STEER = "Watch and steer a run"
    PAST = "What a run has left"
