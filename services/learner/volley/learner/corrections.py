"""Corrections for tokens that the policy at the step's start would have sampled differently.

Axes: B sequences, T columns. The ratio here is exp(proximal - sampler): what staleness and the
difference between engine and learner come to. A weight is a constant that multiplies the surrogate;
a mask takes tokens out of the loss. Equations and sources: docs/algorithm.md.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor

from volley.learner.masking import mean_B1, select

WeightMode = Literal["off", "token_truncate", "sequence_truncate"]
MaskMode = Literal["off", "token", "sequence_mean", "sequence_any"]


@dataclass(frozen=True, slots=True)
class Band:
    """The ratios that are near enough to 1."""

    low: float
    high: float

    def contains(self, log_ratios: Tensor) -> Tensor:
        """True where a ratio is within; what is not a number is not."""
        ratios = log_ratios.exp()
        return (ratios >= self.low) & (ratios <= self.high)


@dataclass(frozen=True, slots=True)
class CorrectionRules:
    """The knobs of [loss] that decide about tokens that are off-policy."""

    weight: WeightMode = "off"
    clip_max: float = 2.0
    """At least 1, so that a weight of 1 stays one."""
    mask: MaskMode = "off"
    band: Band = Band(0.5, 5.0)


@dataclass(frozen=True, slots=True, eq=False)
class Correction:
    """What becomes of each token of a micro-batch."""

    weights_BT: Tensor
    """Factors of the surrogate; 1 without a weight mode."""
    kept_BT: Tensor
    """Trained tokens that stay in the loss."""
    truncated_BT: Tensor
    """Trained tokens whose weight is at its cap."""


def uncorrected(mask_BT: Tensor) -> Correction:
    """Every trained token as it is."""
    return Correction(
        torch.ones(mask_BT.shape, device=mask_BT.device), mask_BT, torch.zeros_like(mask_BT)
    )


def correct(
    proximal_logprobs_BT: Tensor,
    sampler_logprobs_BT: Tensor,
    mask_BT: Tensor,
    rules: CorrectionRules,
) -> Correction:
    """Who stays in the loss, and with which weight."""
    log_ratios_BT = select(proximal_logprobs_BT.detach() - sampler_logprobs_BT, mask_BT)
    weights_BT = WEIGHTS[rules.weight](log_ratios_BT)
    near_BT = MASKS[rules.mask](log_ratios_BT, mask_BT, rules.band)
    return Correction(
        weights_BT=weights_BT.clamp(max=rules.clip_max),
        kept_BT=near_BT & mask_BT,
        truncated_BT=(weights_BT > rules.clip_max) & mask_BT,
    )


def no_weights(log_ratios_BT: Tensor) -> Tensor:
    return torch.ones_like(log_ratios_BT)


def token_weights(log_ratios_BT: Tensor) -> Tensor:
    """Each token's ratio: little variance, and a bias, since what came before is not weighed."""
    return log_ratios_BT.exp()


def sequence_weights(log_ratios_BT: Tensor) -> Tensor:
    """The product of each sequence's ratios, at all of its tokens: no bias, much variance."""
    return log_ratios_BT.sum(-1, keepdim=True).exp().expand_as(log_ratios_BT)


def keep_all(log_ratios_BT: Tensor, mask_BT: Tensor, band: Band) -> Tensor:
    return mask_BT


def keep_tokens(log_ratios_BT: Tensor, mask_BT: Tensor, band: Band) -> Tensor:
    """Tokens whose ratio is in the band."""
    return band.contains(log_ratios_BT)


def keep_sequences_by_mean(log_ratios_BT: Tensor, mask_BT: Tensor, band: Band) -> Tensor:
    """All tokens of the sequences whose geometric mean ratio is in the band."""
    return band.contains(mean_B1(log_ratios_BT, mask_BT)).expand_as(mask_BT)


def keep_sequences_by_any(log_ratios_BT: Tensor, mask_BT: Tensor, band: Band) -> Tensor:
    """All tokens of the sequences of which no token's ratio is outside of the band."""
    is_near_BT = band.contains(log_ratios_BT) | ~mask_BT
    return is_near_BT.all(-1, keepdim=True).expand_as(mask_BT)


WEIGHTS: Mapping[WeightMode, Callable[[Tensor], Tensor]] = {
    "off": no_weights,
    "token_truncate": token_weights,
    "sequence_truncate": sequence_weights,
}

MASKS: Mapping[MaskMode, Callable[[Tensor, Tensor, Band], Tensor]] = {
    "off": keep_all,
    "token": keep_tokens,
    "sequence_mean": keep_sequences_by_mean,
    "sequence_any": keep_sequences_by_any,
}
