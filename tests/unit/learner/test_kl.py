"""KL estimators against the true divergence, by enumerating a vocabulary of V = 6 tokens."""

import pytest
import torch
from torch import Tensor

from volley.learner.kl import estimate_kl, kl_to_reference, kl_to_sampler

V = 6


def distributions() -> tuple[Tensor, Tensor, Tensor]:
    """Logits of the policy, log-probs of the sampler and of the reference, all different."""
    generator = torch.Generator().manual_seed(1)
    logits, sampler, reference = torch.randn(3, V, generator=generator, dtype=torch.float64)
    return logits.requires_grad_(), sampler.log_softmax(-1), reference.log_softmax(-1)


def value_and_gradient(expectation: Tensor, logits: Tensor) -> tuple[Tensor, Tensor]:
    [gradient] = torch.autograd.grad(expectation, logits)
    return expectation.detach(), gradient


def assert_same(found: tuple[Tensor, Tensor], expected: tuple[Tensor, Tensor]) -> None:
    torch.testing.assert_close(found, expected, rtol=1e-12, atol=1e-14)


def true_kl(first_logprobs: Tensor, second_logprobs: Tensor) -> Tensor:
    return (first_logprobs.exp() * (first_logprobs - second_logprobs)).sum()


def test_the_kl_to_the_sampler_has_the_true_value_and_gradient():
    logits, sampler, _ = distributions()
    policy = logits.log_softmax(-1)
    expectation = (sampler.exp() * kl_to_sampler(policy, sampler)).sum()
    assert_same(
        value_and_gradient(expectation, logits),
        value_and_gradient(true_kl(sampler, logits.log_softmax(-1)), logits),
    )


@pytest.mark.parametrize("estimator", ["k1", "k3"])
def test_corrected_by_the_ratio_k1_and_k3_have_the_true_value_and_gradient(estimator):
    logits, sampler, reference = distributions()
    policy = logits.log_softmax(-1)
    kl = kl_to_reference(policy, reference, sampler, estimator, use_bias_correction=True)
    expectation = (sampler.exp() * kl).sum()
    assert_same(
        value_and_gradient(expectation, logits),
        value_and_gradient(true_kl(logits.log_softmax(-1), reference), logits),
    )


def test_k2_has_the_true_gradient_on_policy_without_the_ratio():
    logits, _, reference = distributions()
    policy = logits.log_softmax(-1)
    expectation = (policy.detach().exp() * estimate_kl(policy, reference, "k2")).sum()
    _, gradient = value_and_gradient(expectation, logits)
    _, expected = value_and_gradient(true_kl(logits.log_softmax(-1), reference), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def test_k1_without_the_ratio_has_no_gradient_on_policy():
    logits, _, reference = distributions()
    policy = logits.log_softmax(-1)
    expectation = (policy.detach().exp() * estimate_kl(policy, reference, "k1")).sum()
    value, gradient = value_and_gradient(expectation, logits)
    torch.testing.assert_close(value, true_kl(policy, reference).detach())
    torch.testing.assert_close(gradient, torch.zeros_like(gradient), rtol=0, atol=1e-15)


def test_k3_without_the_ratio_has_the_gradient_of_the_other_direction():
    logits, _, reference = distributions()
    policy = logits.log_softmax(-1)
    expectation = (policy.detach().exp() * estimate_kl(policy, reference, "k3")).sum()
    _, gradient = value_and_gradient(expectation, logits)
    _, expected = value_and_gradient(true_kl(reference, logits.log_softmax(-1)), logits)
    torch.testing.assert_close(gradient, expected, rtol=1e-12, atol=1e-14)


def test_k2_times_the_ratio_has_not_the_gradient_of_a_kl():
    logits, sampler, reference = distributions()
    policy = logits.log_softmax(-1)
    kl = kl_to_reference(policy, reference, sampler, "k2", use_bias_correction=True)
    _, gradient = value_and_gradient((sampler.exp() * kl).sum(), logits)
    for first, second in ((0, 1), (1, 0)):
        pair = (logits.log_softmax(-1), reference)
        _, true = value_and_gradient(true_kl(pair[first], pair[second]), logits)
        assert (gradient - true).abs().max() > 0.01
