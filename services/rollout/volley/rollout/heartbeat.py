"""The worker's sign of life, from a thread of its own: leases renewed, a report for people."""

import logging
import os
import socket
import threading
import time
from typing import Protocol

import msgspec

from volley.rollout.outage import Outage
from volley.rollout.task_stream import TaskStream
from volley.schemas.manifest import Manifest
from volley.schemas.status import WorkerReport
from volley.transport.redis_stream import QueueError

logger = logging.getLogger(__name__)

MAX_INTERVAL_S = 2.0
BEATS_PER_LEASE = 5
MISSED_REPORTS = 3
"""A report that was not renewed for so many intervals expires."""


class WeightsInUse(Protocol):
    """What the worker samples from, and how it came by it."""

    @property
    def serving(self) -> Manifest | None:
        """None before the first load."""

    @property
    def num_loads(self) -> int:
        """Since the start."""

    @property
    def last_load_s(self) -> float | None:
        """How long the newest of them took; None before the first."""


class Heartbeat:
    """Beats until closed; what the queue no longer knows as ours is noted in the leases."""

    def __init__(
        self,
        training: TaskStream,
        evaluation: TaskStream,
        worker: str,
        engine: str,
        device: str,
        weights: WeightsInUse,
        lease_s: float,
        redis_outage: Outage,
        leaving: threading.Event,
    ) -> None:
        """`leaving` is set when people want the worker to leave."""
        self._queue, self._leases = training.queue, training.leases
        self._streams = (training, evaluation)
        self._worker = worker
        self._engine = engine
        self._device = device
        self._weights = weights
        self._interval_s = min(lease_s / BEATS_PER_LEASE, MAX_INTERVAL_S)
        self._redis_outage = redis_outage
        self._leaving = leaving
        self._reported_at = time.monotonic()
        self._reported_tokens = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._beat_on, name="heartbeat", daemon=True)

    def start(self) -> None:
        self._thread.start()

    def close(self, timeout_s: float) -> None:
        """Stop beating; a beat that is under way may outlive `timeout_s`."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _beat_on(self) -> None:
        while not self._stopping.is_set():
            try:
                self._beat()
                self._redis_outage.worked()
            except QueueError as error:
                self._redis_outage.failed(error)
            self._stopping.wait(self._interval_s)

    def _beat(self) -> None:
        for stream in self._streams:
            progress = stream.leases.progress()
            if progress:
                stream.leases.lose(progress.keys() - stream.queue.heartbeat(progress))
        report = msgspec.json.encode(self._report())
        is_dismissed = self._queue.report(report, expires_s=MISSED_REPORTS * self._interval_s)
        if is_dismissed and not self._leaving.is_set():
            logger.info("told to leave by way of the learner")
            self._leaving.set()

    def _report(self) -> WorkerReport:
        now, num_tokens = time.monotonic(), self._leases.num_tokens
        elapsed_s = max(now - self._reported_at, 1e-9)
        tokens_per_s = (num_tokens - self._reported_tokens) / elapsed_s
        self._reported_at, self._reported_tokens = now, num_tokens
        serving = self._weights.serving
        return WorkerReport(
            worker=self._worker,
            host=socket.gethostname(),
            pid=os.getpid(),
            engine=self._engine,
            device=self._device,
            version=serving.version if serving else None,
            root=serving.root if serving else None,
            tokens_per_s=tokens_per_s,
            num_tokens=num_tokens,
            num_groups=self._leases.num_groups,
            leases=tuple(sorted(leased.task.number for leased in self._leases.held())),
            last_progress_s=self._leases.idle_s,
            num_loads=self._weights.num_loads,
            last_load_s=self._weights.last_load_s,
        )
