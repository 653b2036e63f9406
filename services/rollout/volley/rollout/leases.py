"""The tasks that this worker holds and what becomes of them, shared between its threads."""

import threading
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass

from volley.schemas.groups import Task
from volley.transport.redis_stream import Lease

TICK_S = 0.1
"""Of scoring counts as one more step of progress."""


@dataclass(frozen=True, slots=True)
class LeasedTask:
    """A task in hand, decoded."""

    lease: Lease
    task: Task

    @property
    def id(self) -> str:
        return self.lease.task_id


class Leases:
    """Who holds what: the loop adds, the heartbeat reads and reports losses, results remove."""

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._lock = threading.Lock()
        self._tasks: dict[str, LeasedTask] = {}
        self._progress: dict[str, int] = {}
        self._scored_since: dict[str, float] = {}
        self._waiting: frozenset[str] = frozenset()
        self._last: frozenset[str] = frozenset()
        self._lost: set[str] = set()
        self._num_tokens = 0
        self._num_groups = 0
        self._progressed_at = clock()

    def add(self, leased: LeasedTask) -> None:
        with self._lock:
            self._tasks[leased.id] = leased
            # As the queue counts it: 1 from the lease on.
            self._progress[leased.id] = 1

    def advance(self, num_tokens: Mapping[str, int]) -> None:
        """Count sampled tokens, by task id."""
        with self._lock:
            for task_id, num_sampled in num_tokens.items():
                self._progress[task_id] += num_sampled
            self._num_tokens += sum(num_tokens.values())
            self._touch()

    def wait(self, task_ids: frozenset[str]) -> None:
        """Of these an answer of an environment is awaited, and of no others."""
        with self._lock:
            self._waiting = task_ids

    def put_last(self, task_ids: frozenset[str]) -> None:
        """These, and no others, begin when the rest is done: they move whenever the rest does."""
        with self._lock:
            self._last = task_ids

    def begin_scoring(self, task_id: str) -> None:
        """From now on its progress grows with time: rewards have deadlines of their own."""
        with self._lock:
            if task_id in self._tasks:
                self._scored_since[task_id] = self._clock()

    def advance_reward(self, task_id: str) -> None:
        """Count a reward function that returned; the task may be lost by now."""
        with self._lock:
            if task_id in self._progress:
                self._progress[task_id] += 1
            self._touch()

    def release(self, task_id: str, completed: bool) -> None:
        """Hold a task no longer, because it is `completed` or because others have it."""
        with self._lock:
            self._tasks.pop(task_id, None)
            self._progress.pop(task_id, None)
            self._scored_since.pop(task_id, None)
            self._num_groups += completed
            self._touch()

    def lose(self, task_ids: Iterable[str]) -> None:
        """Note that the queue no longer knows these as ours."""
        with self._lock:
            self._lost.update(task_ids)

    def take_lost(self) -> set[str]:
        """What was lost since the last call; some may be completed by now."""
        with self._lock:
            lost, self._lost = self._lost, set()
        return lost

    def held(self) -> tuple[LeasedTask, ...]:
        with self._lock:
            return tuple(self._tasks.values())

    def progress(self) -> dict[str, int]:
        """A counter per task id that grows with tokens, rewards and the time spent on them.

        And with every look, while an environment is awaited: its answers have a deadline.
        """
        with self._lock:
            self._count(self._waiting)
            if self._scored_since:
                self._count(self._last)
            now = self._clock()
            return {
                task_id: count + int((now - self._scored_since.get(task_id, now)) / TICK_S)
                for task_id, count in self._progress.items()
            }

    @property
    def num_tokens(self) -> int:
        """Sampled since the start."""
        return self._num_tokens

    @property
    def num_groups(self) -> int:
        """Completed since the start."""
        return self._num_groups

    @property
    def idle_s(self) -> float:
        """Since anything moved."""
        return self._clock() - self._progressed_at

    def _touch(self) -> None:
        self._progressed_at = self._clock()
        self._count(self._last)

    def _count(self, task_ids: frozenset[str]) -> None:
        for task_id in task_ids & self._progress.keys():
            self._progress[task_id] += 1
