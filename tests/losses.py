"""Losses for tests: rules, and all of docs/algorithm.md once more in plain Python.

The plain version is written from the equations, over lists, one token after the other, and shares
nothing with the code under test but the settings. `held` are the log-probs that stand for the
policy wherever an equation says that something is a constant.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean

from volley.learner.kl import KlEstimator
from volley.learner.loss import LOSS_FORMS, LossRules, Normaliser
from volley.learner.loss_settings import LossSettings
from volley.learner.surrogates import ClipRules


def make_loss_rules(
    loss_type: str = "dapo",
    *,
    delta: float | None = None,
    beta: float = 0.0,
    kl_estimator: KlEstimator = "k3",
    use_bias_correction_kl: bool = True,
    entropy_coef: float = 0.0,
) -> LossRules:
    """Clipped to [0.8, 1.28]."""
    return LossRules(
        form=LOSS_FORMS[loss_type],
        clip=ClipRules(epsilon=0.2, epsilon_high=0.28, delta=delta),
        beta=beta,
        kl_estimator=kl_estimator,
        use_bias_correction_kl=use_bias_correction_kl,
        entropy_coef=entropy_coef,
    )


@dataclass(frozen=True)
class PlainToken:
    """Its log-probs under the four policies, and the first one's entropy."""

    policy: float
    sampler: float
    proximal: float
    reference: float
    entropy: float
    """Of the policy in its place."""


@dataclass(frozen=True)
class PlainSequence:
    """The trained tokens of one completion."""

    tokens: Sequence[PlainToken]
    advantage: float


def plain_advantages(
    rewards: Sequence[Sequence[float | None]], scale_rewards: str, estimator: str
) -> list[list[float]]:
    """0 where there is none."""
    valid = [[one for one in group if one is not None] for group in rewards]
    valid = [group if len(group) > 1 else [] for group in valid]
    centred = [one - fmean(group) for group in valid for one in group]
    raw = [one for group in valid for one in group]
    over_batch = {"group": 0.0, "none": 0.0, "batch": plain_std(raw)}[scale_rewards]
    if estimator == "reinforce_plus_plus_baseline":
        over_batch = plain_std(centred)
    return [
        [
            plain_advantage(reward, group, scale_rewards, estimator, over_batch)
            for reward in group_rewards
        ]
        for group_rewards, group in zip(rewards, valid, strict=True)
    ]


def plain_advantage(
    reward: float | None,
    group: Sequence[float],
    scale_rewards: str,
    estimator: str,
    over_batch: float,
) -> float:
    if reward is None or not group or min(group) == max(group):
        return 0.0
    baseline = fmean(group)
    if estimator == "rloo":
        baseline = (sum(group) - reward) / (len(group) - 1)
    if scale_rewards == "none":
        return reward - baseline
    std = plain_std(group) if scale_rewards == "group" else over_batch
    return (reward - baseline) / (std + 1e-4)


def plain_std(values: Sequence[float]) -> float:
    """With ddof 1, around their own mean; 0 of fewer than two."""
    if len(values) < 2:
        return 0.0
    mean = fmean(values)
    return math.sqrt(sum((one - mean) ** 2 for one in values) / (len(values) - 1))


def plain_loss(
    sequences: Sequence[PlainSequence],
    held: Sequence[Sequence[float]],
    loss: LossSettings,
    by: Normaliser,
) -> float:
    """The loss of all sequences."""
    return sum(
        plain_sequence_loss(sequence, held_T, loss, by)
        for sequence, held_T in zip(sequences, held, strict=True)
    )


def plain_sequence_loss(
    sequence: PlainSequence, held: Sequence[float], loss: LossSettings, by: Normaliser
) -> float:
    if not sequence.tokens:
        return 0.0
    weights = plain_weights(sequence.tokens, loss)
    is_kept = plain_kept(sequence.tokens, loss)
    kept = [token for token, keeps in zip(sequence.tokens, is_kept, strict=True) if keeps]
    total = entropy = 0.0
    for token, held_logprob, weight, keeps in zip(
        sequence.tokens, held, weights, is_kept, strict=True
    ):
        if keeps:
            total += weight * plain_surrogate(token, held_logprob, kept, sequence.advantage, loss)
            total += loss.beta * plain_kl(token, loss)
            entropy += token.entropy
    denominator = plain_denominator(len(sequence.tokens), loss.loss_type, by)
    return total / denominator - loss.entropy_coef * entropy / by.num_tokens


def plain_denominator(num_tokens: int, loss_type: str, by: Normaliser) -> int:
    if loss_type in ("grpo", "gspo"):
        return num_tokens * by.num_sequences
    if loss_type == "dr_grpo":
        return by.num_sequences * by.max_completion_length
    return by.num_tokens


def plain_weights(tokens: Sequence[PlainToken], loss: LossSettings) -> list[float]:
    ratios = [math.exp(one.proximal - one.sampler) for one in tokens]
    cap = loss.importance_sampling_clip_max
    mode = loss.importance_sampling_mode
    if mode is None:
        mode = "token_truncate" if loss.ratio_anchor == "proximal" else "off"
    if mode == "off":
        return [1.0] * len(tokens)
    if mode == "token_truncate":
        return [min(ratio, cap) for ratio in ratios]
    return [min(math.prod(ratios), cap)] * len(tokens)


def plain_kept(tokens: Sequence[PlainToken], loss: LossSettings) -> list[bool]:
    ratios = [math.exp(one.proximal - one.sampler) for one in tokens]
    near = [loss.off_policy_mask_low <= ratio <= loss.off_policy_mask_high for ratio in ratios]
    if loss.off_policy_mask == "off":
        return [True] * len(tokens)
    if loss.off_policy_mask == "token":
        return near
    if loss.off_policy_mask == "sequence_any":
        return [all(near)] * len(tokens)
    mean = math.prod(ratios) ** (1 / len(ratios))
    return [loss.off_policy_mask_low <= mean <= loss.off_policy_mask_high] * len(tokens)


def plain_surrogate(
    token: PlainToken,
    held: float,
    kept: Sequence[PlainToken],
    advantage: float,
    loss: LossSettings,
) -> float:
    high = loss.epsilon if loss.epsilon_high is None else loss.epsilon_high
    anchor = plain_anchor(token, loss)
    ratio = math.exp(token.policy - anchor)
    if loss.loss_type == "cispo":
        return -min(math.exp(held - anchor), 1 + high) * advantage * token.policy
    if loss.loss_type in ("dppo_tv", "dppo_kl"):
        limit = high if advantage > 0 else loss.epsilon
        pulls_away = (held - anchor) * advantage > 0
        if pulls_away and plain_divergence(anchor, held, loss.loss_type) > limit:
            return 0.0
        return -plain_dual_clip(ratio, advantage, loss.delta) * advantage
    if loss.loss_type == "gspo":
        ratio = math.exp(fmean(one.policy - plain_anchor(one, loss) for one in kept))
    clipped = max(1 - loss.epsilon, min(1 + high, ratio))
    bounded = plain_dual_clip(ratio, advantage, loss.delta)
    return -min(bounded * advantage, clipped * advantage)


def plain_anchor(token: PlainToken, loss: LossSettings) -> float:
    return token.sampler if loss.ratio_anchor == "sampler" else token.proximal


def plain_dual_clip(ratio: float, advantage: float, delta: float | None) -> float:
    return min(ratio, delta) if delta is not None and advantage < 0 else ratio


def plain_divergence(anchor: float, policy: float, loss_type: str) -> float:
    """Of two tokens' log-probs, each against all other tokens as one."""
    was, now = math.exp(anchor), math.exp(policy)
    if loss_type == "dppo_tv":
        return abs(now - was)
    return was * math.log(was / now) + (1 - was) * math.log((1 - was) / (1 - now))


def plain_kl(token: PlainToken, loss: LossSettings) -> float:
    ratio = math.exp(token.policy - token.sampler)
    if loss.kl_target == "sampler":
        return ratio - 1 - math.log(ratio)
    of_reference = math.exp(token.reference - token.policy)
    estimate = {
        "k1": -math.log(of_reference),
        "k2": math.log(of_reference) ** 2 / 2,
        "k3": of_reference - 1 - math.log(of_reference),
    }[loss.kl_estimator]
    return ratio * estimate if loss.use_bias_correction_kl else estimate
