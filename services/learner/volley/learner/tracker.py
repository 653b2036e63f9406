"""What every tracker of a run's figures promises: see trackers.py, which feeds them."""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

CLOSE_S = 15.0
"""Longest wait, at the end of a run, for what a tracker has not taken in yet."""


class Tracker(Protocol):
    """A place for figures; used by one thread, and whatever it raises is its end."""

    def log(self, step: int, values: Mapping[str, float]) -> None:
        """Take these in; steps come in order, evaluations of earlier ones between them."""
        ...

    def close(self) -> None:
        """Finish what is under way."""
        ...


@dataclass(frozen=True, slots=True)
class TrackedRun:
    """What a tracker is told of a run that begins, or goes on."""

    id: str
    """The same after every resume."""
    name: str
    project: str
    folder: Path
    config: Mapping[str, object]
    """All settings, secrets masked."""
    next_step: int
    """The first that will be told; a tracker holds later ones of a run that went back."""
