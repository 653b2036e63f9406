"""What the chat template writes when somebody answers the assistant, and whether it may be used.

    SAID <|im_end|>\\n<|im_start|>tool\\n ANSWER <|im_end|>\\n<|im_start|>assistant\\n  SAID
         ---------- opening ----------        ------------- closing -------------

Token ids of an episode only grow, so a conversation must begin as it was written before it went
on. Templates that leave out earlier thoughts, or move or rewrite what was said, are refused.
"""

from collections.abc import Sequence
from itertools import zip_longest

import msgspec

from volley.learner.policy import InvalidChat, Message, Policy
from volley.learner.prompts import Row
from volley.schemas.run_spec import ChatFrame, EnvironmentSpec
from volley.telemetry.stops import ExitCode, Stop

ROLES = ("tool", "user")
"""Of who may answer the assistant."""
QUESTION: Message = {"role": "user", "content": "What is six times seven?"}
SAID = "I'll have a look."
THOUGHT = f"<think>\nSix sevens.\n</think>\n\n{SAID}"
ANSWERS = ('{"first": "<42> & so on"}\n\nthe end', "another one")
"""With what a template might escape."""
SHOWN_CHARS = 40


def framed(
    environment: EnvironmentSpec | None,
    policy: Policy,
    stop_token_ids: Sequence[int],
    rows: Sequence[Row],
) -> EnvironmentSpec | None:
    """The environment with what workers write around its messages.

    Raises Stop where it is sure to need what the template does not give.
    """
    if environment is None:
        return None
    frames = {role: _frame_or_reason(role, policy, stop_token_ids) for role in ROLES}
    if environment.tools:
        _check_tools(frames["tool"], rows)
    return msgspec.structs.replace(environment, frames=frames)


def _check_tools(frame: ChatFrame | str, rows: Sequence[Row]) -> None:
    for row in rows:
        if isinstance(row.prompt, str):
            raise Stop(
                ExitCode.CONFIG,
                f"{row.place}: 'prompt' is text, and tools are shown to the model by its chat "
                "template: give a list of {'role', 'content'} messages",
            )
    if isinstance(frame, str):
        raise Stop(ExitCode.CONFIG, f"environment.name: tools needs another template: {frame}")


def _frame_or_reason(role: str, policy: Policy, stop_token_ids: Sequence[int]) -> ChatFrame | str:
    try:
        frame = read_frame(role, policy)
        _check_end(frame, policy, stop_token_ids)
    except InvalidChat as error:
        return (
            f"model.path: its chat template cannot take {role!r} messages in an episode of "
            f"several turns: {error.message}. Name another one in model.chat_template, or use an "
            "environment without them"
        )
    return frame


def read_frame(role: str, policy: Policy) -> ChatFrame:
    """What the template writes around messages of that role; raises InvalidChat."""
    answers = [{"role": role, "content": content} for content in ANSWERS]
    written = _write([QUESTION], policy) + SAID
    one = _rest(written, _write([QUESTION, _assistant(SAID), answers[0]], policy))
    opening, content, closing = one.partition(ANSWERS[0])
    if not content:
        raise InvalidChat(f"it rewrites what they say: {ANSWERS[0]!r} becomes {one!r}")
    _check_conversations(role, ChatFrame(opening, None, closing), policy)
    try:
        two = _write([QUESTION, _assistant(SAID), *answers], policy)
    except InvalidChat:
        return ChatFrame(opening, None, closing)
    between = _rest(written + opening + ANSWERS[0], two).removesuffix(ANSWERS[1] + closing)
    return ChatFrame(opening, between, closing)


def _check_conversations(role: str, frame: ChatFrame, policy: Policy) -> None:
    """Raise InvalidChat unless longer conversations are what the frame makes of them."""
    for said in (SAID, THOUGHT):
        messages = [QUESTION]
        written = _write(messages, policy)
        for content in ANSWERS:
            messages += [_assistant(said), {"role": role, "content": content}]
            written += said + frame.opening + content + frame.closing
            if _rest(written, _write(messages, policy)):
                raise InvalidChat("it writes more when a conversation goes on")


def _check_end(frame: ChatFrame, policy: Policy, stop_token_ids: Sequence[int]) -> None:
    """Raise InvalidChat if the model would not be stopped where the template ends its turn."""
    first_ids = policy.tokenise_part(frame.opening)[:1]
    if not set(first_ids) & set(stop_token_ids):
        raise InvalidChat(
            f"it ends the assistant's turn with {frame.opening[:SHOWN_CHARS]!r} and not with one "
            "of the run's end tokens (sampling.stop_token_ids takes more)"
        )


def _assistant(content: str) -> Message:
    return {"role": "assistant", "content": content}


def _write(messages: list[Message], policy: Policy) -> str:
    return policy.render(messages, add_generation_prompt=True)


def _rest(written: str, longer: str) -> str:
    """What a longer conversation adds to what is written; raises InvalidChat if that changes."""
    if not longer.startswith(written):
        before, after = first_difference(written, longer)
        raise InvalidChat(
            f"it does not preserve prefixes: {before!r} becomes {after!r} when the conversation "
            "goes on"
        )
    return longer[len(written) :]


def first_difference(first: str, second: str) -> tuple[str, str]:
    """Where two texts begin to differ: what the one says there, and what the other says."""
    pairs = enumerate(zip_longest(first, second))
    place = next(index for index, (a, b) in pairs if a != b)
    return first[place : place + SHOWN_CHARS], second[place : place + SHOWN_CHARS]
