"""Bytes of queue messages: one codec, schema number first, nothing believed before it is checked.

Everything that is wrong with bytes from outside raises `InvalidMessage`; its text says what.
"""

import math
from dataclasses import dataclass
from itertools import pairwise
from typing import TypeVar

import msgspec

from volley.schemas.groups import SCHEMA_VERSION, Failure, Group, Task, Trajectory

# float32 rounding and a processed softmax may put a certain token slightly above log 1 = 0.
MAX_LOGPROB_NATS = 1e-3

_Message = TypeVar("_Message")


class InvalidMessage(ValueError):
    """These bytes are not a message of this run; nothing was built from them."""


@dataclass(frozen=True, slots=True)
class GroupLimits:
    """What a group of this run may look like; larger or different ones are refused."""

    run: str
    num_generations: int
    max_completion_length: int
    num_rewards: int
    vocab_size: int
    max_body_bytes: int


class _Head(msgspec.Struct):
    schema_version: int


_HEAD = msgspec.msgpack.Decoder(_Head)
_TASK = msgspec.msgpack.Decoder(Task)
_RESULT: msgspec.msgpack.Decoder[Group | Failure] = msgspec.msgpack.Decoder(Group | Failure)


def encode(message: Task | Group | Failure) -> bytes:
    """The bytes that travel through the queue."""
    return msgspec.msgpack.encode(message)


def decode_task(body: bytes, max_body_bytes: int) -> Task:
    """The task in `body`; raises InvalidMessage."""
    _check_head(body, max_body_bytes)
    return _decode(body, _TASK)


def decode_result(body: bytes, limits: GroupLimits) -> Group | Failure:
    """The finished group or the failure in `body`, every length checked; raises InvalidMessage."""
    _check_head(body, limits.max_body_bytes)
    result = _decode(body, _RESULT)
    if result.run != limits.run:
        raise InvalidMessage(f"result of run {result.run!r}, this run is {limits.run!r}")
    if isinstance(result, Group):
        _check_group(result, limits)
    return result


def _check_head(body: bytes, max_body_bytes: int) -> None:
    if len(body) > max_body_bytes:
        raise InvalidMessage(f"{len(body)} bytes, more than queue.max_body_bytes {max_body_bytes}")
    found = _decode(body, _HEAD).schema_version
    if found != SCHEMA_VERSION:
        raise InvalidMessage(
            f"schema {found}, this side speaks {SCHEMA_VERSION}: "
            f"{'upgrade this side' if found > SCHEMA_VERSION else 'upgrade the sender'}"
        )


def _decode(body: bytes, decoder: msgspec.msgpack.Decoder[_Message]) -> _Message:
    try:
        message = decoder.decode(body)
    # Deep nesting exhausts msgspec's own recursion guard before any memory is taken.
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise InvalidMessage(f"not a message: {error}") from error
    return message


def _check_group(group: Group, limits: GroupLimits) -> None:
    if len(group.trajectories) != limits.num_generations:
        raise InvalidMessage(
            f"{len(group.trajectories)} trajectories, num_generations is {limits.num_generations}"
        )
    _check_ids(group.prompt_ids, limits)
    for trajectory in group.trajectories:
        _check_trajectory(trajectory, limits)


def _check_trajectory(trajectory: Trajectory, limits: GroupLimits) -> None:
    num_tokens = trajectory.num_tokens
    if len(trajectory.token_bytes) != 4 * num_tokens:
        raise InvalidMessage("token_bytes is not a whole number of uint32")
    if not 0 < num_tokens <= limits.max_completion_length:
        raise InvalidMessage(
            f"{num_tokens} tokens, max_completion_length is {limits.max_completion_length}"
        )
    if len(trajectory.logprob_bytes) != len(trajectory.token_bytes):
        raise InvalidMessage("as many log-probs as tokens are needed")
    if len(trajectory.rewards) != limits.num_rewards:
        raise InvalidMessage(f"{len(trajectory.rewards)} rewards, expected {limits.num_rewards}")
    if not all(reward is None or math.isfinite(reward) for reward in trajectory.rewards):
        raise InvalidMessage("a reward is not finite")
    if not all(math.isfinite(number) for number in trajectory.metrics.values()):
        raise InvalidMessage("a metric is not finite")
    _check_spans(trajectory)
    _check_ids(trajectory.token_ids, limits)
    if not all(x <= MAX_LOGPROB_NATS and math.isfinite(x) for x in trajectory.sampler_logprobs):
        raise InvalidMessage("a log-prob is not a finite number at or below zero")


def _check_spans(trajectory: Trajectory) -> None:
    if any(span.num_tokens <= 0 for span in trajectory.version_spans):
        raise InvalidMessage("a version span is empty")
    if sum(span.num_tokens for span in trajectory.version_spans) != trajectory.num_tokens:
        raise InvalidMessage("version spans do not cover the tokens")
    edges = [edge for span in trajectory.inserted_spans for edge in (span.start, span.stop)]
    bounded = [0, *edges, trajectory.num_tokens]
    if any(a > b for a, b in pairwise(bounded)) or any(
        span.start == span.stop for span in trajectory.inserted_spans
    ):
        raise InvalidMessage("inserted spans are not sorted, disjoint and inside the completion")


def _check_ids(token_ids: tuple[int, ...], limits: GroupLimits) -> None:
    if any(not 0 <= token < limits.vocab_size for token in token_ids):
        raise InvalidMessage(f"a token id is outside the vocabulary of {limits.vocab_size}")
