"""Sequences of one step as padded micro-batches, the longest first.

Axes: B sequences, L tokens of the longest one, T the last columns of L: as few as cover every
completion. Padding stands on the right, where causal attention never looks, so a model needs
neither an attention mask nor positions of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, fields, replace
from itertools import compress
from typing import TypeVar

import torch
from torch import Tensor

# Under the mask or behind the last token, where nothing reads it; inside every vocabulary.
PAD_ID = 0

_Element = TypeVar("_Element", int, float, bool)


@dataclass(frozen=True, slots=True)
class TrainSequence:
    """A prompt and one completion, with what the loss needs to know about it."""

    prompt_ids: tuple[int, ...]
    completion_ids: tuple[int, ...]
    trained: tuple[bool, ...]
    """Per completion token; False where the environment inserted it."""
    sampler_logprobs: tuple[float, ...]
    """Nats per completion token; never read where not trained."""
    advantage: float
    number: int | None = None
    """Of the prompt; a demonstration has none."""
    lags: tuple[int, ...] = ()
    """Versions behind the head per completion token; a demonstration has none."""

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def num_trained_tokens(self) -> int:
        return sum(self.trained)

    @property
    def trained_lags(self) -> tuple[int, ...]:
        """Versions behind the head per trained token."""
        return tuple(compress(self.lags, self.trained))


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """What goes through the model at once."""

    numbers: frozenset[int]
    """Of the prompts in it."""
    sequences: tuple[TrainSequence, ...]
    """One per row of the tensors that have an axis B."""
    input_ids_BL: Tensor
    mask_BT: Tensor
    """True at trained tokens."""
    sampler_logprobs_BT: Tensor
    advantages_B: Tensor

    @property
    def targets_BT(self) -> Tensor:
        """The tokens whose log-probs are wanted."""
        return self.input_ids_BL[:, -self.mask_BT.shape[1] :]

    def to(self, device: torch.device) -> "MicroBatch":
        """The same micro-batch on `device`."""
        tensors = {name: getattr(self, name).to(device) for name in _TENSORS}
        return replace(self, **tensors)


_TENSORS = tuple(field.name for field in fields(MicroBatch) if field.type is Tensor)


def micro_batches(sequences: Iterable[TrainSequence], token_budget: int) -> list[MicroBatch]:
    """All sequences, in micro-batches of at most `token_budget` padded tokens (or one sequence)."""
    return [_pad(chosen) for chosen in _split_by_length(sequences, token_budget)]


def _split_by_length(
    sequences: Iterable[TrainSequence], token_budget: int
) -> Iterator[list[TrainSequence]]:
    chosen: list[TrainSequence] = []
    for sequence in sorted(sequences, key=lambda one: one.num_tokens, reverse=True):
        # The first one is the longest and sets the width.
        if chosen and (len(chosen) + 1) * chosen[0].num_tokens > token_budget:
            yield chosen
            chosen = []
        chosen.append(sequence)
    if chosen:
        yield chosen


def _pad(sequences: list[TrainSequence]) -> MicroBatch:
    num_columns = sequences[0].num_tokens
    start = min(len(one.prompt_ids) for one in sequences)
    mask_BL = _padded(
        [(False,) * len(one.prompt_ids) + one.trained for one in sequences], num_columns, False
    )
    sampler_logprobs_BL = _padded(
        [(0.0,) * len(one.prompt_ids) + one.sampler_logprobs for one in sequences],
        num_columns,
        0.0,
    )
    return MicroBatch(
        numbers=frozenset(one.number for one in sequences if one.number is not None),
        sequences=tuple(sequences),
        input_ids_BL=_padded(
            [one.prompt_ids + one.completion_ids for one in sequences], num_columns, PAD_ID
        ),
        mask_BT=mask_BL[:, start:],
        sampler_logprobs_BT=sampler_logprobs_BL[:, start:],
        advantages_B=torch.tensor([one.advantage for one in sequences]),
    )


def _padded(rows: list[tuple[_Element, ...]], num_columns: int, fill: _Element) -> Tensor:
    return torch.tensor([row + (fill,) * (num_columns - len(row)) for row in rows])
