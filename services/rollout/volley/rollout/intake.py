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


class Intake:
    """Takes one task at a time; what is no task is answered with a failure."""

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

    def take(self, block_s: float) -> LeasedTask | None:
        """The next task, or None when none came within `block_s`; raises QueueMisconfigured."""
        pause_s = self._ask_again_at - time.monotonic()
        if pause_s > 0:
            self._leaving.wait(min(pause_s, block_s))
            return None
        try:
            lease = self._queue.lease(block_s)
        except QueueMisconfigured:
            raise
        except QueueError as error:
            self._redis_outage.failed(error)
            self._ask_again_at = time.monotonic() + PAUSE_S
            return None
        self._redis_outage.worked()
        return self._read(lease) if lease else None

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
