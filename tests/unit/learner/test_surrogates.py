"""Each surrogate on tokens that are worked out by hand. Axes: B sequences, T columns."""

import math
from collections.abc import Sequence

import pytest
import torch

from volley.learner.surrogates import (
    ClipRules,
    Surrogate,
    SurrogateFunction,
    Tokens,
    clip_ratios,
    clip_sequence_ratios,
    clip_weights,
    mask_by_binary_kl,
    mask_by_total_variation,
)

CLIP = ClipRules(epsilon=0.2, epsilon_high=0.28)


def tokens(
    policy: Sequence[float], anchor: Sequence[float], advantage: float, *, num_in_loss: int = 9
) -> Tokens:
    """One sequence of tokens with these probabilities; the first `num_in_loss` are in the loss."""
    mask_BT = torch.arange(len(policy))[None] < num_in_loss
    policy_BT, anchor_BT = (
        torch.where(mask_BT, torch.tensor([row], dtype=torch.float64).log(), 0.0)
        for row in (policy, anchor)
    )
    advantages_B1 = torch.tensor([[advantage]], dtype=torch.float64)
    return Tokens(policy_BT.requires_grad_(), anchor_BT, advantages_B1, mask_BT)


def outcome(
    surrogate: SurrogateFunction, given: Tokens, rules: ClipRules = CLIP
) -> tuple[list[float], list[float], list[bool]]:
    """Loss per token, gradient of their sum with respect to the log-probs, and what is clipped."""
    found: Surrogate = surrogate(given, rules)
    loss_BT = torch.where(given.mask_BT, found.loss_BT, 0.0)
    [gradient_BT] = torch.autograd.grad(loss_BT.sum(), given.policy_logprobs_BT)
    clipped_BT = found.clipped_BT & given.mask_BT
    return loss_BT[0].tolist(), gradient_BT[0].tolist(), clipped_BT[0].tolist()


def close(expected: Sequence[float]):
    return pytest.approx(expected, rel=1e-12, abs=1e-15)


# Ratios 0.5, 1, 1.5.
RATIOS = ([0.1, 0.3, 0.6], [0.2, 0.3, 0.4])


@pytest.mark.parametrize(
    ("advantage", "loss", "gradient", "clipped"),
    [
        (2.0, [-1.0, -2.0, -2.56], [-1.0, -2.0, 0.0], [False, False, True]),
        (-1.0, [0.8, 1.0, 1.5], [0.0, 1.0, 1.5], [True, False, False]),
    ],
)
def test_clipped_ratios_stop_where_they_have_gone_the_way_of_the_advantage(
    advantage, loss, gradient, clipped
):
    found = outcome(clip_ratios, tokens(*RATIOS, advantage))
    assert found == (close(loss), close(gradient), clipped)


def test_the_dual_clip_bounds_what_a_negative_advantage_can_cost():
    rules = ClipRules(epsilon=0.2, epsilon_high=0.28, delta=3.0)
    far = ([0.8, 0.6, 0.5], [0.2, 0.3, 0.4])
    found = outcome(clip_ratios, tokens(*far, -2.0), rules)
    assert found == (close([6.0, 4.0, 2.5]), close([0.0, 4.0, 2.5]), [True, False, False])
    # A positive advantage is held by the clip already.
    assert outcome(clip_ratios, tokens(*far, 1.0), rules) == outcome(
        clip_ratios, tokens(*far, 1.0), CLIP
    )


def test_a_sequence_ratio_is_the_geometric_mean_and_every_token_has_its_gradient():
    # Ratios 2, 1 and 0.5 x 0.9 within; the fourth is not in the loss.
    given = tokens([0.4, 0.3, 0.18, 0.9], [0.2, 0.3, 0.4, 0.1], 3.0, num_in_loss=3)
    ratio = 0.9 ** (1 / 3)
    loss, gradient, clipped = outcome(clip_sequence_ratios, given)
    assert loss == close([-3 * ratio] * 3 + [0.0])
    # Three equal losses, and each log-prob moves the ratio by a third of it.
    assert gradient == close([-3 * ratio] * 3 + [0.0])
    assert clipped == [False] * 4


def test_a_sequence_that_has_gone_too_far_is_clipped_as_a_whole():
    given = tokens([0.6, 0.3], [0.2, 0.25], 2.0)
    assert math.sqrt(3 * 1.2) > 1.28
    assert outcome(clip_sequence_ratios, given) == (close([-2.56] * 2), [0.0] * 2, [True] * 2)


def test_clipped_weights_are_constants_and_silence_no_token():
    loss, gradient, clipped = outcome(clip_weights, tokens(*RATIOS, 2.0))
    assert loss == close([-math.log(0.1), -2 * math.log(0.3), -2.56 * math.log(0.6)])
    assert gradient == close([-1.0, -2.0, -2.56])
    assert clipped == [False, False, True]


def test_clipped_weights_are_bounded_above_only_whatever_the_sign():
    _, gradient, clipped = outcome(clip_weights, tokens(*RATIOS, -1.0))
    assert gradient == close([0.5, 1.0, 1.28])
    assert clipped == [False, False, True]


def test_the_total_variation_mask_lets_ratios_of_rare_tokens_be_large():
    # Ratios 4, 2, 1.5; probabilities have moved by 0.003, 0.3 and 0.1.
    given = tokens([0.004, 0.6, 0.3], [0.001, 0.3, 0.2], 1.0)
    loss, gradient, clipped = outcome(mask_by_total_variation, given)
    assert loss == close([-4.0, 0.0, -1.5])
    assert gradient == close([-4.0, 0.0, -1.5])
    assert clipped == [False, True, False]


def test_a_mask_acts_only_where_the_advantage_pulls_further_away():
    # Ratio 3, moved up by 0.4: a negative advantage pulls it back, so it stays.
    back = tokens([0.6], [0.2], -1.0)
    assert outcome(mask_by_total_variation, back) == (close([3.0]), close([3.0]), [False])
    further = tokens([0.2], [0.6], -1.0)
    assert outcome(mask_by_total_variation, further) == ([0.0], [0.0], [True])
    home = tokens([0.2], [0.6], 1.0)
    assert outcome(mask_by_total_variation, home) == (close([-1 / 3]), close([-1 / 3]), [False])


def test_each_direction_of_a_mask_has_its_own_limit():
    # Moved by 0.25: more than epsilon, less than epsilon_high.
    up, down = ([0.5], [0.25]), ([0.25], [0.5])
    assert outcome(mask_by_total_variation, tokens(*up, 1.0))[2] == [False]
    assert outcome(mask_by_total_variation, tokens(*down, -1.0))[2] == [True]


@pytest.mark.parametrize("limit", [0.1308, 0.1309])
def test_the_binary_kl_is_that_of_the_token_against_all_others(limit):
    kl = 0.25 * math.log(0.25 / 0.5) + 0.75 * math.log(0.75 / 0.5)
    assert kl == pytest.approx(0.13081203594113694)
    rules = ClipRules(epsilon=limit, epsilon_high=limit)
    _, gradient, clipped = outcome(mask_by_binary_kl, tokens([0.5], [0.25], 1.0), rules)
    assert clipped == [limit < kl]
    assert gradient == close([0.0 if limit < kl else -2.0])


def test_a_token_that_is_certain_twice_has_not_diverged():
    assert outcome(mask_by_binary_kl, tokens([1.0], [1.0], 1.0)) == ([-1.0], [-1.0], [False])


def test_a_masked_divergence_may_have_a_ratio_that_overflows():
    given = tokens([1.0], [1.0], 1.0)
    far = Tokens(
        given.policy_logprobs_BT, torch.full((1, 1), -1e4, dtype=torch.float64),
        given.advantages_B1, given.mask_BT,
    )  # fmt: skip
    for surrogate in (mask_by_total_variation, mask_by_binary_kl):
        assert outcome(surrogate, far) == ([0.0], [0.0], [True])


@pytest.mark.parametrize("surrogate", [mask_by_total_variation, mask_by_binary_kl])
def test_the_dual_clip_bounds_masked_surrogates_too(surrogate):
    rules = ClipRules(epsilon=0.2, epsilon_high=0.28, delta=3.0)
    found = outcome(surrogate, tokens([0.8], [0.2], -2.0), rules)
    assert found == (close([6.0]), [0.0], [True])
