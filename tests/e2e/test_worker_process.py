"""A worker as a process: how it starts, and how it leaves when told to."""

import signal

import pytest

from tests.learner_side import LearnerSide
from tests.processes import running
from tests.waiting import wait_until
from volley.schemas.groups import FailureReason
from volley.schemas.run_spec import RewardSpec
from volley.transport.tensors import hash_bytes

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

START_S = 60.0
LEAVE_S = 15.0

HANGING = b"""
import threading

def hang(completions):
    threading.Event().wait()
"""


@pytest.fixture
def hanging_side(tmp_path, redis_url, run_name):
    """A run whose reward never returns, with one task."""
    (tmp_path / "hanging.py").write_bytes(HANGING)
    rewards = (RewardSpec("hanging:hang", 1.0, hash_bytes(HANGING)),)
    with LearnerSide(tmp_path, redis_url, run_name, rewards, code_folder=tmp_path) as side:
        side.publish(0)
        side.issue(side.task(0))
        yield side


def is_stuck_in_the_reward(side: LearnerSide) -> bool:
    # 1 from the lease on, 4 x 6 tokens at most, and nothing moves any more.
    return any(report.num_tokens and report.leases for report in side.reports())


def test_a_reward_that_hangs_does_not_keep_a_worker_from_leaving(hanging_side, tmp_path):
    with running(
        "volley.rollout", "--learner", hanging_side.url, "--device", "cpu",
        log=tmp_path / "worker.log",
    ) as worker:  # fmt: skip
        wait_until(lambda: is_stuck_in_the_reward(hanging_side), START_S)
        worker.process.send_signal(signal.SIGTERM)
        (failure,) = hanging_side.collect(1, LEAVE_S).values()
        assert failure.reason is FailureReason.HANDED_BACK
        assert worker.process.wait(LEAVE_S) == 0
    assert hanging_side.reports() == []
    assert "Traceback" not in worker.log.read_text()


def test_a_second_signal_ends_a_worker_at_once(hanging_side, tmp_path):
    with running(
        "volley.rollout", "--learner", hanging_side.url, "--device", "cpu",
        log=tmp_path / "worker.log",
    ) as worker:  # fmt: skip
        wait_until(lambda: is_stuck_in_the_reward(hanging_side), START_S)
        worker.process.send_signal(signal.SIGTERM)
        worker.process.send_signal(signal.SIGINT)
        assert worker.process.wait(LEAVE_S) in (128 + signal.SIGINT, 128 + signal.SIGTERM)
    assert hanging_side.queue.collect(block_s=0) == []
