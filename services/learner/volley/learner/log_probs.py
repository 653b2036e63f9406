"""Log-probs and entropy of given tokens, and how they come out of logits.

Axes: B sequences, T tokens of a completion, N tokens, V vocabulary. Nats, at least in float32.
"""

from dataclasses import dataclass

import torch
from torch import Tensor
from torch.utils.checkpoint import checkpoint

# 64 MiB in float32, and a few times that in use; 16k tokens of a vocabulary of 151k at once would
# be 10 GB.
LOGITS_AT_ONCE = 2**24


@dataclass(frozen=True, slots=True, eq=False)
class LogProbs:
    """What a policy says about the target tokens of a micro-batch."""

    policy_logprobs_BT: Tensor
    """At the sampling temperature; with gradient unless made under no_grad. 0 where not trained."""
    entropy_BT: Tensor
    """Of the distribution each token was drawn from; likewise."""


def log_probs_of_logits(
    targets_N: Tensor,
    logits_NV: Tensor,
    temperature: float,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """Log-probs at the targets and entropies of softmax(logits / temperature), few at a time."""
    num_tokens = max(1, logits_at_once // logits_NV.shape[-1])
    # split's backward writes the gradient of all logits once; slices would do it once each.
    chunks = zip(targets_N.split(num_tokens), logits_NV.split(num_tokens), strict=True)
    # Recomputed in the backward, so that no chunk outlives its turn.
    pairs = [
        checkpoint(_of_chunk, *chunk, temperature, use_reentrant=False, preserve_rng_state=False)
        for chunk in chunks
    ]
    logprobs, entropies = zip(*pairs, strict=True)
    return torch.cat(logprobs), torch.cat(entropies)


def _of_chunk(targets_N: Tensor, logits_NV: Tensor, temperature: float) -> tuple[Tensor, Tensor]:
    logprobs_NV = torch.log_softmax(widened(logits_NV) / temperature, dim=-1)
    probs_NV = logprobs_NV.exp()
    # What cannot be drawn adds nothing; 0 * -inf would be NaN.
    surprise_NV = -logprobs_NV.masked_fill(probs_NV == 0, 0.0)
    logprobs_N = logprobs_NV.gather(-1, targets_N[:, None]).squeeze(-1)
    return logprobs_N, (probs_NV * surprise_NV).sum(-1)


def widened(values: Tensor) -> Tensor:
    """The values, at least in float32."""
    return values.to(torch.promote_types(values.dtype, torch.float32))
