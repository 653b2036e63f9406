from volley.learner.leases import LeaseClock
from volley.transport.redis_stream import HeldTask


def task(progress: int, task_id: str = "1-0") -> HeldTask:
    return HeldTask(number=7, task_id=task_id, worker="w", progress=progress)


def test_a_task_without_progress_is_stalled_after_the_lease():
    clock = LeaseClock(lease_s=10)
    assert clock.stalled([task(1)], 100) == []
    assert clock.stalled([task(1)], 109) == []
    assert clock.stalled([task(1)], 110) == [task(1)]


def test_progress_renews_the_lease():
    clock = LeaseClock(lease_s=10)
    clock.stalled([task(1)], 100)
    assert clock.stalled([task(2)], 109) == []
    assert clock.stalled([task(2)], 118) == []
    assert clock.stalled([task(2)], 119) == [task(2)]


def test_a_reissued_task_starts_anew():
    clock = LeaseClock(lease_s=10)
    clock.stalled([task(1)], 100)
    assert clock.stalled([task(1, "2-0")], 110) == []


def test_time_without_redis_does_not_count():
    clock = LeaseClock(lease_s=10)
    clock.stalled([task(1)], 100)
    clock.forget()
    assert clock.stalled([task(1)], 500) == []


def test_a_task_that_waits_for_a_worker_never_stalls():
    clock = LeaseClock(lease_s=10)
    waiting = HeldTask(number=7, task_id="1-0", worker=None, progress=0)
    assert clock.stalled([waiting], 100) == []
    assert clock.stalled([waiting], 500) == []
