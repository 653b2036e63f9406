"""Sequences of one step as micro-batches: a row each, or their shared prompts once in one row.

Axes: B sequences, R rows, L tokens of the longest row, T tokens of the longest completion.
Padding stands on the right, where causal attention never looks, so a model needs neither an
attention mask nor, unless prompts are shared, positions of its own.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from itertools import compress
from typing import TypeVar

import torch
from torch import Tensor

from volley.learner.shared_prompts import SharedPrompt

# Behind the last token, where nothing reads it; inside every vocabulary.
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
    """What goes through the model at once, and what is wanted of it."""

    numbers: frozenset[int]
    """Of the prompts in it."""
    sequences: tuple[TrainSequence, ...]
    """One per row of the tensors that have an axis B."""
    input_ids_RL: Tensor
    """A sequence a row without its last token, or all that is shared in a single row."""
    shared_prompts: tuple[SharedPrompt, ...]
    """The stretches of that row; empty where each row is a sequence."""
    sources_BT: Tensor
    """Which of the R x L tokens, counted through, predicts the target; read at the mask only."""
    targets_BT: Tensor
    """The completions: the tokens whose log-probs are wanted."""
    mask_BT: Tensor
    """True at trained tokens."""
    sampler_logprobs_BT: Tensor
    advantages_B: Tensor

    def to(self, device: torch.device) -> "MicroBatch":
        """The same micro-batch on `device`."""
        return replace(
            self,
            input_ids_RL=self.input_ids_RL.to(device),
            shared_prompts=tuple(one.to(device) for one in self.shared_prompts),
            sources_BT=self.sources_BT.to(device),
            targets_BT=self.targets_BT.to(device),
            mask_BT=self.mask_BT.to(device),
            sampler_logprobs_BT=self.sampler_logprobs_BT.to(device),
            advantages_B=self.advantages_B.to(device),
        )


def micro_batches(
    sequences: Iterable[TrainSequence], token_budget: int, share_from: int | None = None
) -> list[MicroBatch]:
    """All sequences, in micro-batches of at most `token_budget` tokens (or one sequence).

    A prompt is shared where that saves `share_from` tokens. Padding counts, and so does a shared
    prompt for every sequence: a budget that fits the memory with either way fits it with both.
    """
    shared, alone = _families(sequences, share_from)
    return [
        *(_share(chosen) for chosen in _fill(shared, token_budget)),
        *(_pad(chosen) for chosen in _split_by_length(alone, token_budget)),
    ]


def _families(
    sequences: Iterable[TrainSequence], share_from: int | None
) -> tuple[list[list[TrainSequence]], list[TrainSequence]]:
    """Those of one prompt together, where it pays; and all others."""
    families: dict[tuple[int, ...], list[TrainSequence]] = {}
    for sequence in sequences:
        families.setdefault(sequence.prompt_ids, []).append(sequence)
    shared: list[list[TrainSequence]] = []
    alone: list[TrainSequence] = []
    for prompt_ids, family in families.items():
        if share_from is not None and (len(family) - 1) * len(prompt_ids) >= share_from:
            shared.append(family)
        else:
            alone.extend(family)
    return shared, alone


def _fill(
    families: Iterable[list[TrainSequence]], token_budget: int
) -> Iterator[list[list[TrainSequence]]]:
    """Families whole where they fit, in the order given, as many at once as fit."""
    chosen: list[list[TrainSequence]] = []
    num_tokens = 0
    for family in families:
        for part in _split_by_length(family, token_budget):
            num_part_tokens = len(part) * part[0].num_tokens
            if chosen and num_tokens + num_part_tokens > token_budget:
                yield chosen
                chosen, num_tokens = [], 0
            chosen.append(part)
            num_tokens += num_part_tokens
    if chosen:
        yield chosen


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
    """A row for each, the longest first."""
    # The last token is only ever a target.
    rows = [(one.prompt_ids + one.completion_ids)[:-1] for one in sequences]
    input_ids_RL = _padded(rows, PAD_ID)
    num_columns = input_ids_RL.shape[1]
    first_sources_B = torch.tensor(
        [row * num_columns + len(one.prompt_ids) - 1 for row, one in enumerate(sequences)]
    )
    columns_1T = torch.arange(_longest_completion(sequences))[None]
    return _micro_batch(sequences, input_ids_RL, (), first_sources_B[:, None] + columns_1T)


def _share(families: list[list[TrainSequence]]) -> MicroBatch:
    """One row of all, each prompt once."""
    sequences = [one for family in families for one in family]
    num_columns = _longest_completion(sequences)
    input_ids: list[int] = []
    shared_prompts: list[SharedPrompt] = []
    sources: list[Tensor] = []
    for family in families:
        prompt_ids = family[0].prompt_ids
        one = SharedPrompt.of_lengths(len(prompt_ids), [len(of.completion_ids) for of in family])
        sources.append(len(input_ids) + one.sources_GT(num_columns))
        shared_prompts.append(one)
        input_ids.extend(prompt_ids)
        input_ids.extend(token for of in family for token in of.completion_ids)
    return _micro_batch(
        sequences, torch.tensor([input_ids]), tuple(shared_prompts), torch.cat(sources)
    )


def _micro_batch(
    sequences: list[TrainSequence],
    input_ids_RL: Tensor,
    shared_prompts: tuple[SharedPrompt, ...],
    sources_BT: Tensor,
) -> MicroBatch:
    return MicroBatch(
        numbers=frozenset(one.number for one in sequences if one.number is not None),
        sequences=tuple(sequences),
        input_ids_RL=input_ids_RL,
        shared_prompts=shared_prompts,
        sources_BT=sources_BT,
        targets_BT=_padded([one.completion_ids for one in sequences], PAD_ID),
        mask_BT=_padded([one.trained for one in sequences], False),
        sampler_logprobs_BT=_padded([one.sampler_logprobs for one in sequences], 0.0),
        advantages_B=torch.tensor([one.advantage for one in sequences]),
    )


def _longest_completion(sequences: Iterable[TrainSequence]) -> int:
    return max(len(one.completion_ids) for one in sequences)


def _padded(rows: list[tuple[_Element, ...]], fill: _Element) -> Tensor:
    num_columns = max(map(len, rows))
    return torch.tensor([row + (fill,) * (num_columns - len(row)) for row in rows])
