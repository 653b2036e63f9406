"""What is minimised per token in place of the reward: one function per idea, all of one shape.

Axes: B sequences, T columns. A surrogate reads two log-probs of each token, which are 0 wherever
the token is not in the loss. A loss of your own is such a function too. Equations and sources:
docs/algorithm.md.
"""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor

from volley.learner.masking import mean_B1, select


@dataclass(frozen=True, slots=True)
class ClipRules:
    """How far the policy may go from its anchor."""

    epsilon: float
    epsilon_high: float
    delta: float | None = None
    """Greatest ratio of a token with a negative advantage."""


@dataclass(frozen=True, slots=True, eq=False)
class Tokens:
    """What a surrogate is computed of."""

    policy_logprobs_BT: Tensor
    """Now; carries the gradient."""
    anchor_logprobs_BT: Tensor
    """Under the ratio: when generated, or at the step's start."""
    advantages_B1: Tensor
    mask_BT: Tensor
    """True at the tokens in the loss."""


@dataclass(frozen=True, slots=True, eq=False)
class Surrogate:
    """What a surrogate comes to; never read where the mask is False."""

    loss_BT: Tensor
    clipped_BT: Tensor
    """True where a bound acts on the token."""


SurrogateFunction = Callable[[Tokens, ClipRules], Surrogate]


def clip_ratios(tokens: Tokens, rules: ClipRules) -> Surrogate:
    """-min(ratio A, clip(ratio, 1 - epsilon, 1 + epsilon_high) A), token by token."""
    ratios_BT = torch.exp(tokens.policy_logprobs_BT - tokens.anchor_logprobs_BT)
    return _clip(ratios_BT, tokens.advantages_B1, rules)


def clip_sequence_ratios(tokens: Tokens, rules: ClipRules) -> Surrogate:
    """The same with one ratio per sequence, the geometric mean over its tokens."""
    log_ratios_BT = tokens.policy_logprobs_BT - tokens.anchor_logprobs_BT
    ratios_B1 = torch.exp(mean_B1(log_ratios_BT, tokens.mask_BT))
    return _clip(ratios_B1.expand_as(log_ratios_BT), tokens.advantages_B1, rules)


def clip_weights(tokens: Tokens, rules: ClipRules) -> Surrogate:
    """-min(ratio, 1 + epsilon_high) A log-prob, the ratio a constant: no token is silenced."""
    ratios_BT = torch.exp(tokens.policy_logprobs_BT.detach() - tokens.anchor_logprobs_BT)
    highest = 1 + rules.epsilon_high
    weights_BT = ratios_BT.clamp(max=highest)
    loss_BT = -weights_BT * tokens.advantages_B1 * tokens.policy_logprobs_BT
    return Surrogate(loss_BT, ratios_BT > highest)


def mask_by_total_variation(tokens: Tokens, rules: ClipRules) -> Surrogate:
    """-ratio A, but for tokens whose probability has already moved too far the way A pulls."""
    policy_BT, anchor_BT = _probabilities(tokens)
    return _mask_diverged(tokens, rules, (policy_BT - anchor_BT).abs())


def mask_by_binary_kl(tokens: Tokens, rules: ClipRules) -> Surrogate:
    """The same, "too far" being KL(anchor || policy) over this token and all others as one."""
    policy_BT, anchor_BT = _probabilities(tokens)
    others_BT = 1 - anchor_BT
    log_ratios_BT = tokens.anchor_logprobs_BT - tokens.policy_logprobs_BT.detach()
    # xlogy(0, 0) is 0: a token that is certain twice has not diverged.
    divergences_BT = (
        anchor_BT * log_ratios_BT
        + torch.special.xlogy(others_BT, others_BT)
        - torch.special.xlogy(others_BT, 1 - policy_BT)
    )
    return _mask_diverged(tokens, rules, divergences_BT)


def dual_clip(ratios: Tensor, advantages: Tensor, delta: float | None) -> Tensor:
    """The ratios, at most `delta` where the advantage is negative."""
    if delta is None:
        return ratios
    return torch.where(advantages < 0, ratios.clamp(max=delta), ratios)


def _clip(ratios: Tensor, advantages: Tensor, rules: ClipRules) -> Surrogate:
    lowest, highest = 1 - rules.epsilon, 1 + rules.epsilon_high
    bounded = dual_clip(ratios, advantages, rules.delta)
    clipped = ratios.clamp(lowest, highest)
    loss = -torch.minimum(bounded * advantages, clipped * advantages)
    too_low = (ratios < lowest) & (advantages < 0)
    too_high = (ratios > highest) & (advantages > 0)
    return Surrogate(loss, too_low | too_high | (bounded < ratios))


def _probabilities(tokens: Tokens) -> tuple[Tensor, Tensor]:
    return tokens.policy_logprobs_BT.detach().exp(), tokens.anchor_logprobs_BT.exp()


def _mask_diverged(tokens: Tokens, rules: ClipRules, divergences_BT: Tensor) -> Surrogate:
    advantages_B1 = tokens.advantages_B1
    log_ratios_BT = tokens.policy_logprobs_BT - tokens.anchor_logprobs_BT
    rises_BT = (advantages_B1 > 0) & (log_ratios_BT > 0) & (divergences_BT > rules.epsilon_high)
    falls_BT = (advantages_B1 < 0) & (log_ratios_BT < 0) & (divergences_BT > rules.epsilon)
    kept_BT = ~(rises_BT | falls_BT)
    # Chosen before the exponential, which may overflow where the token is masked.
    ratios_BT = torch.exp(select(log_ratios_BT, kept_BT))
    bounded_BT = dual_clip(ratios_BT, advantages_B1, rules.delta)
    return Surrogate(
        select(-bounded_BT * advantages_B1, kept_BT), ~kept_BT | (bounded_BT < ratios_BT)
    )
