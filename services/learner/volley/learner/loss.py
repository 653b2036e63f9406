"""The loss of a micro-batch: a clipped surrogate plus KL, averaged over the whole step.

Axes: B sequences, T columns that cover every completion. Log-probs are nats. Whatever stands where
`mask_BT` is False is replaced before it is computed with, so not even a NaN there can matter.
Equations and sources: docs/algorithm.md.
"""

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

LossType = Literal["dapo", "grpo", "dr_grpo"]
KlEstimator = Literal["k1", "k2", "k3"]


@dataclass(frozen=True, slots=True)
class LossRules:
    """The knobs of [loss] that one micro-batch feels."""

    loss_type: LossType
    epsilon: float
    epsilon_high: float
    importance_cap: float
    beta: float
    kl_estimator: KlEstimator
    use_bias_correction_kl: bool


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What the loss of a step is divided by; counted once over all that is trained in it."""

    num_sequences: int
    num_tokens: int
    max_completion_length: int


@dataclass(frozen=True, slots=True, eq=False)
class TokenLogProbs:
    """The log-probs of the same tokens under up to four policies."""

    policy_logprobs_BT: Tensor
    """Now; carries the gradient."""
    sampler_logprobs_BT: Tensor
    """When generated."""
    proximal_logprobs_BT: Tensor | None = None
    """At the step's start; given where it anchors the ratio instead of the sampler."""
    reference_logprobs_BT: Tensor | None = None
    """Of the frozen model; given where the KL is to it instead of the sampler."""

    def selected(self, mask_BT: Tensor) -> "TokenLogProbs":
        """The same, certain (log 1 = 0) wherever the mask is False."""
        proximal_BT, reference_BT = self.proximal_logprobs_BT, self.reference_logprobs_BT
        return TokenLogProbs(
            select(self.policy_logprobs_BT, mask_BT),
            select(self.sampler_logprobs_BT, mask_BT),
            None if proximal_BT is None else select(proximal_BT, mask_BT),
            None if reference_BT is None else select(reference_BT, mask_BT),
        )


@dataclass(frozen=True, slots=True, eq=False)
class TokenSums:
    """Sums over trained tokens, as scalars on the device."""

    num_tokens: Tensor
    num_clipped: Tensor
    ratio: Tensor
    ratio_max: Tensor
    kl_to_sampler: Tensor
    kl: Tensor
    """To the sampler or the reference, whichever beta weighs."""

    def merge(self, other: "TokenSums") -> "TokenSums":
        """The sums over the tokens of both."""
        return TokenSums(
            self.num_tokens + other.num_tokens,
            self.num_clipped + other.num_clipped,
            self.ratio + other.ratio,
            torch.maximum(self.ratio_max, other.ratio_max),
            self.kl_to_sampler + other.kl_to_sampler,
            self.kl + other.kl,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Loss:
    """A micro-batch's share of the step's loss: the shares add up to it, and so do gradients."""

    loss: Tensor
    sums: TokenSums


def compute_loss(
    logprobs: TokenLogProbs,
    advantages_B: Tensor,
    mask_BT: Tensor,
    rules: LossRules,
    normaliser: Normaliser,
) -> Loss:
    """The loss of the trained tokens, already divided by the step's normaliser."""
    logprobs = logprobs.selected(mask_BT)
    policy_BT, sampler_BT = logprobs.policy_logprobs_BT, logprobs.sampler_logprobs_BT
    clip = (advantages_B[:, None], rules.epsilon, rules.epsilon_high)

    ratio_BT = anchored_ratio(logprobs)
    loss_BT = clipped_surrogate(ratio_BT, *clip)
    if logprobs.proximal_logprobs_BT is not None:
        loss_BT = loss_BT * importance_weight(
            logprobs.proximal_logprobs_BT, sampler_BT, rules.importance_cap
        )
    kl_to_sampler_BT = kl_to_sampler(policy_BT, sampler_BT)
    kl_BT = kl_to_sampler_BT
    if logprobs.reference_logprobs_BT is not None:
        kl_BT = kl_to_reference(policy_BT, logprobs.reference_logprobs_BT, sampler_BT, rules)
    if rules.beta > 0:
        loss_BT = loss_BT + rules.beta * kl_BT

    denominators_B1 = loss_denominators_B1(mask_BT, rules.loss_type, normaliser)
    sums = TokenSums(
        num_tokens=mask_BT.sum(),
        num_clipped=(is_clipped(ratio_BT, *clip) & mask_BT).sum(),
        ratio=_total(ratio_BT, mask_BT),
        ratio_max=select(ratio_BT, mask_BT).detach().amax(),
        kl_to_sampler=_total(kl_to_sampler_BT, mask_BT),
        kl=_total(kl_BT, mask_BT),
    )
    return Loss(select(loss_BT / denominators_B1, mask_BT).sum(), sums)


def select(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    """The values of trained tokens, 0 elsewhere: by choice, since NaN * 0 is NaN."""
    return torch.where(mask_BT, values_BT, 0.0)


def ratio(policy_logprobs: Tensor, anchor_logprobs: Tensor) -> Tensor:
    """How much more probable a token is under the one policy than under the other."""
    return torch.exp(policy_logprobs - anchor_logprobs)


def anchored_ratio(logprobs: TokenLogProbs) -> Tensor:
    """The ratio that is clipped: policy to proximal where that is given, else to sampler."""
    proximal_BT = logprobs.proximal_logprobs_BT
    anchor_BT = logprobs.sampler_logprobs_BT if proximal_BT is None else proximal_BT
    return ratio(logprobs.policy_logprobs_BT, anchor_BT)


def clipped_surrogate(
    ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float
) -> Tensor:
    """-min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A)."""
    clipped = ratio.clamp(1 - epsilon, 1 + epsilon_high)
    return -torch.minimum(ratio * advantages, clipped * advantages)


def is_clipped(ratio: Tensor, advantages: Tensor, epsilon: float, epsilon_high: float) -> Tensor:
    """Where the clip holds the surrogate, so that its gradient is 0."""
    too_low = (ratio < 1 - epsilon) & (advantages < 0)
    too_high = (ratio > 1 + epsilon_high) & (advantages > 0)
    return too_low | too_high


def importance_weight(proximal_logprobs: Tensor, sampler_logprobs: Tensor, cap: float) -> Tensor:
    """exp(proximal - sampler), truncated: corrects for what was sampled by an older policy."""
    return ratio(proximal_logprobs, sampler_logprobs).clamp(max=cap)


def kl_to_sampler(policy_logprobs: Tensor, sampler_logprobs: Tensor) -> Tensor:
    """r - 1 - log r, r = policy / sampler: unbiased for KL(sampler || policy) and its gradient."""
    log_ratio = policy_logprobs - sampler_logprobs
    return torch.expm1(log_ratio) - log_ratio


def kl_to_reference(
    policy_logprobs: Tensor, reference_logprobs: Tensor, sampler_logprobs: Tensor, rules: LossRules
) -> Tensor:
    """An estimate of KL(policy || reference) from the sampler's tokens."""
    estimate = estimate_kl(policy_logprobs, reference_logprobs, rules.kl_estimator)
    if not rules.use_bias_correction_kl:
        return estimate
    return ratio(policy_logprobs, sampler_logprobs) * estimate


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


def loss_denominators_B1(mask_BT: Tensor, loss_type: LossType, normaliser: Normaliser) -> Tensor:
    """What the token losses of each sequence are divided by before all are added."""
    num_tokens_B1 = mask_BT.sum(-1, keepdim=True)
    match loss_type:
        case "dapo":
            return torch.full_like(num_tokens_B1, normaliser.num_tokens)
        case "grpo":
            return num_tokens_B1.clamp(min=1) * normaliser.num_sequences
        case "dr_grpo":
            return torch.full_like(
                num_tokens_B1, normaliser.num_sequences * normaliser.max_completion_length
            )


def _total(values_BT: Tensor, mask_BT: Tensor) -> Tensor:
    return select(values_BT.detach(), mask_BT).sum()
