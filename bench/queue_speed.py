"""How fast groups pass through the queue, against bare appends of the same bytes.

    python bench/queue_speed.py [--json]

Every acknowledged write is on disk (appendfsync always) in both cases. A group makes the whole
way: issue, lease, complete, collect, drop.
"""

import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from measuring.report import report
from measuring.table import Comparison

from volley.launcher.redis_server import RedisServer
from volley.transport.redis_stream import LearnerQueue, WorkerQueue, connect

NUM_GROUPS = 2000
BODY = b"x" * 28_000
"""A group of 8 x 1024 tokens."""
NUM_PRODUCERS = 8
PLACES = 256


def appends_per_s(url: str) -> float:
    """Appends a second by NUM_PRODUCERS producers that wait for each reply."""
    client = connect(url)

    def append(_: int) -> None:
        client.xadd("bare", {"body": BODY})

    start_s = time.monotonic()
    with ThreadPoolExecutor(NUM_PRODUCERS) as pool:
        list(pool.map(append, range(NUM_GROUPS)))
    elapsed_s = time.monotonic() - start_s
    client.delete("bare")
    client.close()
    return NUM_GROUPS / elapsed_s


def groups_per_s(url: str) -> float:
    """Groups a second from issue to drop, with NUM_PRODUCERS workers."""
    learner = LearnerQueue(url, "bench", epoch=1)
    learner.reconcile([])
    start_s = time.monotonic()
    with ThreadPoolExecutor(NUM_PRODUCERS) as pool:
        working = [pool.submit(_complete_all, url, f"worker-{n}") for n in range(NUM_PRODUCERS)]
        _drain(learner)
        elapsed_s = time.monotonic() - start_s
        for each in working:
            each.result()
    learner.close()
    return NUM_GROUPS / elapsed_s


def _drain(learner: LearnerQueue) -> None:
    learner.issue(dict.fromkeys(range(PLACES), b""))
    num_issued, num_dropped = PLACES, 0
    while num_dropped < NUM_GROUPS:
        numbers = [delivery.number for delivery in learner.collect(1.0)]
        learner.drop(numbers)
        num_dropped += len(numbers)
        until = min(num_issued + len(numbers), NUM_GROUPS)
        learner.issue(dict.fromkeys(range(num_issued, until), b""))
        num_issued = until


def _complete_all(url: str, name: str) -> None:
    """Complete tasks until there have been none for a second."""
    worker = WorkerQueue(url, "bench", name)
    while (lease := worker.lease(1.0)) is not None:
        worker.complete(lease, BODY)
    worker.close()


def main() -> None:
    with tempfile.TemporaryDirectory() as folder, RedisServer(Path(folder)) as server:
        appends = appends_per_s(server.url)
        groups = groups_per_s(server.url)
    report(
        [Comparison("groups, from issue to drop", "groups/s", groups, "bare appends", appends)],
        {"body_bytes": len(BODY), "producers": NUM_PRODUCERS},
    )


if __name__ == "__main__":
    main()
