"""What an environment is: it answers the model between its turns, and that is not trained.

class Calculator:
    stop_strings = ("</calc>",)             # a turn ends behind one of them, or at an end token

    def __init__(self, prompt, columns):    # one instance per episode: state is its own
        self.metrics = {"errors": 0}

    def respond(self, transcript):          # or `async def`
        return "<result>42</result>"        # inserted as it stands; the model goes on behind it
        return None                         # the episode is over

        # Or as the model's chat template writes it, with the assistant's turn ended before it and
        # the next one begun behind it; one role at a time, `tool` or `user`:
        return [{"role": "user", "content": "42"}]

[environment]
name = "calculator:Calculator"
[environment.options]                       # keyword arguments behind prompt and columns
"""

from collections.abc import Awaitable, Mapping, Sequence
from dataclasses import dataclass
from typing import Protocol

from volley.rollout.rewards import Prompt

Message = dict[str, str]
Answer = str | list[Message]
"""Text, or chat messages of one role: {"role": "tool", "content": ...}."""


@dataclass(frozen=True, slots=True)
class Transcript:
    """An episode so far, as an environment reads it: text, decoded from the token ids."""

    prompt: Prompt
    turns: tuple[str, ...]
    """What the model said, a text a turn; at least one. The stop string is the end of its turn, but
    for what else the last token holds."""
    insertions: tuple[str, ...]
    """What was inserted between them: one less."""

    @property
    def turn(self) -> str:
        """What the model said since the last insertion."""
        return self.turns[-1]

    @property
    def completion(self) -> str:
        """Everything behind the prompt."""
        pairs = zip(self.turns, (*self.insertions, ""), strict=True)
        return "".join(text for pair in pairs for text in pair)


class Environment(Protocol):
    """One episode's partner; `Environment(prompt, columns, **options)` begins it.

    Its constructor and `respond` may raise: then its own sample has no reward. They are called
    from many threads, but those of one episode one after the other.
    """

    @property
    def stop_strings(self) -> Sequence[str]:
        """Each ends a turn. Without any, turns end at end tokens only."""
        ...

    @property
    def metrics(self) -> Mapping[str, float]:
        """Numbers about the episode, read at its end and averaged over a step's trajectories."""
        ...

    def respond(self, transcript: Transcript) -> Answer | Awaitable[Answer | None] | None:
        """What to insert, behind which the model goes on, or None: the episode is over.

        What is spelt in it like a special token, an end token say, is inserted as mere text.
        """
        ...
