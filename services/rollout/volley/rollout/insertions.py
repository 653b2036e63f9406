"""What an environment answers, as the token ids that are inserted.

Text is inserted as it stands. Messages are inserted as the model's chat template writes them
between two turns of the assistant; the learner has found out how, and whether it can be done.
"""

from collections.abc import Mapping, Sequence
from itertools import groupby
from typing import Protocol

from volley.rollout.calls import CallFailed
from volley.rollout.environment import Answer, Message
from volley.schemas.run_spec import ChatFrame

Frames = Mapping[str, ChatFrame | str]
"""By the role of the messages; a text says why there is none."""


class Texts(Protocol):
    """Text of token ids, and the other way round."""

    def text_of(self, token_ids: Sequence[int]) -> str: ...

    def inserted_ids(self, text: str) -> tuple[int, ...]:
        """Of text from outside: no special tokens."""
        ...

    def frame_ids(self, text: str) -> tuple[int, ...]:
        """Of what the chat template writes, special tokens among it."""
        ...


def checked_answer(value: object) -> Answer:
    """What an environment answered, if it can be inserted; raises CallFailed."""
    if isinstance(value, str) and value:
        contents = [value]
    elif isinstance(value, list) and value and all(map(_is_message, value)):
        contents = [message["content"] for message in value]
    else:
        raise CallFailed(
            f"the environment answered {value!r:.80}: text, a list of {{'role', 'content'}} "
            "messages, or None to end"
        )
    for content in contents:
        try:
            content.encode()
        except UnicodeEncodeError as error:
            raise CallFailed(
                f"the environment answered text that is no unicode: {error}"
            ) from error
    return value


def num_characters(answer: Answer) -> int:
    """Of what is said in it."""
    if isinstance(answer, str):
        return len(answer)
    return sum(len(message["content"]) for message in answer)


def inserted_ids(answer: Answer, last_id: int, frames: Frames, texts: Texts) -> tuple[int, ...]:
    """Token ids to insert behind a turn that ends with `last_id`; raises CallFailed."""
    if isinstance(answer, str):
        return texts.inserted_ids(answer)
    frame = _frame_for(answer, frames)
    opening = texts.frame_ids(frame.opening)
    # The model has ended its turn itself, unless a stop string did.
    token_ids = list(opening[1:] if opening[0] == last_id else opening)
    for index, message in enumerate(answer):
        if index and frame.between is not None:
            token_ids += texts.frame_ids(frame.between)
        token_ids += texts.inserted_ids(message["content"])
    return (*token_ids, *texts.frame_ids(frame.closing))


def _frame_for(messages: Sequence[Message], frames: Frames) -> ChatFrame:
    role, *others = [role for role, _ in groupby(message["role"] for message in messages)]
    if others:
        raise CallFailed(f"the environment answered as {role} and as {others[0]} at once")
    frame = frames.get(role, f"answer with messages of another role: {', '.join(frames)}")
    if isinstance(frame, str):
        raise CallFailed(f"the environment answered a {role!r} message: {frame}")
    if frame.between is None and len(messages) > 1:
        raise CallFailed(f"the chat template takes one {role!r} message at a time")
    return frame


def _is_message(value: object) -> bool:
    return (
        isinstance(value, dict)
        and value.keys() == {"role", "content"}
        and all(isinstance(text, str) for text in value.values())
    )
