"""Where a turn ends: at the token with which its text first holds a stop string.

Sampled ids stay as they are: what the last token says beyond the stop string belongs to the turn.
"""

from collections.abc import Callable, Sequence

import torch

TextOf = Callable[[Sequence[int]], str]

SPARE_TOKENS = 8
"""More than the tokens that make one character together."""
FRAGMENT = "\ufffd"
"""The text of a token that holds only some of a character's bytes."""


class StopStrings:
    """Finds the strings in the text of token ids; decodes no more than it must."""

    def __init__(self, strings: Sequence[str], text_of: TextOf, vocab_size: int) -> None:
        self._strings = tuple(strings)
        self._text_of = text_of
        self._num_last = max(map(len, self._strings)) + SPARE_TOKENS
        last_characters = {FRAGMENT, *(string[-1] for string in self._strings)}
        texts_V = (text_of([token]) for token in range(vocab_size))
        self.ending_V = torch.tensor(
            [not text or not last_characters.isdisjoint(text) for text in texts_V]
        )
        """Mask over the vocabulary: tokens that may be the last of a stop string."""

    def is_hit(self, token_ids: Sequence[int]) -> bool:
        """Whether the text of a turn's tokens holds a string, if it did not before the last one."""
        if not self.ending_V[token_ids[-1]]:
            return False
        text = self._text_of(token_ids[-self._num_last :])
        return any(string in text for string in self._strings)
