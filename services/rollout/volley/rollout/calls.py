"""Calls of the user's code that may take their time: each in a thread of its own, with a deadline.

A call that never returns keeps its thread and nothing else. What is awaitable runs in one event
loop for all, so that clients may be shared; a coroutine that blocks it makes all others late.
"""

import asyncio
import inspect
import queue
import threading
import time
from collections.abc import Awaitable, Callable, Hashable
from typing import Generic, TypeVar

from volley.rollout.rewards import user_traceback

Key = TypeVar("Key", bound=Hashable)
Value = TypeVar("Value")


class CallFailed(Exception):
    """A call raised, or did not return in time; the text says which, for a person."""


class Calls(Generic[Key, Value]):
    """Starts calls by key and hands out how each ended; used from one thread."""

    def __init__(self, timeout_s: float) -> None:
        self._timeout_s = timeout_s
        self._deadlines_s: dict[Key, float] = {}
        self._ended: queue.SimpleQueue[tuple[Key, Value | CallFailed]] = queue.SimpleQueue()
        self._loop: asyncio.AbstractEventLoop | None = None
        self._lock = threading.Lock()

    def start(self, key: Key, function: Callable[[], Value | Awaitable[Value]]) -> None:
        """Call `function`, and await what it returns if that is awaitable."""
        self._deadlines_s[key] = time.monotonic() + self._timeout_s
        # A daemon: what hangs must not keep the process from leaving.
        threading.Thread(target=self._run, args=(key, function), name="call", daemon=True).start()

    def forget(self, key: Key) -> None:
        """Take no further interest in a call."""
        self._deadlines_s.pop(key, None)

    def take(self, wait_s: float) -> list[tuple[Key, Value | CallFailed]]:
        """How calls ended since the last time; waits for one, at most `wait_s`."""
        if not self._deadlines_s:
            return []
        now_s = time.monotonic()
        wait_s = min(wait_s, max(0.0, min(self._deadlines_s.values()) - now_s))
        ended = self._drain(wait_s)
        now_s = time.monotonic()
        late = [key for key, deadline_s in self._deadlines_s.items() if deadline_s <= now_s]
        for key in late:
            self.forget(key)
        return ended + [(key, self._lateness()) for key in late]

    def close(self) -> None:
        """End the event loop; calls that still run are left to themselves."""
        self._deadlines_s.clear()
        if self._loop is not None:
            self._loop.call_soon_threadsafe(self._loop.stop)

    def _drain(self, wait_s: float) -> list[tuple[Key, Value | CallFailed]]:
        ended = []
        try:
            while True:
                key, outcome = self._ended.get(timeout=wait_s) if wait_s else self._ended.get(False)
                wait_s = 0.0
                if self._deadlines_s.pop(key, None) is not None:
                    ended.append((key, outcome))
        except queue.Empty:
            return ended

    def _lateness(self) -> CallFailed:
        return CallFailed(f"no answer within {self._timeout_s:g} s")

    def _run(self, key: Key, function: Callable[[], Value | Awaitable[Value]]) -> None:
        outcome: Value | CallFailed
        try:
            value = function()
            outcome = self._await(value) if inspect.isawaitable(value) else value
        # User code may raise anything, and none of it may end the process.
        except (Exception, SystemExit) as error:
            outcome = CallFailed(user_traceback(error, __file__))
        self._ended.put((key, outcome))

    def _await(self, value: Awaitable[Value]) -> Value:
        async def wait() -> Value:
            return await value

        return asyncio.run_coroutine_threadsafe(wait(), self._running_loop()).result()

    def _running_loop(self) -> asyncio.AbstractEventLoop:
        with self._lock:
            if self._loop is None:
                self._loop = asyncio.new_event_loop()
                threading.Thread(
                    target=_serve, args=(self._loop,), name="loop", daemon=True
                ).start()
            return self._loop


def _serve(loop: asyncio.AbstractEventLoop) -> None:
    try:
        loop.run_forever()
    finally:
        loop.close()
