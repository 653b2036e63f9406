"""One episode as it grows: what was sampled, what was inserted, how it ended.

Axis: T tokens of the completion, sampled ones and inserted ones.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, field

from volley.rollout.calls import CallFailed
from volley.rollout.engine import Sample
from volley.rollout.environment import Environment, Transcript
from volley.rollout.rewards import Prompt
from volley.schemas.groups import InsertedSpan, StopReason, VersionSpan


@dataclass(slots=True, eq=False)
class Episode:
    """A completion with all that is known of it."""

    environment: Environment | None
    token_ids: list[int] = field(default_factory=list)
    logprobs: list[float] = field(default_factory=list)
    """T nats; 0 where the token was inserted."""
    version_spans: list[VersionSpan] = field(default_factory=list)
    inserted_spans: list[InsertedSpan] = field(default_factory=list)
    turns: list[str] = field(default_factory=list)
    insertions: list[str] = field(default_factory=list)
    stop_reason: StopReason | None = None
    """None while it goes on."""
    failure: str | None = None
    """What the environment raised, where the stop reason is FAILED."""
    metrics: dict[str, float] = field(default_factory=dict)

    def say(self, sample: Sample, text: str) -> None:
        """Add a turn."""
        self.token_ids += sample.token_ids
        self.logprobs += sample.logprobs
        for span in sample.version_spans:
            self._count(span)
        self.turns.append(text)

    def insert(self, token_ids: Sequence[int], text: str) -> None:
        """Add what the environment answered."""
        start = len(self.token_ids)
        self.inserted_spans.append(InsertedSpan(start, start + len(token_ids)))
        self.token_ids += token_ids
        self.logprobs += [0.0] * len(token_ids)
        self._count(VersionSpan(len(token_ids), self.version_spans[-1].version))
        self.insertions.append(text)

    def fail(self, failure: str) -> None:
        """End without a reward."""
        self.stop_reason, self.failure = StopReason.FAILED, failure

    def end(self, stop_reason: StopReason) -> None:
        """End, with what the environment has counted."""
        try:
            self.metrics = metrics_of(self.environment)
        except CallFailed as failure:
            self.fail(str(failure))
        else:
            self.stop_reason = stop_reason

    def transcript(self, prompt: Prompt) -> Transcript:
        return Transcript(prompt, tuple(self.turns), tuple(self.insertions))

    def _count(self, span: VersionSpan) -> None:
        if self.version_spans and self.version_spans[-1].version == span.version:
            span = VersionSpan(self.version_spans.pop().num_tokens + span.num_tokens, span.version)
        self.version_spans.append(span)


def metrics_of(environment: Environment | None) -> dict[str, float]:
    """What an environment has counted, if it counts; raises CallFailed."""
    metrics = getattr(environment, "metrics", {})
    try:
        numbers = {str(name): float(number) for name, number in metrics.items()}
    except (AttributeError, TypeError, ValueError) as error:
        raise CallFailed(f"metrics is {metrics!r:.80}, not numbers by name") from error
    if not all(math.isfinite(number) for number in numbers.values()):
        raise CallFailed(f"metrics is {numbers!r:.80}: a number is not finite")
    return numbers


def checked_stop_strings(environment: Environment) -> tuple[str, ...]:
    """Where an environment wants turns to end; raises CallFailed."""
    strings = getattr(environment, "stop_strings", ())
    if isinstance(strings, str) or not all(isinstance(one, str) and one for one in strings):
        raise CallFailed(f"stop_strings is {strings!r:.80}, not a sequence of texts")
    return tuple(strings)
