"""What became of every prompt number: issued = open + trained + filtered + refused + skipped.

Pure bookkeeping: no queue, no clock, no disk. A number is open from its issue until exactly one
disposition; asking for a second one is a mistake of ours and raises. Only a person may ask to have
a number that was skipped or refused opened again. `state` is what goes to the disk with every
logged step and checkpoint, and `Ledger.of` brings back.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

from msgspec import Struct

from volley.schemas.status import DeliveryCounts, LedgerCounts


class Disposition(StrEnum):
    TRAINED = "trained"
    FILTERED = "filtered"
    """No signal: all rewards of the group are equal."""
    REFUSED = "refused"
    """The step that held it was not applied."""
    SKIPPED = "skipped"
    """Failed or stale too often."""


class Delivery(StrEnum):
    """Ways in which an answer can be no use."""

    INVALID = "invalid"
    STALE = "stale"
    FAILED = "failed"


class Attempts(Struct, frozen=True, array_like=True):
    """How often an open number was tried."""

    num_attempts: int = 0
    num_strikes: int = 0
    """Attempts that count against the number; a worker that leaves is not its fault."""
    num_late: int = 0
    """Strikes of groups that came whole, but too late."""


class LedgerState(Struct, frozen=True):
    """A ledger as it goes to the disk."""

    next_number: int = 0
    open: dict[int, Attempts] = {}
    closed: dict[Disposition, int] = {}
    """Counts; which number got which state is in the step log."""
    deliveries: dict[Delivery, int] = {}
    retried: dict[str, int] = {}


@dataclass(frozen=True, slots=True)
class Changes:
    """Numbers whose state changed without a step, since the last one that was logged."""

    closed: dict[int, Disposition]
    reopened: dict[int, Disposition]
    """And what they had been."""


class Ledger:
    """The states of all numbers of a run, and at-least counts of deliveries beside them."""

    def __init__(self) -> None:
        self._next_number = 0
        self._open: dict[int, Attempts] = {}
        self._in_hand: set[int] = set()
        self._closed: Counter[Disposition] = Counter()
        self._deliveries: Counter[Delivery] = Counter()
        self._retried: Counter[str] = Counter()

    @classmethod
    def of(cls, state: LedgerState) -> "Ledger":
        """The ledger that had this state; nothing is in hand."""
        ledger = cls()
        ledger._next_number = state.next_number
        ledger._open = dict(state.open)
        ledger._closed = Counter(state.closed)
        ledger._deliveries = Counter(state.deliveries)
        ledger._retried = Counter(state.retried)
        return ledger

    def state(self) -> LedgerState:
        """All of it but what is in hand, which is open like the rest."""
        return LedgerState(
            next_number=self._next_number,
            open=dict(self._open),
            closed=dict(self._closed),
            deliveries=dict(self._deliveries),
            retried=dict(self._retried),
        )

    @property
    def open(self) -> frozenset[int]:
        """Numbers without a disposition."""
        return frozenset(self._open)

    @property
    def wanted(self) -> frozenset[int]:
        """Open numbers that still need an answer."""
        return self.open - self._in_hand

    def issue(self, num: int) -> range:
        """The next `num` numbers, open from now on; none where `num` is below 0."""
        numbers = range(self._next_number, self._next_number + max(0, num))
        self._next_number = numbers.stop
        self._open.update((number, Attempts()) for number in numbers)
        return numbers

    def attempt(self, number: int) -> int:
        """How often this open number was tried before."""
        return self._open[number].num_attempts

    def failures(self, number: int) -> int:
        """Its strikes that may have hurt a worker: a group that came too late has not."""
        return self._open[number].num_strikes - self._open[number].num_late

    def take(self, number: int) -> None:
        """A good group of this number is in the learner's hands."""
        assert number in self.wanted
        self._in_hand.add(number)

    def retry(self, number: int, reason: str, *, strike: bool) -> int:
        """Count another attempt; returns the strikes against the number so far."""
        self._retried[reason] += 1
        before = self._open[number]
        after = Attempts(
            before.num_attempts + 1,
            before.num_strikes + strike,
            before.num_late + (reason == Delivery.STALE),
        )
        self._open[number] = after
        return after.num_strikes

    def close(self, dispositions: Mapping[int, Disposition]) -> None:
        """Give open numbers the state they keep."""
        for number, disposition in dispositions.items():
            del self._open[number]
            self._in_hand.discard(number)
            self._closed[disposition] += 1

    def reopen(self, number: int, disposition: Disposition, num_attempts: int) -> None:
        """Take back the state of a number, which was tried so often; an open one stays as it is."""
        if number in self._open:
            return
        assert self._closed[disposition], "it has this state"
        self._closed[disposition] -= 1
        self._open[number] = Attempts(num_attempts)

    def count(self, delivery: Delivery) -> None:
        self._deliveries[delivery] += 1

    def deliveries(self, duplicate: int) -> DeliveryCounts:
        """Counts of what was no use; duplicates are seen by the queue, so they are passed in."""
        return DeliveryCounts(
            duplicate=duplicate,
            invalid=self._deliveries[Delivery.INVALID],
            stale=self._deliveries[Delivery.STALE],
            failed=self._deliveries[Delivery.FAILED],
            retried=dict(self._retried),
        )

    def counts(self) -> LedgerCounts:
        """Numbers by state."""
        return LedgerCounts(
            issued=self._next_number,
            open=len(self._open),
            **{state.value: self._closed[state] for state in Disposition},
        )


def closing(numbers: Iterable[int], disposition: Disposition) -> dict[int, Disposition]:
    """The same disposition for all of `numbers`."""
    return dict.fromkeys(numbers, disposition)
