"""The next token of every row, and its log-prob.

Axes: B rows, V vocabulary.
"""

import torch


def sample_tokens(
    logits_BV: torch.Tensor, temperatures_B: torch.Tensor, uniforms_B: torch.Tensor
) -> tuple[torch.Tensor, torch.Tensor]:
    """Token ids and their log-probs in nats at the temperature, both of shape B.

    A uniform number in [0, 1) picks the token by the inverse of the distribution function, so a
    row's choice depends on its own number alone. Temperature 0 picks the likeliest token.
    """
    greedy_B = temperatures_B == 0
    scale_B = torch.where(greedy_B, 1.0, temperatures_B)
    logprobs_BV = torch.log_softmax(logits_BV.float() / scale_B[:, None], dim=-1)
    # In float64, or the tail of a large vocabulary drowns in the rounding of the sum.
    cumulative_BV = logprobs_BV.double().exp().cumsum(dim=-1)
    # Scaled by the actual total, which rounding leaves a little beside 1.
    targets_B1 = (uniforms_B * cumulative_BV[:, -1])[:, None]
    drawn_B = torch.searchsorted(cumulative_BV, targets_B1, right=True)[:, 0]
    last_token = logits_BV.shape[-1] - 1
    tokens_B = torch.where(greedy_B, logprobs_BV.argmax(dim=-1), drawn_B.clamp(max=last_token))
    return tokens_B, logprobs_BV.gather(-1, tokens_B[:, None])[:, 0]
