"""`python -m volley.rollout.reward_process FD`: scores what a worker sends, away from the worker.

Here user code may raise, print, hang, fill its memory, fork or crash: the worker sees that on the
channel FD, or on the clock, and ends the whole process group. If it is the worker that ends, a
thread here does that; and where code never lets go of the interpreter, faulthandler ends it.
"""

import faulthandler
import os
import resource
import select
import signal
import socket
import sys
import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from volley.rollout.reward_code import import_rewards
from volley.rollout.reward_messages import (
    Call,
    Failed,
    Message,
    Ready,
    Scored,
    Setup,
    receive,
    send,
)
from volley.rollout.rewards import FailureKind, Reward, RewardFailed
from volley.telemetry.stops import Stop

PATIENCE = 2.0
"""What has taken so many times its deadline has lost the worker that should have ended it."""
MAX_TEXT_CHARS = 8_192
"""Of a failure, from its beginning and from its end: a message may hold all that was printed."""


def main(channel: socket.socket) -> None:
    """Serve one worker until it is gone."""
    # A fork that returns from user code must not answer, nor keep the channel open.
    os.register_at_fork(after_in_child=channel.close)
    threading.Thread(target=_end_with_worker, args=(channel,), daemon=True).start()
    setup = receive(channel)
    assert isinstance(setup, Setup), "the worker begins with it"
    _limit_memory(setup.max_memory_bytes)
    try:
        with _ending_after(PATIENCE * setup.timeout_s):
            rewards = import_rewards(setup.codes, Path(setup.code_folder))
    except Stop as stop:
        send(channel, Failed(_shortened(stop.message), FailureKind.RAISED))
        return
    send(channel, Ready())
    while True:
        call = receive(channel)
        assert isinstance(call, Call), "the worker goes on with these"
        with _ending_after(PATIENCE * call.timeout_s):
            answer = _score(rewards, call)
        send(channel, answer)


def _score(rewards: Sequence[Reward], call: Call) -> Message:
    try:
        scores = rewards[call.function].score(call.prompt, call.completions, call.columns)
    except RewardFailed as error:
        return Failed(_shortened(str(error)), error.kind)
    return Scored(scores)


def _shortened(text: str) -> str:
    if len(text) <= 2 * MAX_TEXT_CHARS:
        return text
    return f"{text[:MAX_TEXT_CHARS]}\n[...]\n{text[-MAX_TEXT_CHARS:]}"


def _limit_memory(max_bytes: int) -> None:
    """Of this process and, each for itself, of those that it forks."""
    # Not RLIMIT_AS: the address space that threads and CUDA reserve is far more than they use.
    _, hard = resource.getrlimit(resource.RLIMIT_DATA)
    limit = max_bytes if hard == resource.RLIM_INFINITY else min(max_bytes, hard)
    resource.setrlimit(resource.RLIMIT_DATA, (limit, limit))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


@contextmanager
def _ending_after(patience_s: float) -> Iterator[None]:
    faulthandler.dump_traceback_later(patience_s, exit=True)
    try:
        yield
    finally:
        faulthandler.cancel_dump_traceback_later()


def _end_with_worker(channel: socket.socket) -> None:
    poller = select.poll()
    # No events: a hang-up is always told.
    poller.register(channel, 0)
    poller.poll()
    _end_group()


def _end_group() -> None:
    os.killpg(os.getpgrp(), signal.SIGKILL)


if __name__ == "__main__":
    try:
        main(socket.socket(fileno=int(sys.argv[1])))
    except (EOFError, ConnectionError):
        # The worker is gone, and what user code has started must go too.
        _end_group()
