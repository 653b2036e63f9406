"""The queue's promises while Redis forgets, fills up, goes away or answers into the void."""

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor

import pytest

from tests.proxy import ReplyLosingProxy
from tests.waiting import wait_until
from volley.launcher.redis_server import RedisServer
from volley.schemas.status import QueueDepth
from volley.transport.redis_stream import (
    LearnerQueue,
    QueueFenced,
    QueueForgotten,
    QueueFull,
    QueueMisconfigured,
    QueueUnavailable,
    WorkerQueue,
    connect,
)

pytestmark = pytest.mark.redis

BIG_BODY = b"x" * 100_000

LEARNER_CALLS: dict[str, Callable[[LearnerQueue], object]] = {
    "issue": lambda queue: queue.issue({1: b""}),
    "collect": lambda queue: queue.collect(0.01),
    "reissue": lambda queue: queue.reissue(1, "t:1-1", b""),
    "drop": lambda queue: queue.drop([1]),
    "held_tasks": lambda queue: queue.held_tasks(),
}


@pytest.fixture(params=LEARNER_CALLS)
def learner_call(request):
    return LEARNER_CALLS[request.param]


@pytest.fixture
def raw(redis_server):
    client = connect(redis_server.url)
    yield client
    client.close()


@pytest.fixture
def learner(redis_server: RedisServer) -> Iterator[LearnerQueue]:
    """As in conftest.py, but on a server that may come to harm."""
    queue = LearnerQueue(redis_server.url, "run", epoch=1)
    queue.reconcile(range(10))
    yield queue
    queue.close()


@pytest.fixture
def worker(redis_server: RedisServer) -> Iterator[WorkerQueue]:
    queue = WorkerQueue(redis_server.url, "run", "anna")
    yield queue
    queue.close()


class LoseReplyTo:
    """Lets a proxy lose the reply to the next command that contains a word."""

    def __init__(self) -> None:
        self._word: bytes | None = None
        self.num_lost = 0

    def arm(self, word: bytes) -> None:
        self._word = word

    def __call__(self, chunk: bytes) -> bool:
        if self._word is None or self._word not in chunk:
            return False
        self._word = None
        self.num_lost += 1
        return True


# Who may act


def test_nothing_is_done_for_a_learner_that_has_not_reconciled(redis_url, run_name, learner_call):
    queue = LearnerQueue(redis_url, run_name, epoch=1)
    with pytest.raises(QueueForgotten):
        learner_call(queue)
    queue.close()


def test_nothing_is_done_for_a_learner_that_was_overtaken(redis_url, run_name, learner_call):
    first, second = (LearnerQueue(redis_url, run_name, epoch=epoch) for epoch in (1, 2))
    first.reconcile([1])
    second.reconcile([1])
    with pytest.raises(QueueFenced, match="epoch 2"):
        learner_call(first)
    with pytest.raises(QueueFenced):
        first.reconcile([1])
    assert second.depth() == QueueDepth(outstanding=0, tasks=0, results=0)
    first.close()
    second.close()


def test_a_successor_keeps_what_the_first_learner_had_issued(learner, worker, redis_server):
    learner.issue({1: b"one", 2: b"two"})
    worker.complete(worker.lease(5), b"group one")
    successor = LearnerQueue(redis_server.url, "run", epoch=2)
    assert successor.reconcile([1, 2, 3]) == {1, 2}
    assert [delivery.body for delivery in successor.collect(1)] == [b"group one"]
    successor.close()


# Redis forgets


def test_an_emptied_redis_is_noticed_by_every_call(learner, raw, learner_call):
    raw.flushall()
    with pytest.raises(QueueForgotten):
        learner_call(learner)


def test_an_emptied_redis_is_noticed_by_a_learner_that_waits(learner, raw):
    # FLUSHALL wakes no reader: the end of the slice does.
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(learner.collect, 30.0)
        wait_until(lambda: raw.info("clients")["blocked_clients"] == 1)
        raw.flushall()
        with pytest.raises(QueueForgotten):
            waiting.result(timeout=5)


def test_a_worker_outlives_an_emptied_redis(learner, worker, raw):
    learner.issue({1: b""})
    lease = worker.lease(5)
    raw.flushall()
    assert worker.heartbeat({lease.task_id: 3}) == frozenset()
    assert worker.complete(lease, b"group") is False
    assert worker.lease(block_s=0.01) is None
    worker.forget()

    assert learner.reconcile([1]) == frozenset()
    learner.issue({1: b"again"})
    assert worker.lease(5).body == b"again"


def test_a_worker_that_waits_outlives_an_emptied_redis(learner, worker, raw):
    with ThreadPoolExecutor(1) as pool:
        waiting = pool.submit(worker.lease, 0.5)
        wait_until(lambda: raw.info("clients")["blocked_clients"] == 1)
        raw.flushall()
        assert waiting.result() is None
    learner.reconcile([1])
    learner.issue({1: b"again"})
    assert worker.lease(5).body == b"again"


def test_a_restarted_redis_is_noticed_even_if_nobody_was_connected(
    learner, redis_server, learner_call
):
    redis_server.kill()
    redis_server.start()
    with pytest.raises(QueueForgotten):
        learner_call(learner)


def test_tasks_leases_and_results_survive_a_crash_of_redis(learner, worker, redis_server):
    learner.issue({1: b"one", 2: b"two", 3: b"three"})
    worker.complete(worker.lease(5), b"group one")
    lease = worker.lease(5)
    worker.heartbeat({lease.task_id: 17})
    redis_server.kill()
    redis_server.start()

    assert learner.reconcile([1, 2, 3]) == {1, 2, 3}
    held = {task.number: (task.worker, task.progress) for task in learner.held_tasks()}
    assert held == {2: ("anna", 17), 3: (None, 0)}
    assert worker.complete(lease, b"group two") is True
    assert [delivery.number for delivery in learner.collect(1)] == [1, 2]


def test_reconciling_repairs_whatever_is_out_of_step(learner, worker, raw):
    learner.issue({number: str(number).encode() for number in range(6)})
    results, tasks = "volley:{run}:results", "volley:{run}:tasks"
    completed, terminal = worker.lease(5), worker.lease(5)  # numbers 0 and 1
    worker.complete(completed, b"group 0")
    worker.complete(terminal, b"group 1")
    ids = {task.number: task.task_id for task in learner.held_tasks()}
    raw.xdel(tasks, ids[2])
    raw.xadd(tasks, {"n": 3, "body": b"points nowhere"})
    raw.xadd(results, {"n": 4, "task": "0-1", "body": b"points nowhere"})
    raw.xadd(tasks, {"n": 8, "body": b"points nowhere"})
    raw.xgroup_destroy(tasks, "workers")

    # 1 has become terminal, 5 too while it was waiting, 9 was never issued.
    assert learner.reconcile([0, 2, 3, 4, 9]) == {0, 3, 4}
    assert learner.depth() == QueueDepth(outstanding=3, tasks=2, results=1)
    assert {task.number for task in learner.held_tasks()} == {3, 4}
    assert [delivery.body for delivery in learner.collect(1)] == [b"group 0"]
    assert [worker.lease(5).body, worker.lease(5).body] == [b"3", b"4"]
    assert learner.reconcile([0, 2, 3, 4, 9]) == {0, 3, 4}


# Replies are lost


@pytest.fixture
def losing() -> LoseReplyTo:
    return LoseReplyTo()


@pytest.fixture
def far_url(redis_server, losing) -> Iterator[str]:
    with ReplyLosingProxy(redis_server.url, losing) as proxy:
        yield proxy.url


@pytest.fixture
def far_learner(far_url: str, learner: LearnerQueue) -> Iterator[LearnerQueue]:
    """Speaks through the proxy; every script it uses is known to Redis already."""
    queue = LearnerQueue(far_url, "run", epoch=1)
    queue.reconcile(range(10))
    queue.issue({9: b""})
    queue.reissue(9, "t:0-1", b"")
    queue.drop([9])
    yield queue
    queue.close()


@pytest.fixture
def far_worker(far_url: str, learner: LearnerQueue) -> Iterator[WorkerQueue]:
    queue = WorkerQueue(far_url, "run", "anna")
    yield queue
    queue.close()


def test_a_lost_reply_to_issue_leaves_one_task_per_number(far_learner, losing):
    losing.arm(b"unique body")
    far_learner.issue({1: b"unique body", 2: b""})
    assert losing.num_lost == 1
    assert far_learner.depth() == QueueDepth(outstanding=2, tasks=2, results=0)


def test_a_lost_reply_to_complete_leaves_one_result(far_learner, far_worker, losing):
    far_learner.issue({1: b"", 2: b""})
    far_worker.complete(far_worker.lease(5), b"")  # Redis knows the script now
    lease = far_worker.lease(5)
    losing.arm(b"unique body")
    assert far_worker.complete(lease, b"unique body") is True
    assert losing.num_lost == 1
    assert len(far_learner.collect(1)) == 2
    assert (far_learner.duplicates(), far_learner.depth().results) == (0, 2)


def test_a_lost_reply_to_reissue_leaves_one_task(far_learner, losing):
    far_learner.issue({1: b"attempt 1"})
    [held] = far_learner.held_tasks()
    losing.arm(b"attempt 2")
    assert far_learner.reissue(1, held.held, b"attempt 2") is False  # it has moved on already
    assert losing.num_lost == 1
    assert far_learner.depth() == QueueDepth(outstanding=1, tasks=1, results=0)


def test_a_lost_reply_to_drop_or_reconcile_does_no_harm(far_learner, losing):
    far_learner.issue({1: b"", 2: b""})
    losing.arm(b"EVALSHA")
    far_learner.drop([1])
    losing.arm(b"EVALSHA")
    assert far_learner.reconcile([2, 3]) == {2}
    assert losing.num_lost == 2
    assert far_learner.depth() == QueueDepth(outstanding=1, tasks=1, results=0)


def test_a_lost_lease_is_seen_without_progress_and_can_be_reissued(far_learner, far_worker, losing):
    far_learner.issue({1: b""})
    losing.arm(b"XREADGROUP")
    with pytest.raises(QueueUnavailable):
        far_worker.lease(5)
    [held] = far_learner.held_tasks()
    assert (held.worker, held.progress) == ("anna", 1)
    assert far_learner.reissue(1, held.held, b"again") is True
    assert far_worker.lease(5).body == b"again"


def test_collecting_after_a_lost_reply_misses_nothing(far_learner, far_worker, losing):
    far_learner.issue({1: b"", 2: b""})
    far_worker.complete(far_worker.lease(5), b"one")
    losing.arm(b"XREAD")
    with pytest.raises(QueueUnavailable):
        far_learner.collect(1)
    assert [delivery.body for delivery in far_learner.collect(1)] == [b"one"]


# Redis is full


def test_a_full_redis_takes_no_tasks_but_all_else_goes_on(learner, worker, raw):
    used = raw.info("memory")["used_memory"]
    raw.config_set("maxmemory", used + 3_000_000)
    learner.reconcile(range(1000))
    issued = 0

    def issue_until_full() -> None:
        nonlocal issued
        while True:
            learner.issue({issued: BIG_BODY})
            issued += 1

    with pytest.raises(QueueFull, match="raise maxmemory"):
        issue_until_full()
    assert issued > 10

    lease = worker.lease(5)
    assert worker.heartbeat({lease.task_id: 23}) == {lease.task_id}
    assert [task.progress for task in learner.held_tasks() if task.worker] == [23]
    assert worker.complete(lease, BIG_BODY) is True
    [delivery] = learner.collect(1)
    with pytest.raises(QueueFull):
        worker.report(b"I am anna", expires_s=60)
    assert learner.reissue(delivery.number, delivery.held, BIG_BODY) is True
    assert learner.reconcile(range(1, 1000)) == set(range(1, issued))

    learner.drop(range(1, 6))
    learner.issue({999: BIG_BODY})
    worker.report(b"I am anna", expires_s=60)


# Redis cannot be used


def test_an_evicting_redis_is_refused(learner, raw):
    raw.config_set("maxmemory-policy", "allkeys-lru")
    with pytest.raises(QueueMisconfigured, match="maxmemory-policy noeviction"):
        learner.reconcile([])


def test_an_unreachable_redis_is_named_without_its_password(redis_server):
    redis_server.stop()
    learner = LearnerQueue(redis_server.url, "run", epoch=1)
    with pytest.raises(QueueUnavailable, match=r"redis://127.0.0.1:\d+/0 cannot be") as raised:
        learner.reconcile([])
    assert redis_server.url.split("@")[0].removeprefix("redis://:") not in str(raised.value)


def test_a_wrong_password_is_a_clear_error(redis_server):
    host = redis_server.url.rpartition("@")[2]
    worker = WorkerQueue(f"redis://:wrong-one@{host}", "run", "anna")
    with pytest.raises(
        QueueMisconfigured, match=r"refused the password.*queue.redis_url"
    ) as raised:
        worker.lease(1)
    assert "wrong-one" not in str(raised.value)
    worker.close()


def test_a_url_that_is_none_is_a_clear_error():
    with pytest.raises(QueueMisconfigured, match="write it as redis://"):
        LearnerQueue("127.0.0.1:6379", "run", epoch=1)


def test_a_password_that_makes_a_url_unreadable_is_not_repeated():
    with pytest.raises(QueueMisconfigured, match="%2F for a slash") as raised:
        LearnerQueue("redis://:half/other-half@127.0.0.1:6379", "run", epoch=1)
    assert "half" not in str(raised.value)
