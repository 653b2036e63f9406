"""The loss of a micro-batch: surrogate, corrections, KL and entropy, averaged over the whole step.

Axes: B sequences, T columns that cover every completion. Log-probs are nats. Whatever stands where
a mask is False is replaced before it is computed with, so not even a NaN there can matter.
Equations and sources: docs/algorithm.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from volley.learner.corrections import Correction
from volley.learner.kl import KlEstimator, kl_to_reference, kl_to_sampler
from volley.learner.masking import select, total
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


@dataclass(frozen=True, slots=True)
class Normaliser:
    """What the loss of a step is divided by; counted once over all that is trained in it."""

    num_sequences: int
    num_tokens: int
    max_completion_length: int


Denominators = Callable[[Tensor, Normaliser], Tensor]


def per_token(mask_BT: Tensor, normaliser: Normaliser) -> Tensor:
    """Denominators_B1 with which every trained token of the step weighs the same."""
    return torch.full_like(mask_BT.sum(-1, keepdim=True), normaliser.num_tokens)


def per_sequence(mask_BT: Tensor, normaliser: Normaliser) -> Tensor:
    """Denominators_B1 with which every sequence of the step weighs the same."""
    return mask_BT.sum(-1, keepdim=True).clamp(min=1) * normaliser.num_sequences


def per_longest_sequence(mask_BT: Tensor, normaliser: Normaliser) -> Tensor:
    """Denominators_B1 that no length has a part in."""
    return torch.full_like(
        mask_BT.sum(-1, keepdim=True), normaliser.num_sequences * normaliser.max_completion_length
    )


@dataclass(frozen=True, slots=True)
class LossForm:
    """What is minimised per token, and what the tokens are divided by before all are added."""

    surrogate: SurrogateFunction
    denominators: Denominators = per_token


LOSS_FORMS: Mapping[str, LossForm] = {
    "dapo": LossForm(clip_ratios),
    "grpo": LossForm(clip_ratios, per_sequence),
    "dr_grpo": LossForm(clip_ratios, per_longest_sequence),
    "gspo": LossForm(clip_sequence_ratios, per_sequence),
    "cispo": LossForm(clip_weights),
    "dppo_tv": LossForm(mask_by_total_variation),
    "dppo_kl": LossForm(mask_by_binary_kl),
}


@dataclass(frozen=True, slots=True)
class LossRules:
    """The knobs of [loss] that one micro-batch feels."""

    form: LossForm
    clip: ClipRules
    beta: float = 0.0
    kl_estimator: KlEstimator = "k3"
    use_bias_correction_kl: bool = True
    entropy_coef: float = 0.0


@dataclass(frozen=True, slots=True, eq=False)
class TokenLogProbs:
    """The log-probs of the same tokens under up to four policies, and the first one's entropy."""

    policy_logprobs_BT: Tensor
    """Now; carries the gradient."""
    sampler_logprobs_BT: Tensor
    """When generated."""
    proximal_logprobs_BT: Tensor | None = None
    """At the step's start; given where it anchors the ratio instead of the sampler."""
    reference_logprobs_BT: Tensor | None = None
    """Of the frozen model; given where the KL is to it instead of the sampler."""
    entropy_BT: Tensor | None = None
    """Of what the policy says now in each token's place; given where it is in the loss."""

    @property
    def anchor_logprobs_BT(self) -> Tensor:
        """Under the ratio."""
        proximal_BT = self.proximal_logprobs_BT
        return self.sampler_logprobs_BT if proximal_BT is None else proximal_BT

    def selected(self, mask_BT: Tensor) -> "TokenLogProbs":
        """The same, certain (log 1 = 0) wherever the mask is False."""

        def select_given(values_BT: Tensor | None) -> Tensor | None:
            return None if values_BT is None else select(values_BT, mask_BT)

        return TokenLogProbs(
            select(self.policy_logprobs_BT, mask_BT),
            select(self.sampler_logprobs_BT, mask_BT),
            select_given(self.proximal_logprobs_BT),
            select_given(self.reference_logprobs_BT),
            select_given(self.entropy_BT),
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
    correction: Correction,
    advantages_B: Tensor,
    mask_BT: Tensor,
    rules: LossRules,
    normaliser: Normaliser,
) -> Loss:
    """The loss of the tokens that stay in it, already divided by the step's normaliser."""
    kept_BT = correction.kept_BT
    kept = logprobs.selected(kept_BT)
    tokens = Tokens(
        kept.policy_logprobs_BT, kept.anchor_logprobs_BT, advantages_B[:, None], kept_BT
    )
    surrogate = rules.form.surrogate(tokens, rules.clip)
    loss_BT = surrogate.loss_BT * correction.weights_BT
    if rules.beta > 0:
        loss_BT = loss_BT + rules.beta * _kl(kept, rules)
    # A token that was masked weighs 0: it is still counted, as the step was before any forward.
    loss_BT = loss_BT / rules.form.denominators(mask_BT, normaliser)
    if kept.entropy_BT is not None:
        # Per token in every form, so that the coefficient means the same in all of them.
        loss_BT = loss_BT - rules.entropy_coef * kept.entropy_BT / normaliser.num_tokens
    return Loss(
        select(loss_BT, kept_BT).sum(),
        _sums(logprobs.selected(mask_BT), surrogate, mask_BT, kept_BT, rules),
    )


def _kl(logprobs: TokenLogProbs, rules: LossRules) -> Tensor:
    """To the reference where there is one, else to the sampler."""
    policy_BT, sampler_BT = logprobs.policy_logprobs_BT, logprobs.sampler_logprobs_BT
    if logprobs.reference_logprobs_BT is None:
        return kl_to_sampler(policy_BT, sampler_BT)
    return kl_to_reference(
        policy_BT,
        logprobs.reference_logprobs_BT,
        sampler_BT,
        rules.kl_estimator,
        use_bias_correction=rules.use_bias_correction_kl,
    )


@torch.no_grad()
def _sums(
    trained: TokenLogProbs,
    surrogate: Surrogate,
    mask_BT: Tensor,
    kept_BT: Tensor,
    rules: LossRules,
) -> TokenSums:
    policy_BT = trained.policy_logprobs_BT
    ratio_BT = torch.exp(policy_BT - trained.anchor_logprobs_BT)
    kl_to_sampler_BT = kl_to_sampler(policy_BT, trained.sampler_logprobs_BT)
    return TokenSums(
        num_tokens=mask_BT.sum(),
        num_clipped=(surrogate.clipped_BT & kept_BT).sum(),
        ratio=total(ratio_BT, mask_BT),
        ratio_max=select(ratio_BT, mask_BT).amax(),
        kl_to_sampler=total(kl_to_sampler_BT, mask_BT),
        kl=total(_kl(trained, rules), mask_BT),
    )
