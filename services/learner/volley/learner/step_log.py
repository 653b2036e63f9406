"""The write-ahead log of training: what each step is taken with, and what became of it.

    step-00000012-0.vly       the record: groups and bookkeeping, before they are trained
    step-00000012-0.outcome   applied or not, and the root afterwards; JSON, so people can read it

Named for the place in the log: the step that would be reached, and the attempt at it. A place with
a record and no outcome is where a process died. Nothing is ever replaced here.
"""

from collections.abc import Iterator
from pathlib import Path

import msgspec
from msgspec import Struct

from volley.learner.ledger import Disposition, LedgerState
from volley.learner.sealed import fsync, read_sealed_record, remove_leftovers, write_sealed
from volley.schemas.groups import Version
from volley.telemetry.stops import ExitCode, Stop

RECORD = ".vly"
OUTCOME = ".outcome"


class Place(Struct, frozen=True, order=True, array_like=True):
    """Where a record stands in the log."""

    step: int
    """Of the version that the record leads to if it is applied."""
    attempt: int
    """Records for this step before this one; none of them was applied."""

    def __str__(self) -> str:
        return f"{self.step}-{self.attempt}"

    def after(self, applied: bool) -> "Place":
        """Where the next record stands."""
        return Place(self.step + 1, 0) if applied else Place(self.step, self.attempt + 1)


class StepRecord(Struct, frozen=True):
    """All that a step is taken with, beside the weights."""

    schema_version: int
    run: str
    place: Place
    head: Version
    """Of the weights that are trained."""
    config_hash: str
    code_hash: str
    data_hash: str
    closed: dict[int, Disposition]
    """Numbers that got their final state without a step, since the record before."""
    reopened: dict[int, Disposition]
    """Numbers that a person asked for again since the record before, and what they had been."""
    ledger: LedgerState
    """In which the groups' numbers are still open."""
    groups: tuple[bytes, ...]
    """As they came through the queue, in the order of training."""


class Outcome(Struct, frozen=True):
    """What became of a record."""

    schema_version: int
    applied: bool
    reason: str | None
    """Why it was not applied."""
    version: Version
    """Of the head afterwards."""
    root: str
    """Of the head afterwards."""
    dispositions: dict[int, Disposition]
    """Of the record's groups, by number."""
    set_aside: tuple[int, ...]
    """Numbers that were left out as poison."""
    metrics: dict[str, float | None]


class StepLog:
    """The records and outcomes of one run, in the order of their places."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def append(self, record: StepRecord) -> None:
        """Put a record on the disk; raises OSError, and nothing is there."""
        self._write(self.path(record.place), msgspec.msgpack.encode(record))

    def conclude(self, place: Place, outcome: Outcome) -> None:
        """Put on the disk what became of a record; raises OSError, and nothing is there."""
        content = msgspec.json.format(msgspec.json.encode(outcome))
        self._write(self.path(place, OUTCOME), content)

    def places(self) -> list[Place]:
        """Of all records, sorted."""
        return [_place_of(path) for path in self._paths() if path.suffix == RECORD]

    def read(self, place: Place) -> StepRecord:
        """The record at `place`; raises Damaged."""
        path = self.path(place)
        return read_sealed_record(path, StepRecord, msgspec.msgpack.decode)

    def outcome(self, place: Place) -> Outcome | None:
        """What became of the record at `place`, if that is known; raises Damaged."""
        path = self.path(place, OUTCOME)
        return read_sealed_record(path, Outcome, msgspec.json.decode) if path.exists() else None

    def prune(self, before: Place) -> None:
        """Delete all that stands before `before`."""
        for path in self._paths():
            if _place_of(path) < before:
                path.unlink()

    def abandon(self, start: Place, into: str) -> None:
        """Move all from `start` on into a subfolder, out of the log.

        From the end backwards, outcomes first: a crash on the way leaves a log without holes.
        """
        folder = self._folder / into
        folder.mkdir(exist_ok=True)
        for path in reversed(list(self._paths())):
            if _place_of(path) >= start:
                path.rename(folder / path.name)
        fsync(folder)
        fsync(self._folder)

    def remove_leftovers(self) -> None:
        """Remove what a process that died was writing."""
        remove_leftovers(self._folder)

    def path(self, place: Place, suffix: str = RECORD) -> Path:
        """Where the record (or the outcome) of a place is, if it is."""
        return self._folder / f"step-{place.step:08}-{place.attempt}{suffix}"

    def _paths(self) -> Iterator[Path]:
        """By place, each record before its outcome."""
        paths = self._folder.glob("step-*")
        yield from sorted(paths, key=lambda path: (_place_of(path), path.suffix == OUTCOME))

    def _write(self, path: Path, content: bytes) -> None:
        try:
            write_sealed(path, content)
        except FileExistsError:
            raise Stop(
                ExitCode.ANOTHER_LEARNER,
                f"{path} is there already, so another learner works on this run folder: stop one "
                "of the two, then start the run again; it goes on from what is on the disk",
            ) from None


def _place_of(path: Path) -> Place:
    _, step, attempt = path.stem.split("-")
    return Place(int(step), int(attempt))
