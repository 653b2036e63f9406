"""What verbs share: options, and where `volley --help` lists them."""

from enum import StrEnum
from typing import Annotated

import typer

Overrides = Annotated[
    list[str] | None,
    typer.Option("--set", metavar="SECTION.KEY=VALUE", help="Change one setting; repeatable."),
]


class Panel(StrEnum):
    """Of `volley --help`."""

    TRAIN = "Train"
    TRY = "Before a run, and after it"
    STEER = "Watch and steer a run"
    PAST = "What a run has left"
