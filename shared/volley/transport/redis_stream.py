"""The queue between one learner and any number of workers: tasks out, results back, over Redis.

    learner: reconcile -> issue -> [tasks] -> lease, heartbeat ... complete -> [results] -> collect
                            ^                                                            |
                            +---- reissue (lost or failed)        drop (logged on disk) <+

The learner's disk is the truth; Redis may be lost at any time. `outstanding` is the pivot: each
number that was issued and not dropped points at its one task or its one result. Whatever it does
not point at has no effect. Bodies are opaque bytes.

Keys, all beginning with `volley:{RUN}:` (the braces are a Redis Cluster hash tag); none expires
unless it says so:

    key              type     meaning                                              written by
    outstanding      hash     number -> `t:<task id>` or `r:<result id>`           both
    tasks            stream   fields n, body; consumer group `workers`, one        learner; workers
                              consumer per worker; the delivery count of a         delete theirs
                              pending entry is its progress
    results          stream   fields n, task, body                                 workers; the
                                                                                   learner deletes
    epoch            string   highest epoch of a learner that reconciled           learner
    incarnation      string   random marker of the last reconcile and the run id   learner
                              of the Redis process that took it
    deliveries       hash     `duplicate` -> results that came too late or twice   workers
    workers          set      who has a report                                     workers; the
                                                                                   learner tidies
    report:<worker>  string   a worker's word about itself; expires                that worker

Errors: see volley.transport.redis_client.
"""

import threading
import time
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from volley.schemas.status import QueueDepth
from volley.transport.redis_client import (
    MAX_BLOCK_S,
    QueueError,
    QueueFenced,
    QueueForgotten,
    QueueFull,
    QueueMisconfigured,
    QueueUnavailable,
    RedisClient,
    connect,
)

__all__ = [
    "Delivery",
    "HeldTask",
    "LearnerQueue",
    "Lease",
    "QueueError",
    "QueueFenced",
    "QueueForgotten",
    "QueueFull",
    "QueueMisconfigured",
    "QueueUnavailable",
    "WorkerQueue",
    "connect",
]

MAX_COLLECTED = 64
"""Results taken in one go."""
COLLECT_SLICE_S = 1.0
"""Longest wait for results in one go: a FLUSHALL wakes no reader, so the marker is looked at."""
FORGOTTEN_PAUSE_S = 0.5
"""Rest of a worker whose queue is gone, until the learner has reconciled."""

_Answer = TypeVar("_Answer")
_Entries = list[tuple[bytes, dict[bytes, bytes]]]


@dataclass(frozen=True, slots=True)
class Lease:
    """A task in the hands of this worker."""

    number: int
    task_id: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Delivery:
    """A result that counts."""

    result_id: str
    number: int
    body: bytes

    @property
    def held(self) -> str:
        """What `reissue` wants to see, to retry a failure."""
        return f"r:{self.result_id}"


@dataclass(frozen=True, slots=True)
class HeldTask:
    """A task that is not completed."""

    number: int
    task_id: str
    worker: str | None
    """None while no worker has leased it."""
    progress: int
    """Of the last heartbeat; 0 while nobody has it, 1 from the lease to the first heartbeat."""

    @property
    def held(self) -> str:
        """What `reissue` wants to see, to take the task away."""
        return f"t:{self.task_id}"


class WorkerQueue:
    """The queue as one worker sees it; any thread may use it, one at a time may lease."""

    def __init__(self, url: str, run: str, worker: str) -> None:
        """`worker` must be unique to this process: it is the consumer's name."""
        self._redis = RedisClient(url)
        self._run = run
        self._worker = worker

    def lease(self, block_s: float) -> Lease | None:
        """The next task, or None when there was none for `block_s` (or MAX_BLOCK_S).

        Not retried: a task whose reply was lost gets no heartbeat, so the learner reissues it.
        """
        tasks = _key(self._run, "tasks")
        try:
            with self._redis.translating():
                reply = self._redis.commands.xreadgroup(
                    "workers", self._worker, {tasks: ">"}, count=1, block=_block_ms(block_s)
                )
        except QueueForgotten:
            time.sleep(min(block_s, FORGOTTEN_PAUSE_S))
            return None
        for task_id, fields in _entries(reply):
            return Lease(int(fields[b"n"]), task_id.decode(), fields[b"body"])
        return None

    def heartbeat(self, progress: Mapping[str, int]) -> frozenset[str]:
        """Renew the leases in `progress` (task id -> counter); those that are still held."""
        pairs = [part for task_id, counter in progress.items() for part in (task_id, counter)]
        held = self._redis.run(
            "heartbeat",
            keys=[_key(self._run, "tasks")],
            args=[self._worker, *pairs],
            answer=list[bytes],
        )
        return frozenset(task_id.decode() for task_id in held)

    def complete(self, lease: Lease, body: bytes) -> bool:
        """True when `body` is the number's result; False when it came too late and is dropped."""
        names = ("outstanding", "tasks", "results", "deliveries")
        accepted = self._redis.run(
            "complete",
            keys=[_key(self._run, name) for name in names],
            args=[lease.number, lease.task_id, body],
            answer=int,
        )
        return accepted == 1

    def report(self, status: bytes, expires_s: float) -> None:
        """Let `status` be seen by LearnerQueue.reports for `expires_s`."""
        report = _key(self._run, f"report:{self._worker}")
        with self._redis.translating():
            self._redis.commands.set(report, status, px=round(expires_s * 1000))
            self._redis.commands.sadd(_key(self._run, "workers"), self._worker)

    def forget(self) -> None:
        """Remove this worker's traces; what it still holds stays until the learner reissues it."""
        _forget(self._redis, self._run, self._worker)

    def close(self) -> None:
        """Close the connections, when no other thread is in a call."""
        self._redis.close()


class LearnerQueue:
    """The queue as the one learner of `epoch` sees it; any thread may use it.

    Everything raises QueueForgotten until `reconcile`, and again when Redis was emptied, restarted
    or failed over: it may then have lost what it was given.
    """

    def __init__(self, url: str, run: str, epoch: int) -> None:
        self._redis = RedisClient(url)
        self._run = run
        self._epoch = epoch
        self._marker = ""
        self._cursor = "0-0"
        # collect moves the cursor, reconcile puts it back: never both at once.
        self._reading = threading.Lock()

    def reconcile(self, wanted: Collection[int]) -> frozenset[int]:
        """The numbers of `wanted` that Redis still has; all others are removed from it.

        Issue what is missing. Every result that is there is delivered by `collect` again.
        """
        with self._reading:
            self._refuse_eviction()
            marker = uuid.uuid4().hex
            kept = self._redis.run(
                "fence",
                "reconcile",
                keys=self._keys(),
                args=[self._epoch, marker, *wanted],
                answer=list[bytes],
            )
            self._marker, self._cursor = marker, "0-0"
        return frozenset(int(number) for number in kept)

    def issue(self, bodies: Mapping[int, bytes]) -> None:
        """Put a task for each number into the queue at once; outstanding numbers stay alone."""
        self._fenced("issue", _flat(bodies.items()), int)

    def collect(self, block_s: float) -> list[Delivery]:
        """Results that count, oldest first, once each until the next `reconcile`.

        Empty when there were none for `block_s` (or COLLECT_SLICE_S).
        """
        with self._reading:
            with self._redis.translating():
                reply = self._redis.commands.xread(
                    {_key(self._run, "results"): self._cursor},
                    count=MAX_COLLECTED,
                    block=_block_ms(min(block_s, COLLECT_SLICE_S)),
                )
            entries = _entries(reply)
            pairs = [(result_id, fields[b"n"]) for result_id, fields in entries]
            accepted = set(self._fenced("accept", _flat(pairs), list[bytes]))
            if entries:
                self._cursor = entries[-1][0].decode()
        return [
            Delivery(result_id.decode(), int(fields[b"n"]), fields[b"body"])
            for result_id, fields in entries
            if result_id in accepted
        ]

    def reissue(self, number: int, held: str, body: bytes) -> bool:
        """Replace the task or failure `held` by a task; False when the number has moved on."""
        return self._fenced("reissue", [number, held, body], int) == 1

    def drop(self, numbers: Collection[int]) -> None:
        """Forget `numbers`, which are terminal or logged on disk, with their task or result."""
        self._fenced("drop", list(numbers), int)

    def held_tasks(self) -> list[HeldTask]:
        """The tasks that are not completed, with their workers' progress."""
        pointers, pending = self._fenced(
            "held_tasks", [], tuple[list[bytes], list[tuple[bytes, bytes, int, int]]]
        )
        holders = {task_id: (worker.decode(), count) for task_id, worker, _, count in pending}
        tasks = []
        for number, pointer in zip(pointers[::2], pointers[1::2], strict=True):
            if pointer.startswith(b"t:"):
                worker, progress = holders.get(pointer[2:], (None, 0))
                tasks.append(HeldTask(int(number), pointer[2:].decode(), worker, progress))
        return tasks

    def depth(self) -> QueueDepth:
        """How much is in the queue."""
        with self._redis.translating(), self._redis.commands.pipeline(transaction=True) as pipe:
            pipe.hlen(_key(self._run, "outstanding"))
            pipe.xlen(_key(self._run, "tasks"))
            pipe.xlen(_key(self._run, "results"))
            outstanding, tasks, results = pipe.execute()
        return QueueDepth(outstanding=outstanding, tasks=tasks, results=results)

    def reports(self) -> list[bytes]:
        """What the workers say of themselves; those who fell silent are forgotten."""
        with self._redis.translating():
            members = msgspec.convert(
                self._redis.commands.smembers(_key(self._run, "workers")), set[bytes]
            )
            reports = {
                worker: self._redis.commands.get(_key(self._run, f"report:{worker}"))
                for worker in sorted(member.decode() for member in members)
            }
        for worker, report in reports.items():
            if report is None:
                _forget(self._redis, self._run, worker)
        return [report for report in reports.values() if isinstance(report, bytes)]

    def duplicates(self) -> int:
        """Results that came too late or twice, at least."""
        with self._redis.translating():
            count = self._redis.commands.hget(_key(self._run, "deliveries"), "duplicate")
        return int(msgspec.convert(count, bytes | None) or 0)

    def close(self) -> None:
        """Close the connections, when no other thread is in a call."""
        self._redis.close()

    def _fenced(
        self, script: str, args: Iterable[str | bytes | int], answer: type[_Answer]
    ) -> _Answer:
        return self._redis.run(
            "fence",
            "incarnation",
            script,
            keys=self._keys(),
            args=[self._epoch, self._marker, *args],
            answer=answer,
        )

    def _keys(self) -> list[str]:
        names = ("epoch", "incarnation", "outstanding", "tasks", "results")
        return [_key(self._run, name) for name in names]

    def _refuse_eviction(self) -> None:
        with self._redis.translating():
            memory = self._redis.commands.info("memory")
        policy = msgspec.convert(memory, dict[str, object])["maxmemory_policy"]
        if policy != "noeviction":
            raise QueueMisconfigured(
                f"Redis has maxmemory-policy {policy} and would delete tasks and results when it "
                "is full: set `maxmemory-policy noeviction`"
            )


def _key(run: str, name: str) -> str:
    return f"volley:{{{run}}}:{name}"


def _forget(client: RedisClient, run: str, worker: str) -> None:
    names = ("tasks", "workers", f"report:{worker}")
    client.run("forget", keys=[_key(run, name) for name in names], args=[worker], answer=int)


def _block_ms(block_s: float) -> int:
    # BLOCK 0 would wait for ever.
    return max(1, round(min(block_s, MAX_BLOCK_S) * 1000))


def _entries(reply: object) -> _Entries:
    """Id and fields of each entry in the answer to a read of one stream."""
    streams = msgspec.convert(reply, list[tuple[bytes, _Entries]])
    return streams[0][1] if streams else []


def _flat(pairs: Iterable[tuple[int | bytes, bytes]]) -> Iterator[int | bytes]:
    for first, second in pairs:
        yield first
        yield second
