"""What a learner's routes answer from."""

from collections.abc import Callable
from concurrent.futures import Future
from dataclasses import dataclass, field
from pathlib import Path

from volley.learner.control import Control
from volley.learner.weight_store import WeightStore
from volley.schemas.run_spec import RunSpec
from volley.schemas.status import RunEnd, StatusReport


def nobody_to_dismiss(worker: str) -> None:
    """Before the run has begun no worker is in it."""


@dataclass(frozen=True, slots=True)
class Served:
    """One learner, as far as it is seen and commanded from outside."""

    folder: Path
    """The run's."""
    store: WeightStore
    report: Callable[[], StatusReport]
    control: Control
    spec: RunSpec | None = None
    """None while there is nothing to join yet: workers are told to try again."""
    dismiss: Callable[[str], None] = nobody_to_dismiss
    """Lets a worker leave once it has finished what it holds; raises QueueError."""
    end: Future[RunEnd | None] = field(default_factory=Future)
    """How the learner has ended, once it has; None where another one answers from now on."""
