"""The queue as a worker sees it: lease, heartbeat, complete. See redis_stream for the whole."""

import time
from collections.abc import Mapping
from dataclasses import dataclass

from volley.transport.redis_client import (
    QueueForgotten,
    RedisClient,
    block_ms,
    entries_of,
    run_key,
)

FORGOTTEN_PAUSE_S = 0.5
"""Rest of a worker whose queue is gone, until the learner has reconciled."""


@dataclass(frozen=True, slots=True)
class Lease:
    """A task in the hands of this worker."""

    number: int
    task_id: str
    body: bytes


class WorkerQueue:
    """The queue as one worker sees it; any thread may use it, one at a time may lease."""

    def __init__(self, url: str, run: str, worker: str) -> None:
        """`worker` must be unique to this process: it is the consumer's name."""
        self._redis = RedisClient(url)
        self._run = run
        self._worker = worker

    def lease(self, block_s: float) -> Lease | None:
        """The next task, or None when there was none for `block_s` (or MAX_BLOCK_S)."""
        leases = self.lease_some(1, block_s)
        return leases[0] if leases else None

    def lease_some(self, limit: int, block_s: float) -> list[Lease]:
        """The next tasks, at most `limit`; empty when there was none for `block_s`.

        One write to Redis's disk however many they are. Not retried: a task whose reply was lost
        gets no heartbeat, so the learner reissues it.
        """
        tasks = run_key(self._run, "tasks")
        try:
            with self._redis.translating():
                reply = self._redis.commands.xreadgroup(
                    "workers", self._worker, {tasks: ">"}, count=limit, block=block_ms(block_s)
                )
        except QueueForgotten:
            time.sleep(min(block_s, FORGOTTEN_PAUSE_S))
            return []
        return [
            Lease(int(fields[b"n"]), task_id.decode(), fields[b"body"])
            for task_id, fields in entries_of(reply)
        ]

    def heartbeat(self, progress: Mapping[str, int]) -> frozenset[str]:
        """Renew the leases in `progress` (task id -> counter); those that are still held."""
        pairs = [part for task_id, counter in progress.items() for part in (task_id, counter)]
        held = self._redis.run(
            "heartbeat",
            keys=[run_key(self._run, "tasks")],
            args=[self._worker, *pairs],
            answer=list[bytes],
        )
        return frozenset(task_id.decode() for task_id in held)

    def complete(self, lease: Lease, body: bytes) -> bool:
        """True when `body` is the number's result; False when it came too late and is dropped."""
        names = ("outstanding", "tasks", "results", "deliveries")
        accepted = self._redis.run(
            "complete",
            keys=[run_key(self._run, name) for name in names],
            args=[lease.number, lease.task_id, body],
            answer=int,
        )
        return accepted == 1

    def report(self, status: bytes, expires_s: float) -> bool:
        """Let `status` be seen by LearnerQueue.reports for `expires_s`; True when told to leave."""
        names = (f"report:{self._worker}", "workers", f"dismissed:{self._worker}")
        report, workers, dismissed = (run_key(self._run, name) for name in names)
        with self._redis.translating():
            self._redis.commands.set(report, status, px=round(expires_s * 1000))
            self._redis.commands.sadd(workers, self._worker)
            return bool(self._redis.commands.exists(dismissed))

    def forget(self) -> None:
        """Remove this worker's traces; what it still holds stays until the learner reissues it."""
        forget_worker(self._redis, self._run, self._worker)

    def close(self) -> None:
        """Close the connections, when no other thread is in a call."""
        self._redis.close()


def forget_worker(client: RedisClient, run: str, worker: str) -> None:
    """Remove the traces of a worker that has left or fallen silent."""
    names = ("tasks", "workers", f"report:{worker}")
    client.run("forget", keys=[run_key(run, name) for name in names], args=[worker], answer=int)
