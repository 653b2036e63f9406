"""Estimates of divergences from single sampled tokens, in nats."""

from typing import Literal

import torch
from torch import Tensor

KlEstimator = Literal["k1", "k2", "k3"]


def kl_to_sampler(policy_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
    """r - 1 - log r, r = policy / sampler: unbiased for KL(sampler || policy) and its gradient."""
    log_ratio = policy_logprobs - sampler_logprobs
    return torch.expm1(log_ratio) - log_ratio


def kl_to_reference(
    policy_logprobs: Tensor,
    reference_logprobs: Tensor,
    sampler_logprobs: Tensor,
    estimator: KlEstimator,
    *,
    use_bias_correction: bool,
) -> Tensor:
    """An estimate of KL(policy || reference) from the sampler's tokens."""
    estimate = estimate_kl(policy_logprobs, reference_logprobs, estimator)
    if not use_bias_correction:
        return estimate
    return torch.exp(policy_logprobs - sampler_logprobs) * estimate


def estimate_kl(
    policy_logprobs: Tensor, reference_logprobs: Tensor, estimator: KlEstimator
) -> Tensor:
    """Schulman's k1, k2 or k3 of KL(policy || reference) for tokens that the policy sampled."""
    log_ratio = reference_logprobs - policy_logprobs
    match estimator:
        case "k1":
            return -log_ratio
        case "k2":
            return log_ratio.square() / 2
        case "k3":
            return torch.expm1(log_ratio) - log_ratio
