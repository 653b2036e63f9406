"""Both ends of one run's queue."""

from collections.abc import Iterator

import pytest

from volley.transport.redis_stream import LearnerQueue, WorkerQueue


@pytest.fixture
def learner(redis_url: str, run_name: str) -> Iterator[LearnerQueue]:
    """A learner that has reconciled with the numbers 0 to 9 open."""
    queue = LearnerQueue(redis_url, run_name, epoch=1)
    queue.reconcile(range(10))
    yield queue
    queue.close()


@pytest.fixture
def worker(redis_url: str, run_name: str) -> Iterator[WorkerQueue]:
    queue = WorkerQueue(redis_url, run_name, "anna")
    yield queue
    queue.close()


@pytest.fixture
def other_worker(redis_url: str, run_name: str) -> Iterator[WorkerQueue]:
    queue = WorkerQueue(redis_url, run_name, "bert")
    yield queue
    queue.close()
