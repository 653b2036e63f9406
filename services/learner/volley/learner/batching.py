"""Sequences of one step as padded micro-batches, the longest first.

Axes: B sequences, L tokens of the longest one, T the last columns of L: as few as cover every
completion. Padding stands on the right, where causal attention never looks, so a model needs
neither an attention mask nor positions of its own.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, fields, replace
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

    @property
    def num_tokens(self) -> int:
        return len(self.prompt_ids) + len(self.completion_ids)

    @property
    def num_trained_tokens(self) -> int:
        return sum(self.trained)


@dataclass(frozen=True, slots=True, eq=False)
class MicroBatch:
    """What goes through the model at once."""

    numbers: frozenset[int]
    """Of the prompts in it."""
    input_ids_BL: Tensor
    mask_BT: Tensor
    """True at trained tokens."""
    sampler_logprobs_BT: Tensor
    advantages_B: Tensor
    positions_B: tuple[int, ...]
    """Of its sequences among all that were given."""

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
    given = list(sequences)
    return [
        _pad([given[position] for position in positions], tuple(positions))
        for positions in _split_by_length(given, token_budget)
    ]


def _split_by_length(sequences: Sequence[TrainSequence], token_budget: int) -> Iterator[list[int]]:
    """The positions of the sequences of each micro-batch."""
    lengths = [one.num_tokens for one in sequences]
    chosen: list[int] = []
    for position in sorted(range(len(lengths)), key=lengths.__getitem__, reverse=True):
        # The first one is the longest and sets the width.
        if chosen and (len(chosen) + 1) * lengths[chosen[0]] > token_budget:
            yield chosen
            chosen = []
        chosen.append(position)
    if chosen:
        yield chosen


def _pad(sequences: list[TrainSequence], positions_B: tuple[int, ...]) -> MicroBatch:
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
        input_ids_BL=_padded(
            [one.prompt_ids + one.completion_ids for one in sequences], num_columns, PAD_ID
        ),
        mask_BT=mask_BL[:, start:],
        sampler_logprobs_BT=sampler_logprobs_BL[:, start:],
        advantages_B=torch.tensor([one.advantage for one in sequences]),
        positions_B=positions_B,
    )


def _padded(rows: list[tuple[_Element, ...]], num_columns: int, fill: _Element) -> Tensor:
    return torch.tensor([row + (fill,) * (num_columns - len(row)) for row in rows])
