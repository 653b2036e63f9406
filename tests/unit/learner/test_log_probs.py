import math

import pytest
import torch

from volley.learner.log_probs import log_probs_of_logits


def test_log_probs_and_entropy_of_a_distribution_worked_by_hand():
    # At temperature 1/2 the odds 1 : 2 : 3 become 1 : 4 : 9.
    logits_NV = torch.tensor([[1.0, 2.0, 3.0]]).log()
    logprobs_N, entropy_N = log_probs_of_logits(torch.tensor([1]), logits_NV, temperature=0.5)
    assert logprobs_N.item() == pytest.approx(math.log(4 / 14))
    entropy = -sum(odds / 14 * math.log(odds / 14) for odds in (1, 4, 9))
    assert entropy_N.item() == pytest.approx(entropy)


def test_a_token_that_cannot_be_drawn_has_no_entropy_and_no_gradient():
    logits_NV = torch.tensor([[0.0, 0.0, -torch.inf]], requires_grad=True)
    _, entropy_N = log_probs_of_logits(torch.tensor([0]), logits_NV, temperature=1.0)
    assert entropy_N.item() == pytest.approx(math.log(2))
    [gradient_NV] = torch.autograd.grad(entropy_N.sum(), logits_NV)
    assert gradient_NV[0, 2].item() == 0


def test_the_gradient_of_the_entropy_is_that_of_finite_differences():
    generator = torch.Generator().manual_seed(1)
    logits_NV = torch.randn(2, 7, generator=generator, dtype=torch.float64, requires_grad=True)
    targets_N = torch.tensor([0, 3])
    assert torch.autograd.gradcheck(
        lambda logits: log_probs_of_logits(targets_N, logits, 0.7), logits_NV
    )


def test_bfloat16_logits_are_normalised_in_float32():
    logits_NV = torch.zeros(1, 3, dtype=torch.bfloat16)
    logprobs_N, _ = log_probs_of_logits(torch.tensor([0]), logits_NV, temperature=1.0)
    assert logprobs_N.item() == pytest.approx(-math.log(3), abs=1e-6)


def test_a_few_rows_at_a_time_change_neither_values_nor_gradient():
    generator = torch.Generator().manual_seed(0)
    logits_NV = torch.randn(15, 7, generator=generator)
    targets_N = torch.randint(7, (15,), generator=generator)
    found = []
    for logits_at_once in (7, 4 * 7, 10_000):
        leaf_NV = logits_NV.clone().requires_grad_()
        logprobs_N, entropy_N = log_probs_of_logits(targets_N, leaf_NV, 0.7, logits_at_once)
        ((logprobs_N - entropy_N) * torch.arange(15)).sum().backward()
        found.append((logprobs_N, entropy_N, leaf_NV.grad))
    for few in found[:2]:
        torch.testing.assert_close(few, found[2], rtol=0, atol=0)
