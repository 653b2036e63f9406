"""A trajectory as other programs read it: one object with its text, tokens, turns and rewards.

`volley trajectories RUN_DIR --json` writes one a line.
"""

import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from itertools import chain, pairwise, repeat

from msgspec import Struct

from volley.learner.advantages import combine_rewards
from volley.schemas.groups import Group, StopReason, Trajectory
from volley.schemas.past import Source


class TokenRecord(Struct, frozen=True):
    """One token of a trajectory."""

    id: int
    text: str
    """Of this token alone; a character that takes several tokens is in none of them."""
    position: int
    """Index in `input_ids`."""
    source: Source
    logprob: float | None
    """Nats, when sampled, at the sampling temperature; None unless generated."""
    version: str | None
    """Epoch and step of the weights that sampled it, as 1.80; None unless generated."""


class Passage(Struct, frozen=True):
    """Neighbouring tokens from one source."""

    source: Source
    start: int
    """Index in `input_ids` of the first token."""
    stop: int
    """Index in `input_ids` behind the last token."""
    text: str
    """With special tokens."""


class TrajectoryRecord(Struct, frozen=True):
    """One answer to one prompt, and all that the step log knows of it."""

    run: str
    epoch: int
    """Of the learner that took the step."""
    step: int
    """Of the version that the step leads to, if it is applied."""
    attempt: int
    """Records for this step before this one; none of them was applied."""
    number: int
    """Of the prompt."""
    index: int
    """Among the answers to this prompt, from 0."""
    worker: str
    disposition: str | None
    """What became of the prompt's group: trained, filtered, refused; None before the step's end."""
    query: str
    """The prompt as the model sees it, with special tokens."""
    completion: str
    """Everything behind the prompt, as reward functions are given it: without special tokens."""
    generated_text: str
    """What the model said, without what was inserted; with special tokens."""
    final_answer: str
    """Content of the last answer tag in `completion`, or all of it without one."""
    prompt_ids: tuple[int, ...]
    input_ids: tuple[int, ...]
    """Prompt, generated and inserted tokens, in their order."""
    generated_positions: tuple[int, ...]
    """Indices in `input_ids` of what the model said: the tokens that can be trained."""
    passages: tuple[Passage, ...]
    tokens: tuple[TokenRecord, ...]
    """One for each of `input_ids`."""
    turns: int
    """Times the model was asked."""
    metrics: dict[str, float]
    """What the environment counted: searches, errors and the like."""
    stop_reason: StopReason
    rewards: dict[str, float | None]
    """By reward function; None where it does not apply or has failed."""
    reward: float | None
    """Their weighted sum; None where no function gave one."""
    advantage: float | None
    """None where the trajectory has none, or more than the step log is needed to compute it."""


@dataclass(frozen=True, slots=True)
class Step:
    """What all trajectories of a step have in common."""

    run: str
    epoch: int
    step: int
    attempt: int
    functions: tuple[str, ...]
    """Of the run, with their weights."""
    weights: tuple[float, ...]
    answer_tag: str
    text_of: Callable[[Sequence[int]], str]
    """With special tokens."""


def records_of(
    group: Group, step: Step, disposition: str | None, advantages_G: Sequence[float | None]
) -> Iterator[TrajectoryRecord]:
    """One record per trajectory of the group."""
    for index, (trajectory, advantage) in enumerate(
        zip(group.trajectories, advantages_G, strict=True)
    ):
        passages = tuple(passages_of(group.prompt_ids, trajectory, step.text_of))
        tokens = tuple(_tokens(group.prompt_ids, trajectory, passages, step.text_of))
        generated = [one for one in passages if one.source is Source.GENERATED]
        yield TrajectoryRecord(
            run=step.run,
            epoch=step.epoch,
            step=step.step,
            attempt=step.attempt,
            number=group.number,
            index=index,
            worker=group.worker,
            disposition=disposition,
            query=step.text_of(group.prompt_ids),
            completion=trajectory.text,
            generated_text="".join(one.text for one in generated),
            final_answer=final_answer(trajectory.text, step.answer_tag),
            prompt_ids=group.prompt_ids,
            input_ids=group.prompt_ids + trajectory.token_ids,
            generated_positions=tuple(
                chain.from_iterable(range(one.start, one.stop) for one in generated)
            ),
            passages=passages,
            tokens=tokens,
            turns=trajectory.num_turns,
            metrics=trajectory.metrics,
            stop_reason=trajectory.stop_reason,
            rewards=dict(zip(step.functions, trajectory.rewards, strict=True)),
            reward=combine_rewards(trajectory.rewards, step.weights),
            advantage=advantage,
        )


def final_answer(completion: str, tag: str) -> str:
    """What stands in the last `<tag>...</tag>`, as built-in rewards find it, or all of the text."""
    contents: list[str] = re.findall(
        rf"<{tag}>((?:(?!</?{tag}>).)*)</{tag}>", completion, flags=re.DOTALL
    )
    return contents[-1] if contents else completion


def passages_of(
    prompt_ids: tuple[int, ...],
    trajectory: Trajectory,
    text_of: Callable[[Sequence[int]], str],
) -> Iterator[Passage]:
    """From end to end, none of them empty."""
    start = len(prompt_ids)
    input_ids = prompt_ids + trajectory.token_ids
    edges = [edge for one in trajectory.inserted_spans for edge in (one.start, one.stop)]
    bounds = [0, *(start + edge for edge in (0, *edges)), len(input_ids)]
    sources = chain([Source.PROMPT], _alternating())
    for (first, stop), source in zip(pairwise(bounds), sources, strict=False):
        if first < stop:
            yield Passage(source, first, stop, text_of(input_ids[first:stop]))


def _alternating() -> Iterator[Source]:
    while True:
        yield Source.GENERATED
        yield Source.INSERTED


def _tokens(
    prompt_ids: tuple[int, ...],
    trajectory: Trajectory,
    passages: Sequence[Passage],
    text_of: Callable[[Sequence[int]], str],
) -> Iterator[TokenRecord]:
    nothing = (None,) * len(prompt_ids)
    input_ids = prompt_ids + trajectory.token_ids
    logprobs = nothing + trajectory.sampler_logprobs
    versions = [*nothing, *_versions(trajectory)]
    for passage in passages:
        is_generated = passage.source is Source.GENERATED
        for position in range(passage.start, passage.stop):
            yield TokenRecord(
                id=input_ids[position],
                text=text_of(input_ids[position : position + 1]),
                position=position,
                source=passage.source,
                logprob=logprobs[position] if is_generated else None,
                version=versions[position] if is_generated else None,
            )


def _versions(trajectory: Trajectory) -> Iterator[str]:
    """One per token of the completion."""
    spans = trajectory.version_spans
    return chain.from_iterable(repeat(str(one.version), one.num_tokens) for one in spans)
