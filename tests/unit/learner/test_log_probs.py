import math

import pytest
import torch

from volley.learner.log_probs import log_probs_of


def test_log_probs_and_entropy_of_a_distribution_worked_by_hand():
    # At temperature 1/2 the odds 1 : 2 : 3 become 1 : 4 : 9.
    logits_BTV = torch.tensor([[[1.0, 2.0, 3.0]]]).log()
    result = log_probs_of(torch.tensor([[1]]), logits_BTV, temperature=0.5)
    assert result.policy_logprobs_BT.item() == pytest.approx(math.log(4 / 14))
    entropy = -sum(odds / 14 * math.log(odds / 14) for odds in (1, 4, 9))
    assert result.entropy_BT.item() == pytest.approx(entropy)


def test_a_token_that_cannot_be_drawn_has_no_entropy():
    logits_BTV = torch.tensor([[[0.0, 0.0, -torch.inf]]])
    result = log_probs_of(torch.tensor([[0]]), logits_BTV, temperature=1.0)
    assert result.entropy_BT.item() == pytest.approx(math.log(2))


def test_the_entropy_has_a_gradient_even_where_a_token_cannot_be_drawn():
    # Of odds 1 : 3, d entropy / d logit = -p (log p + entropy).
    logits_BTV = torch.tensor([[[0.0, math.log(3), -torch.inf]]], requires_grad=True)
    entropy = log_probs_of(torch.tensor([[0]]), logits_BTV, temperature=1.0).entropy_BT
    entropy.sum().backward()
    expected = [-p * (math.log(p) + entropy.item()) for p in (0.25, 0.75)]
    assert logits_BTV.grad is not None
    assert logits_BTV.grad[0, 0].tolist() == pytest.approx([*expected, 0.0], abs=1e-6)


def test_bfloat16_logits_are_normalised_in_float32():
    logits_BTV = torch.zeros(1, 1, 3, dtype=torch.bfloat16)
    result = log_probs_of(torch.tensor([[0]]), logits_BTV, temperature=1.0)
    assert result.policy_logprobs_BT.item() == pytest.approx(-math.log(3), abs=1e-6)


def test_a_few_rows_at_a_time_change_neither_values_nor_gradient():
    generator = torch.Generator().manual_seed(0)
    logits_BTV = torch.randn(3, 5, 7, generator=generator)
    targets_BT = torch.randint(7, (3, 5), generator=generator)
    found = []
    for logits_at_once in (7, 4 * 7, 10_000):
        leaf_BTV = logits_BTV.clone().requires_grad_()
        result = log_probs_of(targets_BT, leaf_BTV, 0.7, logits_at_once)
        weights_BT = torch.arange(15).view(3, 5)
        share_BT = weights_BT * result.policy_logprobs_BT + weights_BT.flip(0) * result.entropy_BT
        share_BT.sum().backward()
        found.append((result.policy_logprobs_BT, result.entropy_BT, leaf_BTV.grad))
    for few in found[:2]:
        torch.testing.assert_close(few, found[2], rtol=0, atol=0)
