"""The queue as the learner sees it: issue, collect, drop. See redis_stream for the whole."""

import threading
import uuid
from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import TypeVar

import msgspec

from volley.schemas.status import QueueDepth
from volley.transport.redis_client import (
    QueueMisconfigured,
    RedisClient,
    block_ms,
    entries_of,
    run_key,
)
from volley.transport.worker_queue import forget_worker

MAX_COLLECTED = 64
"""Results taken in one go."""
COLLECT_SLICE_S = 1.0
"""Longest wait for results in one go: a FLUSHALL wakes no reader, so the marker is looked at."""
DISMISSED_S = 600
"""A worker that does not report for so long is gone anyway."""

_Answer = TypeVar("_Answer")


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


class LearnerQueue:
    """The queue as the one learner of `epoch` sees it; any thread may use it.

    Its steps raise QueueForgotten until `reconcile`, and again when Redis was emptied, restarted
    or failed over: it may then have lost what it was given. They raise QueueFenced once a learner
    with a higher epoch has reconciled. `depth`, `reports` and `duplicates` only look.
    """

    def __init__(self, url: str, run: str, epoch: int) -> None:
        self._redis = RedisClient(url)
        self._run = run
        self._epoch = epoch
        self._marker = ""
        self._cursor = "0-0"
        # collect moves the cursor, reconcile puts it back: never both at once.
        self._reading = threading.Lock()

    @classmethod
    def claim(cls, url: str, run: str, known: int) -> "LearnerQueue":
        """The queue under an epoch above `known` and above all that Redis has seen of this run.

        Who acts under an older one is fenced from now on.
        """
        queue = cls(url, run, known)
        try:
            queue._epoch = queue._redis.run(
                "claim", keys=[run_key(run, "epoch")], args=[known], answer=int
            )
        except BaseException:
            queue.close()
            raise
        return queue

    @property
    def epoch(self) -> int:
        """Under which this learner acts."""
        return self._epoch

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
                    {run_key(self._run, "results"): self._cursor},
                    count=MAX_COLLECTED,
                    block=block_ms(min(block_s, COLLECT_SLICE_S)),
                )
            entries = entries_of(reply)
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
            pipe.hlen(run_key(self._run, "outstanding"))
            pipe.xlen(run_key(self._run, "tasks"))
            pipe.xlen(run_key(self._run, "results"))
            outstanding, tasks, results = pipe.execute()
        return QueueDepth(outstanding=outstanding, tasks=tasks, results=results)

    def reports(self) -> list[bytes]:
        """What the workers say of themselves; those who fell silent are forgotten."""
        with self._redis.translating():
            members = msgspec.convert(
                self._redis.commands.smembers(run_key(self._run, "workers")), set[bytes]
            )
            reports = {
                worker: self._redis.commands.get(run_key(self._run, f"report:{worker}"))
                for worker in sorted(member.decode() for member in members)
            }
        for worker, report in reports.items():
            if report is None:
                forget_worker(self._redis, self._run, worker)
        return [report for report in reports.values() if isinstance(report, bytes)]

    def dismiss(self, worker: str) -> None:
        """Let a worker leave when it reports next, in DISMISSED_S at the latest."""
        with self._redis.translating():
            self._redis.commands.set(run_key(self._run, f"dismissed:{worker}"), b"", ex=DISMISSED_S)

    def duplicates(self) -> int:
        """Results that came too late or twice, at least."""
        with self._redis.translating():
            count = self._redis.commands.hget(run_key(self._run, "deliveries"), "duplicate")
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
        return [run_key(self._run, name) for name in names]

    def _refuse_eviction(self) -> None:
        with self._redis.translating():
            memory = self._redis.commands.info("memory")
        policy = msgspec.convert(memory, dict[str, object])["maxmemory_policy"]
        if policy != "noeviction":
            raise QueueMisconfigured(
                f"Redis has maxmemory-policy {policy} and would delete tasks and results when it "
                "is full: set `maxmemory-policy noeviction`"
            )


def _flat(pairs: Iterable[tuple[int | bytes, bytes]]) -> Iterator[int | bytes]:
    for first, second in pairs:
        yield first
        yield second
