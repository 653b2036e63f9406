"""Log-probs and entropy of given tokens from logits, without a float32 copy of all the logits.

Axes: B sequences, T tokens, N of the B x T at a time, V vocabulary. Nats.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# 256 MiB in float32; 16k tokens of a vocabulary of 151k would be 10 GB.
LOGITS_AT_ONCE = 2**26


@dataclass(frozen=True, slots=True, eq=False)
class LogProbs:
    """What a policy says about the target tokens of a micro-batch."""

    policy_logprobs_BT: Tensor
    """At the sampling temperature; with gradient unless made under no_grad."""
    entropy_BT: Tensor
    """Of the distribution each token was drawn from; likewise."""


def log_probs_of(
    targets_BT: Tensor,
    logits_BTV: Tensor,
    temperature: float,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> LogProbs:
    """log softmax(logits / temperature) at the targets, in float32, a few rows at a time."""
    num_rows = max(1, logits_at_once // logits_BTV.shape[-1])
    # split's backward writes the gradient of all logits once; slices would do it once each.
    chunks = zip(
        targets_BT.flatten().split(num_rows),
        logits_BTV.flatten(0, 1).split(num_rows),
        strict=True,
    )
    # Recomputed in the backward, so that no chunk outlives its turn.
    pairs = [
        checkpoint(
            _log_probs_and_entropy,
            targets_N,
            logits_NV,
            temperature,
            use_reentrant=False,
            preserve_rng_state=False,
        )
        for targets_N, logits_NV in chunks
    ]
    logprobs, entropies = zip(*pairs, strict=True)
    return LogProbs(
        torch.cat(logprobs).view_as(targets_BT), torch.cat(entropies).view_as(targets_BT)
    )


def _log_probs_and_entropy(
    targets_N: Tensor, logits_NV: Tensor, temperature: float
) -> tuple[Tensor, Tensor]:
    logprobs_NV = torch.log_softmax(logits_NV.float() / temperature, dim=-1)
    logprobs_N = logprobs_NV.gather(-1, targets_N[:, None]).squeeze(-1)
    probs_NV = logprobs_NV.exp()
    # What cannot be drawn adds nothing; 0 * -inf would be NaN.
    surprise_NV = -logprobs_NV.masked_fill(probs_NV == 0, 0.0)
    return logprobs_N, (probs_NV * surprise_NV).sum(-1)
