"""What a worker holds, counted by hand."""

import pytest

from volley.rollout.leases import LeasedTask, Leases
from volley.schemas.groups import SCHEMA_VERSION, Task, Version
from volley.transport.redis_stream import Lease


def make_leased(number: int) -> LeasedTask:
    task = Task(SCHEMA_VERSION, "r", number, 1, 0, Version(1, 0), "p", (3,), {})
    return LeasedTask(Lease(number, f"task-{number}", b""), task)


def test_progress_grows_with_tokens_and_rewards():
    leases = Leases()
    leases.add(make_leased(1))
    leases.add(make_leased(2))
    leases.advance({"task-1": 4})
    leases.advance({"task-1": 3, "task-2": 4})
    leases.advance_reward("task-2")
    assert leases.progress() == {"task-1": 8, "task-2": 6}
    assert leases.num_tokens == 11


def test_only_what_was_completed_counts_as_a_group():
    leases = Leases()
    for number in range(3):
        leases.add(make_leased(number))
    leases.release("task-0", completed=True)
    leases.release("task-1", completed=False)
    assert [leased.id for leased in leases.held()] == ["task-2"]
    assert leases.num_groups == 1
    leases.advance_reward("task-0")
    assert leases.progress() == {"task-2": 1}


def test_a_loss_is_told_once():
    leases = Leases()
    leases.lose({"task-1"})
    leases.lose({"task-1", "task-2"})
    assert leases.take_lost() == {"task-1", "task-2"}
    assert leases.take_lost() == set()


def test_standing_still_is_measured_from_the_last_token_or_reward():
    now = [100.0]
    leases = Leases(clock=lambda: now[0])
    leases.add(make_leased(1))
    now[0] = 103.0
    assert leases.idle_s == 3.0
    leases.advance({"task-1": 1})
    assert leases.idle_s == 0.0
    now[0] = 104.0
    leases.advance_reward("task-1")
    now[0] = 106.5
    assert leases.idle_s == 2.5


def test_scoring_is_progress_by_itself_until_the_task_is_released():
    now = [100.0]
    leases = Leases(clock=lambda: now[0])
    leases.add(make_leased(1))
    leases.add(make_leased(2))
    leases.begin_scoring("task-1")
    leases.begin_scoring("a task that was lost")
    now[0] = 100.55
    assert leases.progress() == {"task-1": 6, "task-2": 1}
    assert leases.idle_s == pytest.approx(0.55)
    leases.advance_reward("task-1")
    assert leases.progress() == {"task-1": 7, "task-2": 1}
    leases.release("task-1", completed=True)
    leases.add(make_leased(1))
    assert leases.progress() == {"task-1": 1, "task-2": 1}


def test_a_task_that_is_put_last_moves_with_the_rest_and_not_by_itself():
    leases = Leases()
    first, last = make_leased(0), make_leased(1)
    leases.add(first)
    leases.add(last)
    leases.put_last(frozenset({last.id}))
    assert leases.progress()[last.id] == leases.progress()[last.id] == 1
    leases.advance({first.id: 5})
    assert leases.progress()[last.id] == 2
    leases.begin_scoring(first.id)
    assert leases.progress()[last.id] == 3
    leases.release(first.id, completed=True)
    leases.put_last(frozenset())
    assert leases.progress()[last.id] == leases.progress()[last.id] == 4
