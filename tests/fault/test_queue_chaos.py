"""Zero lost, zero twice, whatever dies; and the tempting wrong protocols fail the same audit.

A longer run: CHAOS_SCALE=20 pytest tests/fault/test_queue_chaos.py
"""

import os

import pytest

from tests.fault.chaos import CLEAN, Chaos, run_chaos

SCALE = int(os.environ.get("CHAOS_SCALE", "1"))
SEED = int(os.environ.get("CHAOS_SEED", "0"))

pytestmark = [pytest.mark.redis, pytest.mark.timeout(300 * SCALE)]


def test_every_number_is_trained_exactly_once_whatever_dies(redis_server, tmp_path):
    chaos = Chaos(
        num_groups=3000 * SCALE,
        learner_deaths=8 * SCALE,
        worker_kills=24 * SCALE,
        redis_kills=6 * SCALE,
        flushalls=4 * SCALE,
        lost_reply_share=0.002,
        seed=SEED,
    )
    assert run_chaos(chaos, redis_server, tmp_path) == CLEAN


def learners_dying_under(protocol: str) -> Chaos:
    return Chaos(num_groups=600, learner_deaths=8, seed=SEED, protocol=protocol)


def test_dying_learners_alone_do_the_right_protocol_no_harm(redis_server, tmp_path):
    assert run_chaos(learners_dying_under("Learner"), redis_server, tmp_path) == CLEAN


def test_dropping_before_logging_loses_groups(redis_server, tmp_path):
    found = run_chaos(learners_dying_under("DropsBeforeItLogs"), redis_server, tmp_path)
    assert found.lost
    assert not found.twice


def test_training_without_a_look_at_the_ledger_trains_twice(redis_server, tmp_path):
    found = run_chaos(learners_dying_under("TrainsWhatItIsGiven"), redis_server, tmp_path)
    assert found.twice
    assert not found.lost
