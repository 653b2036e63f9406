"""Bytes of messages: stable (golden files), and believed only when they are whole."""

from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from volley.schemas.codec import (
    GroupLimits,
    InvalidMessage,
    decode_result,
    decode_task,
    encode,
)
from volley.schemas.groups import (
    SCHEMA_VERSION,
    Failure,
    FailureReason,
    Group,
    InsertedSpan,
    StopReason,
    Task,
    Trajectory,
    Version,
    VersionSpan,
    pack_logprobs,
    pack_token_ids,
)

GOLDEN = Path(__file__).parents[2] / "golden"
LIMITS = GroupLimits(
    run="sort-1",
    num_generations=2,
    max_completion_length=4,
    num_rewards=2,
    vocab_size=64,
    max_body_bytes=4096,
)
TASK = Task(
    schema_version=SCHEMA_VERSION,
    run="sort-1",
    number=7,
    attempt=1,
    seed=2**62 + 1,
    min_version=Version(1, 3),
    prompt="sort qhz=",
    prompt_ids=(5, 6, 63),
    columns={"answer": "hqz", "level": 3, "tags": ["a", None], "weight": 0.5},
)
FULL = Trajectory(
    token_bytes=pack_token_ids([1, 2, 63]),
    logprob_bytes=pack_logprobs([-0.5, -1.0, 0.0]),
    version_spans=(VersionSpan(2, Version(1, 3)), VersionSpan(1, Version(1, 4))),
    inserted_spans=(InsertedSpan(1, 2),),
    stop_reason=StopReason.STOP,
    text="hq",
    rewards=(1.0, None),
    metrics={"searches": 1.0},
)
GROUP = Group(
    schema_version=SCHEMA_VERSION,
    run="sort-1",
    number=7,
    attempt=1,
    worker="w",
    prompt_ids=(5, 6, 63),
    trajectories=(FULL, FULL),
)
FAILURE = Failure(
    schema_version=SCHEMA_VERSION,
    run="sort-1",
    number=7,
    attempt=1,
    worker="w",
    reason=FailureReason.REWARD,
    detail="ValueError: no",
)


def changed(**fields: object) -> bytes:
    """The group with one trajectory changed."""
    trajectory = msgspec.structs.replace(FULL, **fields)
    return encode(msgspec.structs.replace(GROUP, trajectories=(FULL, trajectory)))


def complaint(body: bytes) -> str:
    with pytest.raises(InvalidMessage) as caught:
        decode_result(body, LIMITS)
    return str(caught.value)


@pytest.mark.parametrize(("name", "message"), [("task", TASK), ("group", GROUP), ("fail", FAILURE)])
def test_the_bytes_on_the_wire_are_those_of_the_golden_file(name, message):
    golden = (GOLDEN / f"{name}-v{SCHEMA_VERSION}.msgpack").read_bytes()
    assert encode(message) == golden
    decoded = decode_task(golden, 4096) if name == "task" else decode_result(golden, LIMITS)
    assert decoded == message


def test_packed_tokens_and_log_probs_come_back():
    assert FULL.num_tokens == 3
    assert FULL.token_ids == (1, 2, 63)
    assert FULL.sampler_logprobs == (-0.5, -1.0, 0.0)


@pytest.mark.parametrize("schema", [SCHEMA_VERSION - 1, SCHEMA_VERSION + 1])
def test_another_schema_is_refused_before_the_rest_is_read(schema):
    body = msgspec.msgpack.encode({"schema_version": schema, "anything": 1})
    assert f"schema {schema}" in complaint(body)


@pytest.mark.parametrize(
    ("body", "words"),
    [
        (b"", "not a message"),
        (b"garbage", "not a message"),
        (encode(GROUP)[:-1], "not a message"),
        (encode(TASK), "not a message"),
        (b"\x91" * 4000, "not a message"),
        (b"\xdf\xff\xff\xff\xff", "not a message"),
        (encode(msgspec.structs.replace(GROUP, run="other")), "result of run 'other'"),
        (encode(msgspec.structs.replace(GROUP, trajectories=(FULL,))), "1 trajectories"),
        (encode(msgspec.structs.replace(GROUP, prompt_ids=(64,))), "outside the vocabulary"),
        (changed(token_bytes=b""), "tokens, max_completion_length"),
        (changed(token_bytes=b"\0" * 13), "not a whole number"),
        (changed(token_bytes=pack_token_ids([1] * 5)), "5 tokens"),
        (changed(token_bytes=pack_token_ids([1, 2, 64])), "outside the vocabulary"),
        (changed(logprob_bytes=b""), "as many log-probs"),
        (changed(logprob_bytes=pack_logprobs([-1, -1, float("nan")])), "log-prob"),
        (changed(logprob_bytes=pack_logprobs([-1, -1, float("-inf")])), "log-prob"),
        (changed(logprob_bytes=pack_logprobs([-1, -1, 0.5])), "log-prob"),
        (changed(rewards=(1.0,)), "1 rewards"),
        (changed(rewards=(1.0, float("inf"))), "not finite"),
        (changed(version_spans=(VersionSpan(2, Version(1, 3)),)), "do not cover"),
        (changed(version_spans=(VersionSpan(4, Version(1, 3)), VersionSpan(-1, Version(1, 3)))),
         "empty"),
        (changed(inserted_spans=(InsertedSpan(2, 4),)), "inserted spans"),
        (changed(inserted_spans=(InsertedSpan(1, 2), InsertedSpan(0, 1))), "inserted spans"),
        (changed(inserted_spans=(InsertedSpan(1, 1),)), "inserted spans"),
    ],
)  # fmt: skip
def test_what_is_not_whole_is_refused_with_the_reason(body, words):
    assert words in complaint(body)


def test_a_body_over_the_limit_is_refused_unread():
    assert "queue.max_body_bytes" in complaint(b"\xc4" * 5000)


@given(st.binary(max_size=300))
def test_no_bytes_raise_anything_else(body):
    with pytest.raises(InvalidMessage):
        decode_result(body, LIMITS)


@given(st.integers(0, len(encode(GROUP)) - 1), st.integers(0, 255))
def test_a_changed_byte_is_refused_or_still_a_whole_group(position, value):
    body = bytearray(encode(GROUP))
    body[position] = value
    try:
        result = decode_result(bytes(body), LIMITS)
    except InvalidMessage:
        return
    assert isinstance(result, Group)
    assert all(one.num_tokens == len(one.sampler_logprobs) == 3 for one in result.trajectories)
