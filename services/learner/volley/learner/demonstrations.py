"""Demonstrations to learn from: of each, what the model shall say is trained, and nothing else.

A row of the JSONL file is one of

    {"prompt": "sort cab=", "completion": "abc"}
    {"prompt": "who?", "completion": [{"text": "<search>x</search>"},
                                      {"inserted": "<information>y</information>"},
                                      {"text": "<answer>y</answer>"}]}
    {"messages": [{"role": "user", "content": "who?"}, {"role": "assistant", "content": "y"}]}

A prompt is text or chat messages, with the same tokens as in GRPO. What follows it is tokenised
part by part, as an episode is: so the model meets here what it will meet there.
"""

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from volley.learner.batching import TrainSequence
from volley.learner.chat_frames import first_difference
from volley.learner.policy import InvalidChat, Message, Policy
from volley.telemetry.stops import ExitCode, Stop

ASSISTANT = "assistant"

Row = dict[str, object]


class InvalidRow(ValueError):
    """A row that nothing can be learnt from; the message says what to write instead."""


@dataclass(frozen=True, slots=True)
class Part:
    """A piece of a completion that one side has written."""

    token_ids: Sequence[int]
    is_trained: bool


def read_demonstrations(data: Path, policy: Policy) -> list[TrainSequence]:
    """The demonstrations of a JSONL file; raises Stop naming the line of what is wrong."""
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(ExitCode.CONFIG, f"cold_start.data: cannot read {data}: {error}") from error
    demonstrations = [
        _read_demonstration(f"{data}:{index}", line, policy)
        for index, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not demonstrations:
        raise Stop(
            ExitCode.CONFIG, f"cold_start.data: {data} is empty: give one JSON object a line"
        )
    return demonstrations


def _read_demonstration(place: str, line: str, policy: Policy) -> TrainSequence:
    try:
        return _demonstration_of(_row_of(line), policy)
    except (InvalidRow, InvalidChat) as error:
        raise Stop(ExitCode.CONFIG, f"{place}: {error}") from error


def _row_of(line: str) -> Row:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise InvalidRow(f"not JSON: {error}") from error
    if not isinstance(row, dict):
        raise InvalidRow("not an object: write {'prompt': ..., 'completion': ...}")
    if "messages" not in row:
        for column in ("prompt", "completion"):
            if column not in row:
                found = ", ".join(row) or "none"
                raise InvalidRow(
                    f"column {column!r} is missing (columns here: {found}): give 'prompt' and "
                    "'completion', or 'messages'"
                )
    return row


def _demonstration_of(row: Row, policy: Policy) -> TrainSequence:
    if "messages" in row:
        messages = _checked_messages("messages", row["messages"])
        prompt: str | list[Message] = messages[: _turns(messages)[0]]
        parts = list(_parts_of_chat(messages, policy))
    else:
        prompt = _checked_prompt(row["prompt"])
        parts = _parts_of_completion(row["completion"], policy)
    [prompt_ids] = policy.tokenise([prompt])
    return _checked(_sequence_of(prompt_ids, parts), policy.context_length)


def _checked_prompt(prompt: object) -> str | list[Message]:
    return prompt if isinstance(prompt, str) else _checked_messages("prompt", prompt)


def _checked_messages(column: str, messages: object) -> list[Message]:
    if not isinstance(messages, list) or not all(map(_is_message, messages)):
        raise InvalidRow(
            f"{column!r} must be {'text or ' if column == 'prompt' else ''}a list of "
            "{'role', 'content'} messages, both of them text"
        )
    return messages


def _is_message(message: object) -> bool:
    return (
        isinstance(message, dict)
        and {"role", "content"} <= message.keys()
        and all(isinstance(value, str) for value in message.values())
    )


def _parts_of_completion(completion: object, policy: Policy) -> list[Part]:
    """Text is the model's, its end included; what is inserted is not."""
    if isinstance(completion, str):
        completion = [{"text": completion}]
    if not isinstance(completion, list) or not all(map(_is_piece, completion)):
        raise InvalidRow(
            "'completion' must be text, or a list of {'text': ...} and {'inserted': ...}; a "
            "conversation goes into 'messages'"
        )
    if not completion or "text" not in completion[-1]:
        raise InvalidRow("the last part of 'completion' must be a 'text': the model ends it")
    parts = [
        Part(policy.tokenise_part(text), is_trained=kind == "text")
        for piece in completion
        for kind, text in piece.items()
    ]
    return [*parts, Part([policy.end_token_id], is_trained=True)]


def _is_piece(piece: object) -> bool:
    return (
        isinstance(piece, dict)
        and piece.keys() in ({"text"}, {"inserted"})
        and all(isinstance(text, str) for text in piece.values())
    )


def _turns(messages: Sequence[Message]) -> list[int]:
    """Where the assistant speaks, once somebody has spoken before."""
    turns = [index for index, message in enumerate(messages) if message["role"] == ASSISTANT]
    if not turns or turns[0] == 0:
        raise InvalidRow(
            "'messages' must begin with another role than 'assistant' and hold at least one "
            "'assistant' turn, which is what is trained"
        )
    return turns


def _parts_of_chat(messages: list[Message], policy: Policy) -> Iterator[Part]:
    """The assistant's turns up to the token that ends them, and what stands between them."""
    turns = _turns(messages)
    shown = policy.render(messages[: turns[0]], add_generation_prompt=True)
    for turn in turns:
        before = policy.render(messages[:turn], add_generation_prompt=True)
        after = policy.render(messages[: turn + 1], add_generation_prompt=False)
        yield Part(policy.tokenise_part(_continuation(shown, before, turn)), is_trained=False)
        said = policy.tokenise_part(_continuation(before, after, turn))
        num_trained = _length_to_end(said, policy.stop_token_ids(), turn)
        yield Part(said[:num_trained], is_trained=True)
        if turn != turns[-1]:
            yield Part(said[num_trained:], is_trained=False)
        shown = after


def _continuation(shorter: str, longer: str, turn: int) -> str:
    """What a longer conversation adds; raises InvalidRow if the template changes what was."""
    if not longer.startswith(shorter):
        before, after = first_difference(shorter, longer)
        raise InvalidRow(
            f"the chat template does not preserve prefixes: up to messages[{turn}], what it wrote "
            f"before as {before!r} becomes {after!r}; "
            "so these are not the tokens that the model would have seen. Use a template that "
            "only appends, or write one row for each assistant turn"
        )
    return longer[len(shorter) :]


def _length_to_end(token_ids: Sequence[int], stop_token_ids: Sequence[int], turn: int) -> int:
    """Tokens of a turn up to its end; a template may write more, which nobody samples."""
    for index, token_id in enumerate(token_ids):
        if token_id in stop_token_ids:
            return index + 1
    raise InvalidRow(
        f"the chat template ends messages[{turn}] with none of the model's end tokens, so it "
        "would never learn to stop: name the template's in eos_token_id of the model's "
        "generation_config.json"
    )


def _sequence_of(prompt_ids: Sequence[int], parts: Sequence[Part]) -> TrainSequence:
    completion_ids = tuple(token_id for part in parts for token_id in part.token_ids)
    return TrainSequence(
        prompt_ids=tuple(prompt_ids),
        completion_ids=completion_ids,
        trained=tuple(part.is_trained for part in parts for _ in part.token_ids),
        # Nobody sampled a demonstration, and all of them weigh the same.
        sampler_logprobs=(0.0,) * len(completion_ids),
        advantage=1.0,
    )


def _checked(demonstration: TrainSequence, context_length: int) -> TrainSequence:
    if not demonstration.prompt_ids:
        raise InvalidRow("the prompt has no tokens")
    if demonstration.num_tokens > context_length:
        raise InvalidRow(
            f"prompt and completion have {demonstration.num_tokens} tokens, the model's context "
            f"has {context_length}: shorten the row or leave it out"
        )
    return demonstration
