from dataclasses import replace

import pytest

from tests.builders import make_group, make_trajectory
from volley.learner.ledger import Disposition
from volley.learner.lengths import Completion, Fate
from volley.learner.overlong import OverlongRules
from volley.learner.selection import SelectionRules, select_sequences
from volley.schemas.groups import StopReason, Version

RULES = SelectionRules(
    num_generations=2,
    reward_weights=(1.0,),
    scale_rewards="none",
    mask_truncated_completions=False,
    filter_without_signal=True,
    overlong=OverlongRules(max_completion_length=8),
)
HEAD = Version(1, 5)
TRAINED, FILTERED = Disposition.TRAINED, Disposition.FILTERED


def test_groups_with_a_signal_are_trained_and_the_others_filtered():
    groups = [make_group([1, 0], number=7), make_group([1, 1], number=8)]
    selection = select_sequences(groups, HEAD, RULES)
    assert selection.dispositions == {7: TRAINED, 8: FILTERED}
    assert [one.advantage for one in selection.sequences] == [0.5, -0.5]
    assert selection.num_without_signal == 1


def test_a_kl_term_has_a_gradient_where_the_advantage_has_none():
    groups = [make_group([1, 1], number=8)]
    selection = select_sequences(groups, HEAD, replace(RULES, filter_without_signal=False))
    assert selection.dispositions == {8: TRAINED}
    assert [one.advantage for one in selection.sequences] == [0.0, 0.0]


@pytest.mark.parametrize("filter_without_signal", [True, False])
def test_fewer_than_two_rewards_are_filtered_even_with_a_kl_term(filter_without_signal):
    groups = [make_group([1, None], number=1), make_group([None, None], number=2)]
    rules = replace(RULES, filter_without_signal=filter_without_signal)
    selection = select_sequences(groups, HEAD, rules)
    assert selection.dispositions == {1: FILTERED, 2: FILTERED}
    assert selection.sequences == ()


def test_a_trajectory_without_reward_is_left_out_of_a_trained_group():
    selection = select_sequences(
        [make_group([1, None, 0])], HEAD, replace(RULES, num_generations=3)
    )
    assert [one.advantage for one in selection.sequences] == [0.5, -0.5]
    assert selection.rewards == (1.0, None, 0.0)
    fates = [one.fate for one in selection.completions]
    assert fates == [Fate.TRAINED, Fate.FAILED, Fate.TRAINED]


def test_reward_functions_are_weighed():
    trajectories = [make_trajectory([1.0, 4.0]), make_trajectory([2.0, None])]
    rules = replace(RULES, reward_weights=(1.0, 0.5))
    selection = select_sequences([make_group(trajectories=trajectories)], HEAD, rules)
    assert selection.rewards == (3.0, 2.0)


def test_inserted_tokens_are_not_trained():
    multi_turn = make_trajectory([1], token_ids=[4, 5, 6, 7, 8], inserted=[(1, 3), (4, 5)])
    group = make_group(trajectories=[multi_turn, make_trajectory([0])])
    [sequence, _] = select_sequences([group], HEAD, RULES).sequences
    assert sequence.trained == (True, False, False, True, False)
    assert sequence.completion_ids == (4, 5, 6, 7, 8)
    assert sequence.num_trained_tokens == 2


def test_a_completion_that_the_policy_had_no_part_in_is_left_out():
    silent = make_trajectory([1], token_ids=[4, 5], inserted=[(0, 2)])
    group = make_group(trajectories=[silent, make_trajectory([0])])
    [sequence] = select_sequences([group], HEAD, RULES).sequences
    assert sequence.advantage == -0.5


@pytest.mark.parametrize("truncated", [StopReason.LENGTH, StopReason.TURNS])
def test_masked_truncated_completions_still_count_in_the_mean_of_their_group(truncated):
    trajectories = [
        make_trajectory([1], stop_reason=truncated),
        make_trajectory([0]),
    ]
    groups = [make_group(trajectories=trajectories)]
    masked = select_sequences(groups, HEAD, replace(RULES, mask_truncated_completions=True))
    assert [one.advantage for one in masked.sequences] == [-0.5]
    assert [one.fate for one in masked.completions] == [Fate.FILTERED, Fate.TRAINED]
    assert len(select_sequences(groups, HEAD, RULES).sequences) == 2


def test_a_group_of_nothing_but_masked_completions_is_filtered():
    trajectories = [make_trajectory([r], stop_reason=StopReason.LENGTH) for r in (1, 0)]
    groups = [make_group(trajectories=trajectories, number=3)]
    selection = select_sequences(groups, HEAD, replace(RULES, mask_truncated_completions=True))
    assert selection.dispositions == {3: FILTERED}


def test_no_groups_are_no_sequences():
    selection = select_sequences([], HEAD, RULES)
    assert (selection.sequences, selection.dispositions) == ((), {})


def test_lags_are_counted_from_the_head_token_by_token():
    old = make_trajectory([1], versions=[Version(1, 3), Version(1, 4), HEAD], inserted=[(1, 2)])
    group = make_group(trajectories=[old, make_trajectory([0], versions=[HEAD] * 3)])
    first, second = select_sequences([group], HEAD, RULES).sequences
    assert (first.lags, first.trained_lags) == ((2, 1, 0), (2, 0))
    assert second.lags == (0, 0, 0)


def test_completions_are_told_with_their_length_and_fate():
    long = make_trajectory([1], token_ids=[4] * 7, stop_reason=StopReason.LENGTH)
    groups = [make_group(trajectories=[long, make_trajectory([0])]), make_group([1, 1], number=1)]
    assert select_sequences(groups, HEAD, RULES).completions == (
        Completion(7, is_truncated=True, fate=Fate.TRAINED),
        Completion(3, is_truncated=False, fate=Fate.TRAINED),
        Completion(3, is_truncated=False, fate=Fate.FILTERED),
        Completion(3, is_truncated=False, fate=Fate.FILTERED),
    )


def test_the_overlong_penalty_is_in_the_advantage_and_not_in_the_reward():
    # Of a buffer of four before eight tokens, a completion of seven fills three quarters.
    rules = replace(RULES, overlong=OverlongRules(8, buffer_tokens=4, penalty=2.0))
    long = make_trajectory([1], token_ids=[4] * 7)
    selection = select_sequences(
        [make_group(trajectories=[long, make_trajectory([1])])], HEAD, rules
    )
    assert [one.advantage for one in selection.sequences] == [-0.75, 0.75]
    assert selection.rewards == (1.0, 1.0)
    assert selection.num_without_signal == 0


def test_kl_penalties_are_taken_off_the_rewards_before_they_are_compared():
    selection = select_sequences([make_group([1, 1])], HEAD, RULES, kl_penalties=[0.5, 0.25])
    assert [one.advantage for one in selection.sequences] == [-0.125, 0.125]
    assert selection.rewards == (1.0, 1.0)
