"""Attention over a row in which a prompt stands once, before all its completions.

Axes: K heads, N tokens, D units of a head; G, T as in shared_prompts.

Registered with transformers beside its own attentions; the model's projections, norms and MLPs see
the row as it is, and none of them looks at other tokens. A prompt attends to itself; completions
are given a row each, and attend to the prompt and to themselves.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn.attention.bias import causal_lower_right
from transformers import AttentionInterface
from transformers.integrations.sdpa_attention import sdpa_attention_forward

from volley.learner.shared_prompts import SharedPrompt

SHARED_PROMPTS = "volley_shared_prompts"
"""The name of it, among transformers' attention implementations."""

# What models tell their attention beside, and what changes nothing here.
HARMLESS_OPTIONS = frozenset({"is_causal", "position_ids", "use_cache"})


class UnsupportedAttention(Exception):
    """A layer asks for something that would be lost, such as a sliding window."""


def attend(
    module: torch.nn.Module,
    query_1KND: Tensor,
    key_1KND: Tensor,
    value_1KND: Tensor,
    attention_mask: Tensor | None,
    dropout: float = 0.0,
    scaling: float | None = None,
    shared_prompts: Sequence[SharedPrompt] = (),
    **options: object,
) -> tuple[Tensor, None]:
    """Outputs 1 x N x K x D; without shared prompts each row is one sequence, as sdpa has it."""
    unknown = {name for name, value in options.items() if value is not None} - HARMLESS_OPTIONS
    if unknown or attention_mask is not None:
        raise UnsupportedAttention(", ".join(sorted(unknown)) or "an attention mask")
    attention = _Attention(module, dropout, scaling)
    tensors = (query_1KND, key_1KND, value_1KND)
    if not shared_prompts:
        return attention.of(*tensors), None
    # split's backward writes the gradient of the row once; slices would do it once each.
    lengths = [one.num_tokens for one in shared_prompts]
    stretches = zip(*(tensor.split(lengths, dim=2) for tensor in tensors), strict=True)
    outputs = [
        _attend_within(attention, one, *stretch)
        for one, stretch in zip(shared_prompts, stretches, strict=True)
    ]
    return torch.cat(outputs, dim=1), None


@dataclass(frozen=True, slots=True, eq=False)
class _Attention:
    """sdpa as one layer uses it."""

    module: torch.nn.Module
    dropout: float
    scaling: float | None

    def of(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Causal: the last query sees all keys. Tokens come before heads in what is returned."""
        num_queries, num_keys = query.shape[2], key.shape[2]
        mask = None if num_queries == num_keys else causal_lower_right(num_queries, num_keys)
        output, _ = sdpa_attention_forward(
            self.module, query, key, value, mask, self.dropout, self.scaling
        )
        return output


def _attend_within(
    attention: _Attention, one: SharedPrompt, query: Tensor, key: Tensor, value: Tensor
) -> Tensor:
    """Outputs of one stretch of the row."""
    lengths = [one.num_prompt_tokens, one.num_completion_tokens]
    parts = [tensor.split(lengths, dim=2) for tensor in (query, key, value)]
    (prompt_query, query_N), (prompt_key, key_N), (prompt_value, value_N) = parts
    output_GTKD = attention.of(
        _rows(query_N, one),
        _behind_prompt(prompt_key, _rows(key_N, one)),
        _behind_prompt(prompt_value, _rows(value_N, one)),
    )
    output_NKD = output_GTKD.flatten(0, 1).index_select(0, one.place_of_N)
    return torch.cat([attention.of(prompt_query, prompt_key, prompt_value), output_NKD[None]], 1)


def _rows(tokens_1KND: Tensor, one: SharedPrompt) -> Tensor:
    """Completions as G x K x T x D; padding is token 0, which no token of its row sees."""
    num_rows, num_columns = one.token_at_GT.shape
    padded_KND = tokens_1KND[0].index_select(1, one.token_at_GT.flatten())
    num_heads, num_units = tokens_1KND.shape[1], tokens_1KND.shape[3]
    return padded_KND.view(num_heads, num_rows, num_columns, num_units).transpose(0, 1)


def _behind_prompt(prompt_1KPD: Tensor, rows_GKTD: Tensor) -> Tensor:
    num_rows = rows_GKTD.shape[0]
    return torch.cat([prompt_1KPD.expand(num_rows, -1, -1, -1), rows_GKTD], dim=2)


# Compiled layers call it as it is: its stretches have other lengths in every micro-batch.
AttentionInterface.register(SHARED_PROMPTS, torch.compiler.disable(attend))
