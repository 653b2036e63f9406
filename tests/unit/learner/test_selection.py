from dataclasses import replace

import pytest

from tests.builders import make_group, make_trajectory
from volley.learner.ledger import Disposition
from volley.learner.selection import SelectionRules, select_sequences
from volley.schemas.groups import StopReason

RULES = SelectionRules(
    num_generations=2,
    reward_weights=(1.0,),
    scale_rewards="none",
    mask_truncated_completions=False,
    filter_without_signal=True,
)
TRAINED, FILTERED = Disposition.TRAINED, Disposition.FILTERED


def test_groups_with_a_signal_are_trained_and_the_others_filtered():
    groups = [make_group([1, 0], number=7), make_group([1, 1], number=8)]
    selection = select_sequences(groups, RULES)
    assert selection.dispositions == {7: TRAINED, 8: FILTERED}
    assert [one.advantage for one in selection.sequences] == [0.5, -0.5]
    assert selection.num_without_signal == 1


def test_a_kl_term_has_a_gradient_where_the_advantage_has_none():
    groups = [make_group([1, 1], number=8)]
    selection = select_sequences(groups, replace(RULES, filter_without_signal=False))
    assert selection.dispositions == {8: TRAINED}
    assert [one.advantage for one in selection.sequences] == [0.0, 0.0]


@pytest.mark.parametrize("filter_without_signal", [True, False])
def test_fewer_than_two_rewards_are_filtered_even_with_a_kl_term(filter_without_signal):
    groups = [make_group([1, None], number=1), make_group([None, None], number=2)]
    rules = replace(RULES, filter_without_signal=filter_without_signal)
    selection = select_sequences(groups, rules)
    assert selection.dispositions == {1: FILTERED, 2: FILTERED}
    assert selection.sequences == ()


def test_a_trajectory_without_reward_is_left_out_of_a_trained_group():
    selection = select_sequences([make_group([1, None, 0])], replace(RULES, num_generations=3))
    assert [one.advantage for one in selection.sequences] == [0.5, -0.5]
    assert selection.rewards == (1.0, None, 0.0)


def test_reward_functions_are_weighed():
    trajectories = [make_trajectory([1.0, 4.0]), make_trajectory([2.0, None])]
    rules = replace(RULES, reward_weights=(1.0, 0.5))
    selection = select_sequences([make_group(trajectories=trajectories)], rules)
    assert selection.rewards == (3.0, 2.0)


def test_inserted_tokens_are_not_trained():
    multi_turn = make_trajectory([1], token_ids=[4, 5, 6, 7, 8], inserted=[(1, 3), (4, 5)])
    group = make_group(trajectories=[multi_turn, make_trajectory([0])])
    [sequence, _] = select_sequences([group], RULES).sequences
    assert sequence.trained == (True, False, False, True, False)
    assert sequence.completion_ids == (4, 5, 6, 7, 8)
    assert sequence.num_trained_tokens == 2


def test_a_completion_that_the_policy_had_no_part_in_is_left_out():
    silent = make_trajectory([1], token_ids=[4, 5], inserted=[(0, 2)])
    group = make_group(trajectories=[silent, make_trajectory([0])])
    [sequence] = select_sequences([group], RULES).sequences
    assert sequence.advantage == -0.5


def test_masked_truncated_completions_still_count_in_the_mean_of_their_group():
    trajectories = [
        make_trajectory([1], stop_reason=StopReason.LENGTH),
        make_trajectory([0]),
    ]
    groups = [make_group(trajectories=trajectories)]
    masked = select_sequences(groups, replace(RULES, mask_truncated_completions=True))
    assert [one.advantage for one in masked.sequences] == [-0.5]
    assert masked.trajectories == (trajectories[1],)
    assert len(select_sequences(groups, RULES).sequences) == 2


def test_a_group_of_nothing_but_masked_completions_is_filtered():
    trajectories = [make_trajectory([r], stop_reason=StopReason.LENGTH) for r in (1, 0)]
    groups = [make_group(trajectories=trajectories, number=3)]
    selection = select_sequences(groups, replace(RULES, mask_truncated_completions=True))
    assert selection.dispositions == {3: FILTERED}


def test_no_groups_are_no_sequences():
    selection = select_sequences([], RULES)
    assert (selection.sequences, selection.dispositions) == ((), {})
