"""What became of every prompt number: issued = open + trained + filtered + refused + skipped.

Pure bookkeeping: no queue, no clock. A number is open from its issue until exactly one
disposition; asking for a second one is a mistake of ours and raises.
"""

from collections import Counter
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from enum import StrEnum

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


@dataclass(slots=True)
class _Attempts:
    num_attempts: int = 0
    num_strikes: int = 0
    """Attempts that count against the number; a worker that leaves is not its fault."""


class Ledger:
    """The states of all numbers of a run, and at-least counts of deliveries beside them."""

    def __init__(self) -> None:
        self._next_number = 0
        self._open: dict[int, _Attempts] = {}
        self._in_hand: set[int] = set()
        self._closed: Counter[Disposition] = Counter()
        self._deliveries: Counter[Delivery] = Counter()
        self._retried: Counter[str] = Counter()

    @property
    def open(self) -> frozenset[int]:
        """Numbers without a disposition."""
        return frozenset(self._open)

    @property
    def wanted(self) -> frozenset[int]:
        """Open numbers that still need an answer."""
        return self.open - self._in_hand

    def issue(self, num: int) -> range:
        """The next `num` numbers, open from now on."""
        numbers = range(self._next_number, self._next_number + num)
        self._next_number = numbers.stop
        self._open.update((number, _Attempts()) for number in numbers)
        return numbers

    def attempt(self, number: int) -> int:
        """How often this open number was tried before."""
        return self._open[number].num_attempts

    def take(self, number: int) -> None:
        """A good group of this number is in the learner's hands."""
        assert number in self.wanted
        self._in_hand.add(number)

    def retry(self, number: int, reason: str, *, strike: bool) -> int:
        """Count another attempt; returns the strikes against the number so far."""
        self._retried[reason] += 1
        attempts = self._open[number]
        attempts.num_attempts += 1
        attempts.num_strikes += strike
        return attempts.num_strikes

    def close(self, dispositions: Mapping[int, Disposition]) -> None:
        """Give open numbers the state they keep."""
        for number, disposition in dispositions.items():
            del self._open[number]
            self._in_hand.discard(number)
            self._closed[disposition] += 1

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
