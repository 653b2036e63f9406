"""Where the tokens of a prompt and of its completions stand when the prompt is there once.

Axes: G completions of one prompt, T tokens of the longest one, N tokens of all of them. A row of
tokens is a prompt, its completions end to end, the next prompt, and so on.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor


@dataclass(frozen=True, slots=True, eq=False)
class SharedPrompt:
    """One prompt with its completions, as a stretch of a row."""

    num_prompt_tokens: int
    token_at_GT: Tensor
    """Which of the N tokens stands where, once each completion has a row; padded with token 0."""
    place_of_N: Tensor
    """The inverse: where in the flattened G x T each token stands."""

    @classmethod
    def of_lengths(cls, num_prompt_tokens: int, lengths_G: Sequence[int]) -> "SharedPrompt":
        """For completions of these lengths, in the order they stand in."""
        lengths_G1 = torch.tensor(lengths_G)[:, None]
        columns_1T = torch.arange(max(lengths_G))[None]
        is_token_GT = columns_1T < lengths_G1
        starts_G1 = lengths_G1.cumsum(0) - lengths_G1
        token_at_GT = torch.where(is_token_GT, starts_G1 + columns_1T, 0)
        return cls(num_prompt_tokens, token_at_GT, is_token_GT.flatten().nonzero()[:, 0])

    @property
    def num_completion_tokens(self) -> int:
        """N, of all completions together."""
        return self.place_of_N.shape[0]

    @property
    def num_tokens(self) -> int:
        """Of the stretch."""
        return self.num_prompt_tokens + self.num_completion_tokens

    @property
    def positions(self) -> Tensor:
        """Of each token of the stretch: every completion goes on where the prompt ends."""
        device = self.place_of_N.device
        columns_N = self.place_of_N % self.token_at_GT.shape[1]
        prompt = torch.arange(self.num_prompt_tokens, device=device)
        return torch.cat([prompt, self.num_prompt_tokens + columns_N])

    def sources_GT(self, num_columns: int) -> Tensor:
        """Which token of the stretch predicts the one in a column; read where there is one."""
        columns_1T = torch.arange(num_columns)[None]
        before_GT = self.num_prompt_tokens + self.token_at_GT[:, :1] + columns_1T - 1
        return torch.where(columns_1T == 0, self.num_prompt_tokens - 1, before_GT)

    def to(self, device: torch.device) -> "SharedPrompt":
        """The same on `device`."""
        token_at_GT, place_of_N = self.token_at_GT.to(device), self.place_of_N.to(device)
        return SharedPrompt(self.num_prompt_tokens, token_at_GT, place_of_N)
