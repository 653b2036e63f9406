"""One stream of tasks, from the lease to the delivery: the training's, or the evaluation's."""

import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from volley.rollout.intake import Intake
from volley.rollout.leases import Leases
from volley.rollout.outage import Outage
from volley.rollout.scoring import Rewarding, Scoring
from volley.schemas.run_spec import RunSpec
from volley.transport.redis_stream import WorkerQueue


@dataclass(frozen=True, slots=True)
class TaskStream:
    """What a worker has of one stream."""

    queue: WorkerQueue
    leases: Leases
    scoring: Scoring
    intake: Intake

    @classmethod
    def open(
        cls,
        queue: WorkerQueue,
        worker: str,
        spec: RunSpec,
        rewards: Sequence[Rewarding],
        text_of: Callable[[Sequence[int]], str],
        outage: Outage,
        leaving: threading.Event,
    ) -> "TaskStream":
        """The parts of a worker that its queue belongs to."""
        leases = Leases()
        scoring = Scoring(
            *(worker, rewards, text_of, queue, leases, outage), spec.reward_limits.on_failure
        )
        intake = Intake(worker, spec, queue, scoring, outage, leaving)
        return cls(queue, leases, scoring, intake)
