"""A worker reduced to its deliveries, which it repeats, shuffles, delays and sometimes fails."""

import random
import sys
import threading
from contextlib import suppress

from tests.fault.chaos_learner import FAILED, LEASE_S
from volley.transport.redis_stream import Lease, QueueError, WorkerQueue

HEARTBEAT_S = 0.1
MAX_LEASES = 4
MAX_REPEATS = 5
FAILED_SHARE = 0.02
STUCK_SHARE = 0.002
REMEMBERED = 50


def value_of(number: int) -> int:
    """What every right answer to a number is."""
    return number * 2654435761 % 2**32


class Worker:
    """Deliveries of one process; heartbeats in a thread of their own."""

    def __init__(self, url: str, run: str, name: str) -> None:
        self._queue = WorkerQueue(url, run, name)
        self._dice = random.Random(name)
        self._hand: dict[str, Lease] = {}
        self._delivered: list[Lease] = []
        self._beats = 0
        self._pause = threading.Event()

    def work(self) -> None:
        """Take a few tasks and deliver them out of order, old ones again among them."""
        while len(self._hand) < MAX_LEASES:
            lease = self._queue.lease(0.01 if self._hand else 1.0)
            if lease is None:
                break
            self._hand[lease.task_id] = lease
        again = self._dice.sample(self._delivered, k=min(1, len(self._delivered)))
        leases = [*self._hand.values(), *again]
        self._dice.shuffle(leases)
        for lease in leases:
            self._deliver(lease)

    def beat_for_ever(self) -> None:
        while True:
            self._beats += 1
            with suppress(QueueError):
                self._queue.heartbeat(dict.fromkeys(list(self._hand), self._beats))
            self._pause.wait(HEARTBEAT_S)

    def forget_leases(self) -> None:
        self._hand.clear()

    def _deliver(self, lease: Lease) -> None:
        if self._dice.random() < STUCK_SHARE:
            self._hand.pop(lease.task_id, None)
            self._pause.wait(2 * LEASE_S)
        failed = self._dice.random() < FAILED_SHARE
        body = FAILED if failed else str(value_of(lease.number)).encode()
        for _ in range(self._dice.choice((1, 1, 1, MAX_REPEATS))):
            self._queue.complete(lease, body)
        self._hand.pop(lease.task_id, None)
        self._delivered = [*self._delivered[-REMEMBERED:], lease]


def main() -> None:
    worker = Worker(*sys.argv[1:])
    threading.Thread(target=worker.beat_for_ever, daemon=True).start()
    while True:
        try:
            worker.work()
        except QueueError:
            worker.forget_leases()


if __name__ == "__main__":
    main()
