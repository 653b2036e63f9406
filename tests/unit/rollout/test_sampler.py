"""One token by hand: V = 3, logits ln 1, ln 2, ln 1, so probabilities 1/4, 1/2, 1/4."""

import math

import pytest
import torch

from volley.rollout.sampler import sample_tokens

LOGITS_V = [math.log(1.0), math.log(2.0), math.log(1.0)]


def sample(uniform: float, temperature: float = 1.0) -> tuple[int, float]:
    tokens_B, logprobs_B = sample_tokens(
        torch.tensor([LOGITS_V]),
        torch.tensor([temperature]),
        torch.tensor([uniform], dtype=torch.float64),
    )
    return int(tokens_B), float(logprobs_B)


@pytest.mark.parametrize(
    ("uniform", "token", "probability"),
    [(0.0, 0, 0.25), (0.2499, 0, 0.25), (0.2501, 1, 0.5), (0.7499, 1, 0.5), (0.7501, 2, 0.25)],
)
def test_the_uniform_number_picks_the_token_whose_share_it_falls_into(uniform, token, probability):
    drawn, logprob = sample(uniform)
    assert drawn == token
    assert logprob == pytest.approx(math.log(probability))


def test_the_largest_number_below_one_picks_the_last_token():
    assert sample(math.nextafter(1.0, 0.0))[0] == 2


def test_log_probs_are_those_of_the_temperature():
    # At temperature 1/2 the weights are 1, 4, 1: squares of those at temperature 1.
    token, logprob = sample(0.5, temperature=0.5)
    assert token == 1
    assert logprob == pytest.approx(math.log(4 / 6))


def test_temperature_zero_takes_the_likeliest_token_with_log_probs_at_one():
    token, logprob = sample(0.99, temperature=0.0)
    assert token == 1
    assert logprob == pytest.approx(math.log(0.5))


def test_a_token_of_probability_zero_is_never_picked():
    logits_BV = torch.tensor([[-math.inf, 0.0, -math.inf]] * 2)
    uniforms_B = torch.tensor([0.0, math.nextafter(1.0, 0.0)], dtype=torch.float64)
    tokens_B, logprobs_B = sample_tokens(logits_BV, torch.ones(2), uniforms_B)
    assert tokens_B.tolist() == [1, 1]
    assert logprobs_B.tolist() == [0.0, 0.0]


def test_shares_follow_the_distribution():
    num_draws = 4000
    uniforms_B = (torch.arange(num_draws, dtype=torch.float64) + 0.5) / num_draws
    tokens_B, _ = sample_tokens(
        torch.tensor([LOGITS_V]).expand(num_draws, -1), torch.ones(num_draws), uniforms_B
    )
    assert torch.bincount(tokens_B).tolist() == [1000, 2000, 1000]
