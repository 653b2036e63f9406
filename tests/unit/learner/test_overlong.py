import pytest

from volley.learner.overlong import OverlongRules, overlong_penalty


@pytest.mark.parametrize(
    ("num_tokens", "penalty"), [(1, 0.0), (12, 0.0), (13, 0.5), (14, 1.0), (16, 2.0), (17, 2.0)]
)
def test_the_penalty_grows_evenly_over_the_buffer(num_tokens, penalty):
    rules = OverlongRules(max_completion_length=16, buffer_tokens=4, penalty=2.0)
    assert overlong_penalty(num_tokens, rules) == penalty


def test_without_a_buffer_there_is_no_penalty():
    assert overlong_penalty(16, OverlongRules(max_completion_length=16)) == 0.0
