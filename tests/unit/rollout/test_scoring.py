"""What is sent for a sample whose rewards did not all come."""

import pytest

from volley.rollout.rewards import RewardFailed, Score
from volley.rollout.scoring import settle

FAILED = RewardFailed("no")


@pytest.mark.parametrize(
    ("scores", "on_failure", "rewards"),
    [
        ((1.0, None), None, (1.0, None)),
        ((1.0, None), 0.0, (1.0, None)),
        ((1.0, FAILED), None, (None, None)),
        ((1.0, FAILED, None), -1.0, (1.0, -1.0, None)),
        ((FAILED,), 0.0, (0.0,)),
        ((), None, ()),
    ],
)
def test_a_sample_with_a_failure_is_left_out_or_given_a_reward_of_its_own(
    scores: tuple[Score, ...], on_failure: float | None, rewards: tuple[float | None, ...]
):
    assert settle(scores, on_failure) == rewards
