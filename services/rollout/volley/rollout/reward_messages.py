"""What a worker and its reward processes say to each other, over a socket of their own.

    worker                          reward process
    Setup                      ->   limits itself, imports the code
                               <-   Ready, or Failed with the reason
    Call                       ->   scores
                               <-   Scored or Failed
    closes, or dies            ->   ends, with all that it has started

msgpack with its length in front. A deadline is a time of the monotonic clock.
"""

import math
import socket
import struct
import sys
import time

import msgspec
from msgspec import Struct

from volley.rollout.rewards import FailureKind, Prompt
from volley.rollout.user_code import UserCode

MIN_WAIT_S = 1e-3
"""0 would mean not to wait but to fail in another way."""
_LENGTH = struct.Struct("<Q")


class Setup(Struct, frozen=True, tag=True):
    codes: tuple[UserCode, ...]
    code_folder: str
    max_memory_bytes: int
    timeout_s: float
    """The worker waits for no longer."""


class Ready(Struct, frozen=True, tag=True):
    """The code is imported."""


class Call(Struct, frozen=True, tag=True):
    """Completions of one prompt, to be scored by one function."""

    function: int
    """Its place in `Setup.codes`."""
    prompt: Prompt
    completions: tuple[str, ...]
    columns: dict[str, object]
    timeout_s: float


class Scored(Struct, frozen=True, tag=True):
    rewards: tuple[float | None, ...]


class Failed(Struct, frozen=True, tag=True):
    text: str
    kind: FailureKind


Message = Setup | Ready | Call | Scored | Failed
_DECODER: msgspec.msgpack.Decoder[Message] = msgspec.msgpack.Decoder(Message)


def send(channel: socket.socket, message: Message, deadline: float = math.inf) -> None:
    """Return when it is on its way; raises TimeoutError, or OSError where nobody listens."""
    body = msgspec.msgpack.encode(message)
    channel.settimeout(_left_s(deadline))
    channel.sendall(_LENGTH.pack(len(body)) + body)


def receive(
    channel: socket.socket, max_bytes: int = sys.maxsize, deadline: float = math.inf
) -> Message:
    """The next message; raises TimeoutError, EOFError, or ValueError where it is none."""
    (num_bytes,) = _LENGTH.unpack(_read(channel, _LENGTH.size, deadline))
    if num_bytes > max_bytes:
        raise ValueError(f"a message of {num_bytes} bytes, more than {max_bytes}")
    return _DECODER.decode(_read(channel, num_bytes, deadline))


def _read(channel: socket.socket, num_bytes: int, deadline: float) -> bytearray:
    content = bytearray(num_bytes)
    missing = memoryview(content)
    while missing:
        channel.settimeout(_left_s(deadline))
        num_read = channel.recv_into(missing)
        if not num_read:
            raise EOFError("the other side has closed the channel")
        missing = missing[num_read:]
    return content


def _left_s(deadline: float) -> float | None:
    if deadline == math.inf:
        return None
    return max(deadline - time.monotonic(), MIN_WAIT_S)
