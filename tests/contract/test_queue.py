"""The queue's promises while nothing is lost, against a real Redis."""

import random
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.waiting import wait_until
from volley.schemas.status import QueueDepth
from volley.transport.redis_stream import LearnerQueue, Lease, WorkerQueue, connect

pytestmark = pytest.mark.redis

EMPTY = QueueDepth(outstanding=0, tasks=0, results=0)


@pytest.fixture
def raw(redis_url):
    client = connect(redis_url)
    yield client
    client.close()


def take(worker: WorkerQueue) -> Lease:
    lease = worker.lease(block_s=5)
    assert lease is not None
    return lease


def test_a_number_travels_from_task_to_result_and_leaves_nothing(learner, worker):
    learner.issue({7: b"task seven"})
    assert learner.depth() == QueueDepth(outstanding=1, tasks=1, results=0)

    lease = take(worker)
    assert (lease.number, lease.body) == (7, b"task seven")
    assert worker.complete(lease, b"group seven") is True
    assert learner.depth() == QueueDepth(outstanding=1, tasks=0, results=1)

    [delivery] = learner.collect(block_s=1)
    assert (delivery.number, delivery.body) == (7, b"group seven")
    learner.drop([7])
    assert learner.depth() == EMPTY
    assert learner.duplicates() == 0


def test_bodies_are_opaque_bytes(learner, worker):
    task, result = bytes(range(256)), random.Random(0).randbytes(1 << 20)
    learner.issue({1: task})
    lease = take(worker)
    worker.complete(lease, result)
    [delivery] = learner.collect(block_s=1)
    assert (lease.body, delivery.body) == (task, result)


def test_issuing_an_outstanding_number_again_changes_nothing(learner, worker):
    learner.issue({1: b"first"})
    learner.issue({1: b"second", 2: b"two"})
    assert [take(worker).body, take(worker).body] == [b"first", b"two"]
    assert worker.lease(block_s=0.01) is None


def test_a_batch_wakes_every_waiting_worker(learner, worker, other_worker):
    with ThreadPoolExecutor(2) as pool:
        waiting = [pool.submit(each.lease, 5.0) for each in (worker, other_worker)]
        learner.issue({1: b"", 2: b""})
        leases = [future.result() for future in waiting]
    assert sorted(lease.number for lease in leases if lease) == [1, 2]


def test_a_heartbeat_shows_progress_and_who_holds_what(learner, worker):
    learner.issue({1: b"", 2: b""})
    lease = take(worker)
    first, second = sorted(learner.held_tasks(), key=lambda task: task.number)
    assert (first.task_id, first.worker, first.progress) == (lease.task_id, "anna", 1)
    assert (second.worker, second.progress) == (None, 0)

    assert worker.heartbeat({lease.task_id: 417}) == {lease.task_id}
    [leased] = [task for task in learner.held_tasks() if task.worker]
    assert (leased.number, leased.progress) == (1, 417)


def test_a_heartbeat_cannot_take_a_task_from_its_worker(learner, worker, other_worker):
    learner.issue({1: b"", 2: b""})
    lease = take(worker)
    waiting = next(task.task_id for task in learner.held_tasks() if task.worker is None)
    assert other_worker.heartbeat({lease.task_id: 99, waiting: 99}) == frozenset()
    holders = {task.number: (task.worker, task.progress) for task in learner.held_tasks()}
    assert holders == {1: ("anna", 1), 2: (None, 0)}


def test_a_reissued_task_is_gone_for_the_worker_that_lost_it(learner, worker, other_worker):
    learner.issue({1: b"attempt 1"})
    lost = take(worker)
    [held] = learner.held_tasks()
    assert learner.reissue(1, held.held, b"attempt 2") is True

    assert worker.heartbeat({lost.task_id: 5}) == frozenset()
    assert worker.complete(lost, b"too late") is False
    assert learner.duplicates() == 1

    again = take(other_worker)
    assert again.body == b"attempt 2"
    assert other_worker.complete(again, b"in time") is True
    assert [delivery.body for delivery in learner.collect(block_s=1)] == [b"in time"]


def test_a_failure_is_reissued_like_a_lost_task(learner, worker):
    learner.issue({1: b"attempt 1"})
    worker.complete(take(worker), b"reward raised")
    [failure] = learner.collect(block_s=1)
    assert learner.reissue(1, failure.held, b"attempt 2") is True
    assert learner.depth() == QueueDepth(outstanding=1, tasks=1, results=0)
    assert take(worker).body == b"attempt 2"


def test_a_reissue_comes_too_late_when_the_number_has_moved_on(learner, worker):
    learner.issue({1: b""})
    lease = take(worker)
    [held] = learner.held_tasks()
    worker.complete(lease, b"just in time")
    assert learner.reissue(1, held.held, b"needless") is False
    assert learner.depth() == QueueDepth(outstanding=1, tasks=0, results=1)
    learner.drop([1])
    assert learner.reissue(1, held.held, b"needless") is False
    assert learner.depth() == EMPTY


def test_completing_twice_leaves_one_result_and_is_no_duplicate(learner, worker):
    learner.issue({1: b""})
    lease = take(worker)
    assert worker.complete(lease, b"group") is True
    assert worker.complete(lease, b"group") is True
    assert len(learner.collect(block_s=1)) == 1
    assert (learner.duplicates(), learner.depth().results) == (0, 1)


def test_a_result_for_a_dropped_number_is_a_duplicate(learner, worker):
    learner.issue({1: b""})
    lease = take(worker)
    learner.drop([1])
    assert worker.complete(lease, b"group") is False
    assert learner.depth() == EMPTY
    assert learner.duplicates() == 1


def test_dropping_removes_tasks_leases_and_results_alike(learner, worker):
    learner.issue({1: b"", 2: b"", 3: b"", 4: b""})
    leased, completed = take(worker), take(worker)
    worker.complete(completed, b"group")
    learner.drop([1, 2, 3, 99])
    learner.drop([1, 2, 3])
    assert worker.heartbeat({leased.task_id: 1}) == frozenset()
    assert [task.number for task in learner.held_tasks()] == [4]
    assert learner.depth() == QueueDepth(outstanding=1, tasks=1, results=0)


def test_results_nobody_waits_for_are_deleted(learner, worker, raw, run_name):
    learner.issue({1: b""})
    results = f"volley:{{{run_name}}}:results"
    raw.xadd(results, {"n": 1, "task": "0-1", "body": b"stray"})
    raw.xadd(results, {"n": 2, "task": "0-2", "body": b"stray"})
    worker.complete(take(worker), b"group")
    assert [delivery.body for delivery in learner.collect(block_s=1)] == [b"group"]
    assert raw.xlen(results) == 1


def test_results_are_collected_once_until_the_next_reconcile(learner, worker):
    learner.issue({1: b"", 2: b""})
    worker.complete(take(worker), b"one")
    [first] = learner.collect(block_s=1)
    worker.complete(take(worker), b"two")
    [second] = learner.collect(block_s=1)
    assert learner.collect(block_s=0.01) == []
    assert learner.reconcile([1, 2]) == {1, 2}
    assert learner.collect(block_s=1) == [first, second]


def test_many_results_are_collected_in_slices_in_their_order(learner, worker):
    numbers = list(range(100, 300))
    learner.issue(dict.fromkeys(numbers, b""))
    for _ in numbers:
        worker.complete(take(worker), b"group")
    collected: list[int] = []
    while len(collected) < len(numbers):
        part = learner.collect(block_s=1)
        assert part
        collected += [delivery.number for delivery in part]
    assert collected == numbers


def test_the_learner_waits_for_a_result_without_polling(learner, worker):
    learner.issue({1: b""})
    lease = take(worker)
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(learner.collect, 1.0)
        worker.complete(lease, b"group")
        assert [delivery.number for delivery in waiting.result()] == [1]


def test_reports_are_seen_until_they_expire(learner, worker, other_worker, raw, run_name):
    worker.report(b"I am anna", expires_s=60)
    other_worker.report(b"I am bert", expires_s=0.05)
    wait_until(lambda: learner.reports() == [b"I am anna"])
    assert raw.smembers(f"volley:{{{run_name}}}:workers") == {b"anna"}


def test_a_worker_hears_with_its_report_that_it_is_to_leave(learner, worker, other_worker):
    assert not worker.report(b"I am anna", expires_s=60)
    learner.dismiss("anna")
    assert worker.report(b"I am anna", expires_s=60)
    assert not other_worker.report(b"I am bert", expires_s=60)


def test_a_worker_that_leaves_is_forgotten(learner, worker, raw, run_name):
    worker.report(b"I am anna", expires_s=60)
    learner.issue({1: b""})
    worker.complete(take(worker), b"group")
    worker.forget()
    worker.forget()
    assert learner.reports() == []
    assert raw.xinfo_consumers(f"volley:{{{run_name}}}:tasks", "workers") == []


def test_a_worker_that_leaves_its_lease_behind_still_counts_as_its_holder(learner, worker):
    learner.issue({1: b""})
    lease = take(worker)
    worker.forget()
    [held] = learner.held_tasks()
    assert (held.task_id, held.worker) == (lease.task_id, "anna")


def test_runs_do_not_see_each_other(learner, worker, redis_url, run_name):
    stranger = LearnerQueue(redis_url, run_name + "x", epoch=9)
    stranger.reconcile([1])
    learner.issue({1: b"mine"})
    stranger.issue({1: b"theirs"})
    assert take(worker).body == b"mine"
    assert worker.lease(block_s=0.01) is None
    assert [task.worker for task in stranger.held_tasks()] == [None]
    stranger.close()


def test_the_run_has_the_documented_keys_and_only_reports_expire(learner, worker, raw, run_name):
    worker.report(b"I am anna", expires_s=60)
    learner.issue({1: b"", 2: b"", 3: b""})
    late = take(worker)
    learner.drop([late.number])
    worker.complete(late, b"late")
    worker.complete(take(worker), b"group")

    start = f"volley:{{{run_name}}}:"
    keys = {key.decode().removeprefix(start): key for key in raw.scan_iter(match=start + "*")}
    types = {name: raw.type(key).decode() for name, key in keys.items()}
    assert types == {
        "outstanding": "hash",
        "tasks": "stream",
        "results": "stream",
        "epoch": "string",
        "incarnation": "string",
        "deliveries": "hash",
        "workers": "set",
        "report:anna": "string",
    }
    assert [name for name, key in keys.items() if raw.ttl(key) != -1] == ["report:anna"]
