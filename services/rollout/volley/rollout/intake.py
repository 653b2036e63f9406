"""Tasks from the queue, decoded; a Redis that is away is asked again after a pause."""

import threading
import time

from volley.rollout.leases import LeasedTask
from volley.rollout.outage import Outage
from volley.rollout.scoring import Scoring
from volley.schemas.codec import InvalidMessage, decode_task
from volley.schemas.groups import SCHEMA_VERSION, Failure, FailureReason
from volley.schemas.run_spec import RunSpec
from volley.transport.redis_stream import Lease, QueueError, QueueMisconfigured, WorkerQueue

PAUSE_S = 1.0
TASKS_AT_ONCE = 4
"""A lease makes Redis write to its disk, so some share one; more would starve other workers."""


class Intake:
    """Takes a few tasks at a time; what is no task is answered with a failure."""

    def __init__(
        self,
        worker: str,
        spec: RunSpec,
        queue: WorkerQueue,
        scoring: Scoring,
        redis_outage: Outage,
        leaving: threading.Event,
    ) -> None:
        self._worker = worker
        self._spec = spec
        self._queue = queue
        self._scoring = scoring
        self._redis_outage = redis_outage
        self._leaving = leaving
        self._ask_again_at = 0.0

    def take(self, limit: int, block_s: float) -> list[LeasedTask]:
        """Some tasks, at most `limit`, or none if none came within `block_s`.

        Raises QueueMisconfigured; a Redis that is away has no tasks.
        """
        pause_s = self._ask_again_at - time.monotonic()
        if pause_s > 0:
            self._leaving.wait(min(pause_s, block_s))
            return []
        try:
            leases = self._queue.lease_some(min(limit, TASKS_AT_ONCE), block_s)
        except QueueMisconfigured:
            raise
        except QueueError as error:
            self._redis_outage.failed(error)
            self._ask_again_at = time.monotonic() + PAUSE_S
            return []
        self._redis_outage.worked()
        return [leased for lease in leases if (leased := self._read(lease))]

    def _read(self, lease: Lease) -> LeasedTask | None:
        try:
            return LeasedTask(lease, decode_task(lease.body, self._spec.max_body_bytes))
        except InvalidMessage as error:
            failure = Failure(
                SCHEMA_VERSION,
                self._spec.run,
                number=lease.number,
                attempt=0,
                worker=self._worker,
                reason=FailureReason.PROMPT,
                detail=f"the task cannot be read: {error}",
            )
            self._scoring.submit_failure(lease, failure)
            return None
