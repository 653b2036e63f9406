"""Axes: B sequences, T tokens."""

import math
from dataclasses import replace

import pytest
import torch
from torch import Tensor
from torch.autograd import gradcheck

from tests.losses import make_loss_rules
from volley.learner.corrections import Band, CorrectionRules, correct, uncorrected
from volley.learner.loss import (
    LOSS_FORMS,
    Loss,
    LossRules,
    Normaliser,
    TokenLogProbs,
    TokenSums,
    compute_loss,
)
from volley.learner.loss_settings import LOSS_TYPES

RULES = make_loss_rules()
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


def plain_loss(
    given: TokenLogProbs, advantages_B: Tensor, mask_BT: Tensor, rules: LossRules, by: Normaliser
) -> Loss:
    return compute_loss(given, uncorrected(mask_BT), advantages_B, mask_BT, rules, by)


def loss_of(given: TokenLogProbs, rules: LossRules = RULES) -> float:
    return plain_loss(given, ADVANTAGES_B, MASK_BT, rules, NORMALISER).loss.item()


def test_every_loss_type_of_the_settings_has_a_form():
    assert set(LOSS_TYPES) == set(LOSS_FORMS)


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
    assert loss_of(logprobs(), make_loss_rules(loss_type)) == pytest.approx(expected)


def test_sums_count_the_trained_tokens_only():
    sums = plain_loss(logprobs(), ADVANTAGES_B, MASK_BT, RULES, NORMALISER).sums
    assert sums.num_tokens.item() == 5
    # 1.5 with a positive advantage, 0.5 with a negative one; 2.0 is outside but not held back.
    assert sums.num_clipped.item() == 2
    assert sums.ratio.item() == pytest.approx(6.0)
    assert sums.ratio_max.item() == pytest.approx(2.0)
    kl = sum(r - 1 - math.log(r) for r in (1.0, 1.5, 0.5, 2.0, 1.0))
    assert sums.kl_to_sampler.item() == pytest.approx(kl)


def test_merged_sums_are_those_of_both_micro_batches():
    whole = plain_loss(logprobs(), ADVANTAGES_B, MASK_BT, RULES, NORMALISER).sums
    rows = []
    for row in (slice(0, 1), slice(1, 2)):
        given = TokenLogProbs((SAMPLER_BT + RATIO_BT.log())[row], SAMPLER_BT[row])
        part = plain_loss(given, ADVANTAGES_B[row], MASK_BT[row], RULES, NORMALISER)
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
    rules = CorrectionRules(weight="token_truncate", clip_max=2.0)
    correction = correct(proximal_BT, SAMPLER_BT, MASK_BT, rules)
    result = compute_loss(given, correction, ADVANTAGES_B, MASK_BT, RULES, NORMALISER)
    assert result.loss.item() == pytest.approx((2.0 * -4.56 + 0.5 * 3.8) / 5)


def test_what_a_mask_takes_out_of_the_loss_is_still_counted():
    # 1.5 and 2.0 are outside of the band: -2.56 and 2.0 leave, the denominators stay.
    given = logprobs()
    correction = correct(
        *(given.policy_logprobs_BT, SAMPLER_BT, MASK_BT),
        CorrectionRules(mask="token", band=Band(0.4, 1.4)),
    )
    for loss_type, expected in (
        ("dapo", (-2.0 + 1.8) / 5),
        ("grpo", (-2.0 / 2 + 1.8 / 3) / 2),
        ("dr_grpo", (-2.0 + 1.8) / 8),
    ):
        result = compute_loss(
            *(given, correction, ADVANTAGES_B, MASK_BT, make_loss_rules(loss_type), NORMALISER)
        )
        assert result.loss.item() == pytest.approx(expected)
        assert result.sums.num_tokens.item() == 5
        assert result.sums.ratio_max.item() == pytest.approx(2.0)


def test_a_masked_token_has_no_kl_and_no_entropy_in_the_loss():
    given = logprobs(entropy_BT=torch.tensor([[1.5, 2.0, 7.0], [3.0, 3.0, 3.0]]))
    correction = correct(
        *(given.policy_logprobs_BT, SAMPLER_BT, MASK_BT),
        CorrectionRules(mask="sequence_any", band=Band(0.9, 1.9)),
    )
    rules = make_loss_rules(beta=0.3, entropy_coef=0.1)
    result = compute_loss(given, correction, ADVANTAGES_B, MASK_BT, rules, NORMALISER)
    # The second sequence has a ratio of 0.5 and leaves as a whole.
    kl = 1.5 - 1 - math.log(1.5)
    assert result.loss.item() == pytest.approx((-4.56 + 0.3 * kl - 0.1 * 3.5) / 5)


def test_the_kl_to_the_sampler_is_added_per_token():
    kl = sum(r - 1 - math.log(r) for r in (1.0, 1.5, 0.5, 2.0, 1.0))
    expected = (-4.56 + 3.8 + 0.3 * kl) / 5
    assert loss_of(logprobs(), make_loss_rules(beta=0.3)) == pytest.approx(expected)


@pytest.mark.parametrize(
    ("estimator", "estimate"),
    [("k1", math.log(4)), ("k2", math.log(4) ** 2 / 2), ("k3", 1 / 4 - 1 + math.log(4))],
)
@pytest.mark.parametrize("corrected", [True, False])
def test_the_kl_to_the_reference_is_weighed_by_the_unclipped_ratio(estimator, estimate, corrected):
    # The policy gives every token four times the probability that the reference gives it.
    policy_BT = SAMPLER_BT + RATIO_BT.log()
    given = logprobs(reference_logprobs_BT=policy_BT - math.log(4))
    rules = make_loss_rules(beta=0.1, kl_estimator=estimator, use_bias_correction_kl=corrected)
    kl = estimate * (6.0 if corrected else 5.0)
    assert loss_of(given, rules) == pytest.approx((-4.56 + 3.8 + 0.1 * kl) / 5)


def test_without_beta_an_overflowing_kl_cannot_reach_the_loss():
    # A clipped surrogate of an infinite ratio is finite; the KL is not.
    given = TokenLogProbs(torch.zeros(1, 1), torch.full((1, 1), -1e4))
    result = plain_loss(given, torch.ones(1), torch.ones(1, 1, dtype=torch.bool), RULES, NORMALISER)
    assert result.loss.item() == pytest.approx(-1.28 / 5)
    assert result.sums.kl_to_sampler.isinf()


def all_at_once(seed: int = 0) -> TokenLogProbs:
    generator = torch.Generator().manual_seed(seed)
    policy, sampler, proximal, reference, entropy = (
        -torch.rand(4, 6, generator=generator, dtype=torch.float64) * 3 for _ in range(5)
    )
    return TokenLogProbs(policy, sampler, proximal, reference, -entropy)


CORRECTIONS = (
    CorrectionRules(),
    CorrectionRules(weight="token_truncate", mask="token", band=Band(0.3, 3.0)),
    CorrectionRules(weight="sequence_truncate", mask="sequence_mean", band=Band(0.6, 1.5)),
    CorrectionRules(mask="sequence_any", band=Band(0.05, 5.0)),
)
ADVANTAGES_OF_FOUR_B = torch.tensor([1.0, -1.0, 0.5, -2.0], dtype=torch.float64)
STEP_OF_FOUR = Normaliser(num_sequences=4, num_tokens=18, max_completion_length=6)


def uneven_mask() -> Tensor:
    mask_BT = torch.ones(4, 6, dtype=torch.bool)
    mask_BT[0, 2:] = mask_BT[1, 1:4] = mask_BT[3, 0] = False
    return mask_BT


def loss_with_all(
    given: TokenLogProbs,
    loss_type: str,
    corrections: CorrectionRules,
    rows: list[int] | None = None,
) -> Loss:
    """With KL to the reference, entropy and dual clip, of some of the rows or all."""
    chosen = [0, 1, 2, 3] if rows is None else rows
    mask_BT = uneven_mask()[chosen]
    part = TokenLogProbs(*(getattr(given, name)[chosen] for name in TokenLogProbs.__slots__))
    assert part.proximal_logprobs_BT is not None
    correction = correct(part.proximal_logprobs_BT, part.sampler_logprobs_BT, mask_BT, corrections)
    if corrections.weight == "off":
        part = replace(part, proximal_logprobs_BT=None)
    delta = None if loss_type == "cispo" else 1.6
    rules = make_loss_rules(loss_type, beta=0.2, entropy_coef=0.1, delta=delta)
    advantages_B = ADVANTAGES_OF_FOUR_B[chosen]
    return compute_loss(part, correction, advantages_B, mask_BT, rules, STEP_OF_FOUR)


def gradient_of(given: TokenLogProbs, loss_type: str, corrections: CorrectionRules):
    policy_BT = given.policy_logprobs_BT.clone().requires_grad_()
    result = loss_with_all(replace(given, policy_logprobs_BT=policy_BT), loss_type, corrections)
    result.loss.backward()
    assert policy_BT.grad is not None
    return result, policy_BT.grad


# Weights of cispo are constants of the policy, so only its surrogate is not the loss's integral.
DIFFERENTIABLE = [name for name in LOSS_TYPES if name != "cispo"]


@pytest.mark.parametrize("corrections", CORRECTIONS)
@pytest.mark.parametrize("loss_type", DIFFERENTIABLE)
def test_gradients_agree_with_finite_differences(loss_type, corrections):
    given = all_at_once()

    def loss_at(policy_BT: Tensor) -> Tensor:
        there = replace(given, policy_logprobs_BT=policy_BT)
        return loss_with_all(there, loss_type, corrections).loss

    assert gradcheck(loss_at, given.policy_logprobs_BT.clone().requires_grad_())


@pytest.mark.parametrize("corrections", CORRECTIONS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_not_a_number_under_the_mask_leaves_loss_and_gradient_bit_identical(loss_type, corrections):
    results = []
    for fill in (0.0, math.nan):
        clean = all_at_once()
        poisoned = TokenLogProbs(
            *(
                torch.where(uneven_mask(), getattr(clean, name), fill)
                for name in TokenLogProbs.__slots__
            )
        )
        results.append(gradient_of(poisoned, loss_type, corrections))
    (clean_result, clean_grad), (poisoned_result, poisoned_grad) = results
    assert clean_result.loss.isfinite()
    assert torch.equal(clean_result.loss, poisoned_result.loss)
    assert torch.equal(clean_grad, poisoned_grad)
    for name in TokenSums.__slots__:
        assert torch.equal(getattr(clean_result.sums, name), getattr(poisoned_result.sums, name))


@pytest.mark.parametrize("loss_type", [name for name in LOSS_TYPES if name != "gspo"])
def test_a_token_that_the_band_takes_out_may_have_any_ratio(loss_type):
    corrections = CorrectionRules(mask="token", band=Band(0.3, 3.0))
    given = all_at_once()
    sampler_BT = given.sampler_logprobs_BT.clone()
    sampler_BT[2, 3] = -1e4
    result, gradient_BT = gradient_of(
        replace(given, sampler_logprobs_BT=sampler_BT), loss_type, corrections
    )
    assert result.loss.isfinite()
    assert gradient_BT.isfinite().all()
    assert gradient_BT[2, 3] == 0


@pytest.mark.parametrize("corrections", CORRECTIONS)
@pytest.mark.parametrize("loss_type", LOSS_TYPES)
def test_shares_of_micro_batches_add_up_to_the_loss_of_the_step(loss_type, corrections):
    given = all_at_once()
    whole = loss_with_all(given, loss_type, corrections).loss.item()
    shares = [
        loss_with_all(given, loss_type, corrections, rows).loss.item()
        for rows in ([0, 2], [1], [3])
    ]
    assert sum(shares) == pytest.approx(whole, rel=1e-12)
