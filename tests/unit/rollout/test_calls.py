"""Calls that answer, raise, hang and wait."""

import asyncio
import threading

import pytest

from tests.waiting import wait_until
from volley.rollout.calls import CallFailed, Calls


@pytest.fixture
def calls():
    calls: Calls[str, object] = Calls(timeout_s=20.0)
    yield calls
    calls.close()


def take_one(calls):
    ((key, outcome),) = wait_until(lambda: calls.take(1.0))
    return key, outcome


def test_what_is_returned_comes_back_under_its_key(calls):
    calls.start("a", lambda: 1)
    assert take_one(calls) == ("a", 1)
    assert calls.take(0.0) == []


def test_what_is_raised_is_a_failure_with_its_traceback(calls):
    calls.start("a", lambda: 1 // 0)
    key, failure = take_one(calls)
    assert key == "a"
    assert isinstance(failure, CallFailed)
    assert "ZeroDivisionError" in str(failure)
    assert "in _run" not in str(failure)


def test_an_exit_is_a_failure(calls):
    calls.start("a", lambda: exit(3))
    assert isinstance(take_one(calls)[1], CallFailed)


def test_coroutines_share_one_loop(calls):
    async def loop_id() -> int:
        await asyncio.sleep(0)
        return id(asyncio.get_running_loop())

    calls.start("a", loop_id)
    calls.start("b", loop_id)
    outcomes: dict[str, object] = {}

    def both_are_back() -> bool:
        # They may come back in one go.
        outcomes.update(calls.take(1.0))
        return len(outcomes) == 2

    wait_until(both_are_back)
    assert outcomes["a"] == outcomes["b"]


def test_what_hangs_is_late_and_harms_no_other():
    calls: Calls[str, object] = Calls(timeout_s=0.2)
    never = threading.Event()
    calls.start("a", never.wait)
    assert "no answer within 0.2 s" in str(take_one(calls)[1])
    calls.start("b", lambda: 2)
    assert take_one(calls) == ("b", 2)
    never.set()
    calls.close()


def test_an_answer_after_the_deadline_is_not_heard():
    calls: Calls[str, object] = Calls(timeout_s=0.1)
    late, returned = threading.Event(), threading.Event()

    def answer() -> int:
        late.wait()
        returned.set()
        return 1

    calls.start("a", answer)
    assert isinstance(take_one(calls)[1], CallFailed)
    late.set()
    returned.wait()
    calls.start("b", lambda: 2)
    assert take_one(calls) == ("b", 2)
    calls.close()


def test_a_forgotten_call_is_not_heard_of(calls):
    calls.start("a", lambda: 1)
    calls.forget("a")
    calls.start("b", lambda: 2)
    assert take_one(calls) == ("b", 2)
