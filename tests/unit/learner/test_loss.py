"""Axes: B sequences, T tokens."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from volley.learner.loss import (
    LossRules,
    Normaliser,
    TokenLogProbs,
    TokenSums,
    compute_loss,
)

RULES = LossRules(
    loss_type="dapo",
    epsilon=0.2,
    epsilon_high=0.28,
    importance_cap=2.0,
    beta=0.0,
    kl_estimator="k3",
    use_bias_correction_kl=True,
)
# Two sequences, the last token of the first one masked.
MASK_BT = torch.tensor([[True, True, False], [True, True, True]])
ADVANTAGES_B = torch.tensor([2.0, -1.0], dtype=torch.float64)
RATIO_BT = torch.tensor([[1.0, 1.5, 7.0], [0.5, 2.0, 1.0]], dtype=torch.float64)
SAMPLER_BT = torch.tensor([[-1.0, -2.0, -3.0], [-4.0, -5.0, -6.0]], dtype=torch.float64)
# -min(ratio A, clip(ratio, .8, 1.28) A) of the five trained tokens.
TOKEN_LOSSES = [[-2.0, -2.56], [0.8, 2.0, 1.0]]
NORMALISER = Normaliser(num_sequences=2, num_tokens=5, max_completion_length=4)


def logprobs(**changes: Tensor) -> TokenLogProbs:
    at_hand = TokenLogProbs(SAMPLER_BT + RATIO_BT.log(), SAMPLER_BT)
    return replace(at_hand, **changes)


def loss_of(given: TokenLogProbs, rules: LossRules = RULES) -> float:
    return compute_loss(given, ADVANTAGES_B, MASK_BT, rules, NORMALISER).loss.item()


@pytest.mark.parametrize(
    ("loss_type", "expected"),
    [
        ("dapo", (-4.56 + 3.8) / 5),
        ("grpo", (-4.56 / 2 + 3.8 / 3) / 2),
        ("dr_grpo", (-4.56 + 3.8) / (2 * 4)),
    ],
)
def test_each_loss_type_averages_as_worked_by_hand(loss_type, expected):
    assert sum(map(sum, TOKEN_LOSSES)) == pytest.approx(-4.56 + 3.8)
    assert loss_of(logprobs(), replace(RULES, loss_type=loss_type)) == pytest.approx(expected)


def test_sums_count_the_trained_tokens_only():
    sums = compute_loss(logprobs(), ADVANTAGES_B, MASK_BT, RULES, NORMALISER).sums
    assert sums.num_tokens.item() == 5
    # 1.5 with a positive advantage, 0.5 with a negative one; 2.0 is outside but not held back.
    assert sums.num_clipped.item() == 2
    assert sums.ratio.item() == pytest.approx(6.0)
    assert sums.ratio_max.item() == pytest.approx(2.0)
    kl = sum(r - 1 - math.log(r) for r in (1.0, 1.5, 0.5, 2.0, 1.0))
    assert sums.kl_to_sampler.item() == pytest.approx(kl)


def test_merged_sums_are_those_of_both_micro_batches():
    whole = compute_loss(logprobs(), ADVANTAGES_B, MASK_BT, RULES, NORMALISER).sums
    rows = []
    for row in (slice(0, 1), slice(1, 2)):
        given = TokenLogProbs((SAMPLER_BT + RATIO_BT.log())[row], SAMPLER_BT[row])
        part = compute_loss(given, ADVANTAGES_B[row], MASK_BT[row], RULES, NORMALISER)
        rows.append(part.sums)
    merged = rows[0].merge(rows[1])
    for name in TokenSums.__slots__:
        assert getattr(merged, name).item() == pytest.approx(getattr(whole, name).item())


def test_the_proximal_anchor_clips_its_own_ratio_and_truncates_the_weight():
    # proximal / sampler is 3 on the first sequence, truncated to 2, and 0.5 on the second.
    weights_BT = torch.tensor([[3.0] * 3, [0.5] * 3], dtype=torch.float64)
    proximal_BT = SAMPLER_BT + weights_BT.log()
    given = logprobs(
        policy_logprobs_BT=proximal_BT + RATIO_BT.log(), proximal_logprobs_BT=proximal_BT
    )
    assert loss_of(given) == pytest.approx((2.0 * -4.56 + 0.5 * 3.8) / 5)


def test_the_kl_to_the_sampler_is_added_per_token():
    kl = sum(r - 1 - math.log(r) for r in (1.0, 1.5, 0.5, 2.0, 1.0))
    expected = (-4.56 + 3.8 + 0.3 * kl) / 5
    assert loss_of(logprobs(), replace(RULES, beta=0.3)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("estimator", "estimate"),
    [("k1", math.log(4)), ("k2", math.log(4) ** 2 / 2), ("k3", 1 / 4 - 1 + math.log(4))],
)
@pytest.mark.parametrize("corrected", [True, False])
def test_the_kl_to_the_reference_is_weighed_by_the_unclipped_ratio(estimator, estimate, corrected):
    # The policy gives every token four times the probability that the reference gives it.
    policy_BT = SAMPLER_BT + RATIO_BT.log()
    given = logprobs(reference_logprobs_BT=policy_BT - math.log(4))
    rules = replace(RULES, beta=0.1, kl_estimator=estimator, use_bias_correction_kl=corrected)
    kl = estimate * (6.0 if corrected else 5.0)
    assert loss_of(given, rules) == pytest.approx((-4.56 + 3.8 + 0.1 * kl) / 5)


def test_without_beta_an_overflowing_kl_cannot_reach_the_loss():
    # A clipped surrogate of an infinite ratio is finite; the KL is not.
    given = TokenLogProbs(torch.zeros(1, 1), torch.full((1, 1), -1e4))
    result = compute_loss(
        given, torch.ones(1), torch.ones(1, 1, dtype=torch.bool), RULES, NORMALISER
    )
    assert result.loss.item() == pytest.approx(-1.28 / 5)
    assert result.sums.kl_to_sampler.isinf()


def all_four(seed: int = 0) -> TokenLogProbs:
    generator = torch.Generator().manual_seed(seed)
    policy, sampler, proximal, reference = (
        -torch.rand(4, 6, generator=generator, dtype=torch.float64) * 3 for _ in range(4)
    )
    return TokenLogProbs(policy, sampler, proximal, reference)


RULES_WITH_ALL = replace(RULES, beta=0.2)


def with_gradient(given: TokenLogProbs) -> tuple[TokenLogProbs, Tensor]:
    policy_BT = given.policy_logprobs_BT.clone().requires_grad_()
    return replace(given, policy_logprobs_BT=policy_BT), policy_BT


def uneven_mask() -> Tensor:
    mask_BT = torch.ones(4, 6, dtype=torch.bool)
    mask_BT[0, 2:] = mask_BT[1, 1:4] = mask_BT[3, 0] = False
    return mask_BT


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
@pytest.mark.parametrize("use_proximal", [True, False])
def test_gradients_agree_with_finite_differences(loss_type, use_proximal):
    given = all_four() if use_proximal else replace(all_four(), proximal_logprobs_BT=None)
    mask_BT = uneven_mask()
    normaliser = Normaliser(4, int(mask_BT.sum()), 6)
    rules = replace(RULES_WITH_ALL, loss_type=loss_type)
    advantages_B = torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64)

    def loss_at(policy_BT: Tensor) -> Tensor:
        tokens = replace(given, policy_logprobs_BT=policy_BT)
        return compute_loss(tokens, advantages_B, mask_BT, rules, normaliser).loss

    _, policy_BT = with_gradient(given)
    loss_at(policy_BT).backward()
    assert policy_BT.grad is not None
    step = 1e-6
    for index in range(policy_BT.numel()):
        shift_BT = torch.zeros_like(given.policy_logprobs_BT).flatten()
        shift_BT[index] = step
        shift_BT = shift_BT.view(4, 6)
        above, below = (
            loss_at(given.policy_logprobs_BT + sign * shift_BT).item() for sign in (1, -1)
        )
        difference = (above - below) / (2 * step)
        assert policy_BT.grad.flatten()[index].item() == pytest.approx(difference, abs=1e-8)


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_not_a_number_under_the_mask_leaves_loss_and_gradient_bit_identical(loss_type):
    mask_BT = uneven_mask()
    normaliser = Normaliser(4, int(mask_BT.sum()), 6)
    rules = replace(RULES_WITH_ALL, loss_type=loss_type)
    advantages_B = torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64)
    results = []
    for fill in (0.0, math.nan):
        clean = all_four()
        poisoned = TokenLogProbs(
            *(torch.where(mask_BT, getattr(clean, name), fill) for name in TokenLogProbs.__slots__)
        )
        given, policy_BT = with_gradient(poisoned)
        result = compute_loss(given, advantages_B, mask_BT, rules, normaliser)
        result.loss.backward()
        results.append((result, policy_BT.grad))
    (clean_result, clean_grad), (poisoned_result, poisoned_grad) = results
    assert clean_result.loss.isfinite()
    assert torch.equal(clean_result.loss, poisoned_result.loss)
    assert clean_grad is not None
    assert poisoned_grad is not None
    assert torch.equal(clean_grad, poisoned_grad)
    for name in TokenSums.__slots__:
        assert torch.equal(getattr(clean_result.sums, name), getattr(poisoned_result.sums, name))


@pytest.mark.parametrize("loss_type", ["dapo", "grpo", "dr_grpo"])
def test_shares_of_micro_batches_add_up_to_the_loss_of_the_step(loss_type):
    given, mask_BT = all_four(), uneven_mask()
    normaliser = Normaliser(4, int(mask_BT.sum()), 6)
    rules = replace(RULES_WITH_ALL, loss_type=loss_type)
    advantages_B = torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64)
    whole = compute_loss(given, advantages_B, mask_BT, rules, normaliser).loss.item()
    shares = [
        compute_loss(
            TokenLogProbs(*(getattr(given, name)[row] for name in TokenLogProbs.__slots__)),
            advantages_B[row],
            mask_BT[row],
            rules,
            normaliser,
        ).loss.item()
        for row in ([0, 2], [1], [3])
    ]
    assert sum(shares) == pytest.approx(whole, rel=1e-12)
