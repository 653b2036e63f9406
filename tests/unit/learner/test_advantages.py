import math

import pytest
import torch
from torch import Tensor

from volley.learner.advantages import combine_rewards, compute_advantages

NONE = math.nan


def rewards(*groups: list[float]) -> Tensor:
    return torch.tensor(groups, dtype=torch.float64)


def test_a_reward_that_is_none_is_left_out_of_the_sum():
    assert combine_rewards((1.0, None, 3.0), (1.0, 5.0, 0.5)) == 2.5


def test_no_reward_at_all_is_none_and_not_zero():
    assert combine_rewards((None, None), (1.0, 1.0)) is None


def test_advantages_of_a_group_are_in_units_of_its_own_spread():
    result = compute_advantages(rewards([1, 0, 0, 0], [5, 5, 7, 7]), "group")
    # Mean 1/4 and deviation 1/2; mean 6 and deviation 2 / sqrt(3), both with ddof 1.
    spread = 2 / math.sqrt(3) + 1e-4
    expected = [
        [0.75 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001, -0.25 / 0.5001],
        [-1 / spread, -1 / spread, 1 / spread, 1 / spread],
    ]
    torch.testing.assert_close(result.advantages_PG, torch.tensor(expected, dtype=torch.float64))


def test_the_batch_spread_is_over_all_rewards_and_the_mean_stays_the_groups():
    result = compute_advantages(rewards([1, 0], [4, 2]), "batch")
    # Around their common mean 1.75 the squares are .5625, 3.0625, 5.0625, .0625.
    spread = math.sqrt(8.75 / 3) + 1e-4
    expected = [[0.5 / spread, -0.5 / spread], [1 / spread, -1 / spread]]
    torch.testing.assert_close(result.advantages_PG, torch.tensor(expected, dtype=torch.float64))


def test_without_scaling_advantages_are_deviations():
    result = compute_advantages(rewards([1, 0, 2]), "none")
    assert result.advantages_PG.tolist() == [[0, -1, 1]]


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_a_missing_reward_changes_nothing_for_its_siblings(scale_rewards):
    with_gap = compute_advantages(rewards([1, NONE, 0], [NONE] * 3), scale_rewards)
    without = compute_advantages(rewards([1, 0]), scale_rewards)
    assert with_gap.advantages_PG[0, [0, 2]].tolist() == without.advantages_PG[0].tolist()
    assert with_gap.advantages_PG[0, 1] == 0
    assert with_gap.valid_PG.tolist() == [[True, False, True], [False] * 3]


def test_one_valid_reward_has_nothing_to_be_compared_with():
    result = compute_advantages(rewards([1, NONE], [NONE, NONE], [1, 0]), "group")
    assert result.valid_PG.tolist() == [[False, False], [False, False], [True, True]]
    assert result.has_signal_P.tolist() == [False, False, True]
    assert result.advantages_PG[:2].tolist() == [[0, 0], [0, 0]]


@pytest.mark.parametrize("scale_rewards", ["group", "batch", "none"])
def test_equal_rewards_have_no_signal_whatever_their_mean_rounds_to(scale_rewards):
    tenths = rewards([0.1] * 3)
    assert (tenths - tenths.mean()).any()
    result = compute_advantages(tenths, scale_rewards)
    assert result.has_signal_P.tolist() == [False]
    assert result.advantages_PG.tolist() == [[0, 0, 0]]
