from typing import Literal

import pytest

from volley.learner.schedule import ScheduleRules, learning_rate_at


def rates(
    shape: Literal["constant", "linear", "cosine"],
    *,
    warmup_steps: int = 0,
    min_lr_rate: float = 0.0,
) -> list[float]:
    """The rates of a run of eight steps."""
    rules = ScheduleRules(1.0, shape, warmup_steps, 8, min_lr_rate)
    return [learning_rate_at(step, rules) for step in range(8)]


def test_a_constant_rate_stays():
    assert rates("constant") == [1.0] * 8


def test_the_warm_up_climbs_in_even_steps_and_never_starts_at_zero():
    assert rates("constant", warmup_steps=3) == [0.25, 0.5, 0.75, 1, 1, 1, 1, 1]


def test_the_linear_decay_starts_after_the_warm_up_and_leaves_the_last_step_something():
    expected = [1 / 5, 2 / 5, 3 / 5, 4 / 5, 1, 0.75, 0.5, 0.25]
    assert rates("linear", warmup_steps=4) == pytest.approx(expected)


def test_the_cosine_is_half_way_in_the_middle():
    assert rates("cosine", min_lr_rate=0.2)[4] == pytest.approx(0.6)


@pytest.mark.parametrize("shape", ["linear", "cosine"])
def test_steps_beyond_the_last_keep_the_lowest_rate(shape):
    rules = ScheduleRules(2.0, shape, 0, 8, 0.1)
    assert learning_rate_at(8, rules) == pytest.approx(0.2)
    assert learning_rate_at(100, rules) == pytest.approx(0.2)
