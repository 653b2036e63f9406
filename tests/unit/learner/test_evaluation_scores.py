"""Scores of an evaluation, worked by hand."""

from math import comb

import pytest
from hypothesis import given
from hypothesis import strategies as st

from volley.learner.evaluation_scores import Answer, describe_answers, pass_at


def answers(*rewards: float | None) -> list[Answer]:
    return [Answer(reward, 4, reward == 0.0, {"searches": 2.0}) for reward in rewards]


def test_means_are_taken_over_prompts_and_errors_between_them():
    sampled = [answers(1, 0), answers(1, 1), answers(0, 0)]
    scores = describe_answers(sampled, answers(1, 0, None), num_prompts=4, pass_reward=1.0)
    assert scores == {
        "num_prompts": 4,
        "num_answered": 3,
        "reward": 0.5,
        "reward_stderr": pytest.approx(0.5 / 3**0.5),
        "reward_greedy": 0.5,
        "reward_greedy_stderr": pytest.approx(0.5**0.5 / 2**0.5),
        "pass@1": pytest.approx(0.5),
        "pass@2": pytest.approx(2 / 3),
        "completion_length_mean": 4,
        "truncated_share": 0.5,
        "environment/searches": 2,
    }


def test_where_nothing_was_answered_nothing_is_said():
    scores = describe_answers([], [], num_prompts=3, pass_reward=1.0)
    assert (scores["num_answered"], scores["reward"], scores["reward_stderr"]) == (0, None, None)
    assert not any(name.startswith("pass@") for name in scores)


def test_answers_without_a_reward_count_in_no_mean_of_rewards():
    scores = describe_answers([answers(1, None), answers(None, None)], [], 2, pass_reward=1.0)
    assert (scores["reward"], scores["pass@1"]) == (1, 1)


@given(st.integers(1, 12), st.data())
def test_pass_at_k_is_the_share_of_choices_with_a_passed_one(num_samples, data):
    num_passed = data.draw(st.integers(0, num_samples))
    k = data.draw(st.integers(1, num_samples))
    failing_choices = comb(num_samples - num_passed, k)
    assert pass_at(k, num_samples, num_passed) == 1 - failing_choices / comb(num_samples, k)
    assert pass_at(1, num_samples, num_passed) == pytest.approx(num_passed / num_samples)
