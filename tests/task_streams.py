"""The two streams of a worker that a test puts together itself."""

import threading
from collections.abc import Callable, Iterable, Sequence

from volley.rollout.outage import Outage
from volley.rollout.scoring import Rewarding
from volley.rollout.task_stream import TaskStream
from volley.schemas.run_spec import RunSpec
from volley.transport.redis_stream import WorkerQueue, evaluation_stream


def open_streams(
    spec: RunSpec,
    worker: str,
    rewards: Sequence[Rewarding],
    text_of: Callable[[Sequence[int]], str],
    leaving: threading.Event,
) -> list[TaskStream]:
    """The training's and the evaluation's."""
    outage = Outage("Redis")
    return [
        TaskStream.open(
            WorkerQueue(spec.redis_url, run, worker),
            worker,
            spec,
            rewards,
            text_of,
            outage,
            leaving,
        )
        for run in (spec.run, evaluation_stream(spec.run))
    ]


def close_streams(streams: Iterable[TaskStream]) -> None:
    for stream in streams:
        stream.scoring.close(timeout_s=5)
        stream.queue.close()
