"""Whether a run folder keeps its promises: read as a stranger would, and replayed.

    sums       every number is open or in one state, and every step adds up to the next
    once       no number gets a state twice, no group is in two applied steps
    roots      a replay from the oldest kept checkpoint gives the recorded roots
    versions   no version names two contents, in log, checkpoints and metrics.jsonl
    leftovers  no temporary file or folder, no gap in the log

Each check looks at every logged step in turn; nothing is written.
"""

from collections import Counter, defaultdict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from volley.learner.checkpoint import Checkpoint
from volley.learner.ledger import Disposition, Ledger
from volley.learner.metrics_file import MetricsFile, MetricsLine
from volley.learner.past_run import PastRun
from volley.learner.replay import Replay
from volley.learner.sealed import TEMPORARY_PREFIX, Damaged
from volley.learner.step_log import Outcome, Place, StepLog, StepRecord
from volley.schemas.groups import Group, Version
from volley.telemetry.stops import ExitCode, Stop


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A step as the log has it."""

    record: StepRecord
    groups: list[Group]
    outcome: Outcome | None
    """None where the process died in it."""


@dataclass(frozen=True, slots=True)
class Finding:
    """What a check looked at, and what speaks against the promise."""

    check: str
    looked_at: str
    faults: tuple[str, ...]


class Check(Protocol):
    """Looks at the steps of a log in order, and has a finding in the end."""

    def look(self, step: LoggedStep) -> None: ...

    def finding(self) -> Finding: ...


class Sums:
    """issued = open + trained + filtered + refused + skipped, and nothing comes from nowhere."""

    def __init__(self) -> None:
        self._expected: Counter[Disposition] | None = None
        self._num_numbers = 0
        self._faults: list[str] = []

    def look(self, step: LoggedStep) -> None:
        record, where = step.record, f"step {step.record.place}"
        counts = Ledger.of(record.ledger).counts()
        states = {state: getattr(counts, state.value) for state in Disposition}
        if counts.issued != counts.open + sum(states.values()):
            self._faults.append(f"{where}: {counts} does not add up")
        if self._expected is not None:
            self._expected.update(record.closed.values())
            self._expected.subtract(record.reopened.values())
            if self._expected != Counter(record.ledger.closed):
                self._faults.append(f"{where}: its counts do not follow from those before it")
        if not {group.number for group in step.groups} <= record.ledger.open.keys():
            self._faults.append(f"{where}: it trains a number that is not open")
        outcomes = step.outcome.dispositions if step.outcome else {}
        self._expected = Counter(record.ledger.closed)
        self._expected.update(outcomes.values())
        self._num_numbers = counts.issued

    def finding(self) -> Finding:
        return Finding("sums", f"{self._num_numbers} numbers", tuple(self._faults))


class Once:
    """A number gets one state; a group is in one applied step."""

    def __init__(self) -> None:
        self._closed: dict[int, list[Place]] = defaultdict(list)
        self._trained: dict[int, list[Place]] = defaultdict(list)

    def look(self, step: LoggedStep) -> None:
        place, outcome = step.record.place, step.outcome
        for number in step.record.reopened:
            self._closed[number].clear()
        for number in (*step.record.closed, *(outcome.dispositions if outcome else ())):
            self._closed[number].append(place)
        if outcome is not None and outcome.applied:
            for group in step.groups:
                self._trained[group.number].append(place)

    def finding(self) -> Finding:
        return Finding(
            "once",
            f"{len(self._closed)} closed numbers",
            (*_repeated(self._closed, "closed"), *_repeated(self._trained, "trained")),
        )


class Roots:
    """The same groups on the same weights lead to the recorded weights."""

    def __init__(
        self, replay: Replay, start: Checkpoint | None, told: Callable[[int], None]
    ) -> None:
        self._replay = replay
        self._start = None if start is None else start.state.place
        self._told = told
        self._num_replayed = 0
        self._faults: list[str] = []

    def look(self, step: LoggedStep) -> None:
        record, outcome = step.record, step.outcome
        if outcome is None or not outcome.applied:
            return
        if self._start is not None and record.place < self._start:
            return
        self._replay.take(record, step.groups, outcome.set_aside)
        self._num_replayed += 1
        self._told(record.place.step)
        root = self._replay.root()
        if root != outcome.root:
            self._faults.append(
                f"step {record.place}: replayed root {root[:12]}, recorded {outcome.root[:12]}"
            )

    def finding(self) -> Finding:
        return Finding("roots", f"{self._num_replayed} steps replayed", tuple(self._faults))


class Versions:
    """One version, one content, wherever it is written down."""

    def __init__(self, checkpoints: list[Checkpoint], metrics: list[MetricsLine]) -> None:
        self._roots: dict[Version, dict[str, str]] = defaultdict(dict)
        for checkpoint in checkpoints:
            state = checkpoint.state
            self._note(state.version, state.root, str(checkpoint.path.name))
        for line in metrics:
            self._note(line.version, line.root, "metrics.jsonl")

    def look(self, step: LoggedStep) -> None:
        if step.outcome is not None:
            self._note(step.outcome.version, step.outcome.root, f"step {step.record.place}")

    def finding(self) -> Finding:
        faults = [
            f"version {version} has {len(roots)} roots: "
            + ", ".join(f"{root[:12]} in {where}" for root, where in roots.items())
            for version, roots in sorted(self._roots.items())
            if len(roots) > 1
        ]
        return Finding("versions", f"{len(self._roots)} versions", tuple(faults))

    def _note(self, version: Version, root: str, where: str) -> None:
        self._roots[version].setdefault(root, where)


class Leftovers:
    """Nothing lies about, and no step is missing."""

    def __init__(self, folder: Path) -> None:
        self._num_files = sum(1 for path in folder.rglob("*") if path.is_file())
        # Folders too: half a checkpoint is one.
        temporary = sorted(folder.rglob(f"{TEMPORARY_PREFIX}*"))
        self._faults = [f"{path.relative_to(folder)}: temporary" for path in temporary]
        self._next: Place | None = None

    def look(self, step: LoggedStep) -> None:
        place = step.record.place
        if self._next is not None and place != self._next:
            self._faults.append(f"step {place} follows where {self._next} should be")
        self._next = place.after(step.outcome is not None and step.outcome.applied)

    def finding(self) -> Finding:
        return Finding("leftovers", f"{self._num_files} files", tuple(self._faults))


def unheard(step: int) -> None:
    """Nobody wants to know how far it is."""


def audit(
    run: PastRun, start: Checkpoint | None, told: Callable[[int], None] = unheard
) -> list[Finding]:
    """The findings of all checks, the steps replayed from `start` on (None: from the first one).

    `told` hears every version step that was replayed. Raises Stop where a step of the log cannot
    be read.
    """
    replay = run.replay()
    if start is not None:
        replay.restore(start)
    checks: tuple[Check, ...] = (
        Sums(),
        Once(),
        Roots(replay, start, told),
        Versions(run.checkpoints, MetricsFile(run.folder.metrics).read()),
        Leftovers(run.folder.path),
    )
    for step in _steps(run.log, replay):
        for check in checks:
            check.look(step)
    return [check.finding() for check in checks]


def _steps(log: StepLog, replay: Replay) -> Iterator[LoggedStep]:
    try:
        for place in log.places():
            record = log.read(place)
            yield LoggedStep(record, replay.groups(record), log.outcome(place))
    except Damaged as error:
        raise Stop(ExitCode.ENVIRONMENT, f"{error}: the step log is not whole") from error


def _repeated(places: Mapping[int, list[Place]], what: str) -> Iterator[str]:
    for number, where in sorted(places.items()):
        if len(where) > 1:
            yield f"number {number} was {what} in steps {', '.join(map(str, where))}"
