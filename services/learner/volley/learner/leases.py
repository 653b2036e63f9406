"""Which tasks are stuck: no progress for `lease_s` of the learner's own monotonic clock.

Redis' idle times are not used, because they also count the time Redis was away.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from volley.transport.redis_stream import HeldTask


@dataclass(frozen=True, slots=True)
class _Seen:
    progress: int
    since_s: float


class LeaseClock:
    """Remembers when each leased task last moved."""

    def __init__(self, lease_s: float) -> None:
        self._lease_s = lease_s
        self._seen: dict[str, _Seen] = {}

    def stalled(self, held_tasks: Iterable[HeldTask], now_s: float) -> list[HeldTask]:
        """Those that a worker holds and that have not moved for `lease_s` seconds at `now_s`."""
        before, self._seen, stalled = self._seen, {}, []
        for task in held_tasks:
            if task.worker is None:
                # Waiting for a worker is nobody's fault.
                continue
            seen = before.get(task.task_id)
            if seen is None or seen.progress != task.progress:
                seen = _Seen(task.progress, now_s)
            elif now_s - seen.since_s >= self._lease_s:
                stalled.append(task)
            self._seen[task.task_id] = seen
        return stalled

    def forget(self) -> None:
        """Start all leases anew, after a time in which nobody could show progress."""
        self._seen.clear()
