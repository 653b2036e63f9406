"""What travels through the queue: a task out, a group (or a failure) back.

Axes in names: G trajectories per group, T tokens of one completion.

A completion is everything after the prompt: sampled tokens and, in multi-turn episodes, text that
the environment inserted. Token ids and log-probs are packed little-endian, because msgpack would
spend nine bytes on every float.
"""

import struct
from collections.abc import Sequence
from enum import StrEnum
from typing import NamedTuple

from msgspec import Struct

from volley.schemas.run_spec import SamplingSpec

SCHEMA_VERSION = 2


class Version(NamedTuple):
    """A name for weights: the learner's epoch and the number of optimiser steps behind them."""

    epoch: int
    step: int

    def __str__(self) -> str:
        return f"{self.epoch}.{self.step}"


class VersionSpan(Struct, frozen=True, array_like=True):
    """The next `num_tokens` tokens of a completion were produced by `version`."""

    num_tokens: int
    version: Version


class InsertedSpan(Struct, frozen=True, array_like=True):
    """Completion tokens `start` up to, not including, `stop` came from the environment."""

    start: int
    stop: int


class StopReason(StrEnum):
    STOP = "stop"
    """The model said so, or the environment."""
    LENGTH = "length"
    """There was no room for more tokens."""
    TURNS = "turns"
    """There was no turn left."""
    FAILED = "failed"
    """The environment raised, or did not answer in time."""

    @property
    def is_truncated(self) -> bool:
        """The model would have gone on."""
        return self in (StopReason.LENGTH, StopReason.TURNS)


class Task(Struct, frozen=True, forbid_unknown_fields=True):
    """One prompt to be answered G times; `number` names it for ever."""

    schema_version: int
    run: str
    number: int
    attempt: int
    seed: int
    min_version: Version
    prompt: str | list[dict[str, str]]
    """As the data file has it: text, or chat messages."""
    prompt_ids: tuple[int, ...]
    """The only tokenisation of the prompt, made by the learner."""
    columns: dict[str, object]
    """The other columns of the data row, for rewards."""
    alone: bool = False
    """Whoever held it before was lost or failed, twice: nothing else is to be harmed."""
    root: str | None = None
    """Of the weights that all tokens must come from; None where newer ones may serve too."""
    sampling: SamplingSpec | None = None
    """Of an evaluation; None for the run's."""


class Trajectory(Struct, frozen=True, forbid_unknown_fields=True):
    """One completion with what is needed to train on it."""

    token_bytes: bytes
    """uint32 per completion token; see `token_ids`."""
    logprob_bytes: bytes
    """float32 nats per completion token; see `sampler_logprobs`."""
    version_spans: tuple[VersionSpan, ...]
    """Cover all T tokens in order; what was inserted counts to the turn before it."""
    inserted_spans: tuple[InsertedSpan, ...]
    """Sorted and disjoint; empty for a single turn."""
    stop_reason: StopReason
    text: str
    rewards: tuple[float | None, ...]
    """One per reward function of the run, None where it does not apply."""
    metrics: dict[str, float] = {}
    """What the environment counted; the same names for all trajectories of a run."""

    @property
    def num_turns(self) -> int:
        """Times the model was asked: once, and again behind each insertion."""
        return 1 + len(self.inserted_spans)

    @property
    def num_tokens(self) -> int:
        """T, counting inserted tokens."""
        return len(self.token_bytes) // 4

    @property
    def token_ids(self) -> tuple[int, ...]:
        """T token ids."""
        return struct.unpack(f"<{self.num_tokens}I", self.token_bytes)

    @property
    def sampler_logprobs(self) -> tuple[float, ...]:
        """T log-probs in nats at the sampling temperature; meaningless where inserted."""
        return struct.unpack(f"<{self.num_tokens}f", self.logprob_bytes)


class Group(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="group"):
    """A finished task: G trajectories of one prompt."""

    schema_version: int
    run: str
    number: int
    attempt: int
    worker: str
    prompt_ids: tuple[int, ...]
    trajectories: tuple[Trajectory, ...]


class FailureReason(StrEnum):
    REWARD = "reward"
    """The reward function raised or answered with something that is not a reward."""
    ENVIRONMENT = "environment"
    """The environment failed for every sample."""
    PROMPT = "prompt"
    """The prompt cannot be served by the engine (for example, longer than the context)."""
    ENGINE = "engine"
    HANDED_BACK = "handed_back"
    """The worker is stopping and returns what it has not finished."""


class Failure(Struct, frozen=True, forbid_unknown_fields=True, tag_field="kind", tag="failure"):
    """A task that came to nothing, and why."""

    schema_version: int
    run: str
    number: int
    attempt: int
    worker: str
    reason: FailureReason
    detail: str
    """For a person: the message, with the traceback where user code raised."""


def pack_token_ids(token_ids: Sequence[int]) -> bytes:
    """Bytes of `Trajectory.token_bytes`."""
    return struct.pack(f"<{len(token_ids)}I", *token_ids)


def pack_logprobs(logprobs: Sequence[float]) -> bytes:
    """Bytes of `Trajectory.logprob_bytes`."""
    return struct.pack(f"<{len(logprobs)}f", *logprobs)
