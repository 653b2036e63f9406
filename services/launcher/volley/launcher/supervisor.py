"""The children of one command: watched, told to stop, killed if they must be.

    lines of a child that speaks ---+
    the end of a child -------------+
    a pause that is over -----------+--> one queue --> next_event(), in the main thread
    SIGINT, SIGTERM ----------------+
    reports of the learner ---------+

Threads wait and post, the main thread alone acts; so there is nothing to lock. And it is the main
thread that starts children, because Linux ends them with the thread that started them.
"""

import signal
import subprocess
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from types import FrameType, TracebackType
from typing import Self

from volley.launcher.children import Child
from volley.launcher.redis_server import RedisServer
from volley.schemas.status import StatusReport

LEAVING_PATIENCE_S = 10.0
"""For children that still run when the command leaves, whatever the reason."""

SIGNALS = (signal.SIGINT, signal.SIGTERM)


@dataclass(frozen=True, slots=True)
class Said:
    """A child that speaks wrote a line."""

    child: Child
    line: str


@dataclass(frozen=True, slots=True)
class Ended:
    """A child is gone; it has its exit code."""

    child: Child


@dataclass(frozen=True, slots=True)
class Due:
    """The pause before a child is started again is over."""

    child: Child


@dataclass(frozen=True, slots=True)
class RedisEnded:
    """The Redis that the command started is gone."""

    server: RedisServer


@dataclass(frozen=True, slots=True)
class Reported:
    """The learner answered."""

    report: StatusReport


@dataclass(frozen=True, slots=True)
class Told:
    """A person, or the system, wants the command to stop."""


Event = Said | Ended | Due | RedisEnded | Reported | Told


class Interrupted(Exception):
    """The command was told to stop, and what it waited for has stopped."""


class Supervisor:
    """Watches children; inside its `with`, SIGINT and SIGTERM are events."""

    def __init__(self) -> None:
        self._events: SimpleQueue[Event] = SimpleQueue()
        self._children: list[Child] = []
        self._timers: list[threading.Timer] = []
        self._must_hurry = False
        self._handlers = {number: signal.getsignal(number) for number in SIGNALS}

    def __enter__(self) -> Self:
        for number in SIGNALS:
            signal.signal(number, self._on_signal)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop(self._children, LEAVING_PATIENCE_S)
        for number, handler in self._handlers.items():
            signal.signal(number, handler)

    def start(self, child: Child) -> None:
        """Run `child`; its end, and its lines if it speaks, become events."""
        process = child.start()
        if child not in self._children:
            self._children.append(child)
        _in_background(lambda: self._watch(child, process))

    def start_later(self, child: Child, pause_s: float) -> None:
        """Have `Due` come after the pause."""
        timer = threading.Timer(pause_s, self._events.put, [Due(child)])
        timer.daemon = True
        timer.start()
        self._timers.append(timer)

    def watch_redis(self, server: RedisServer) -> None:
        """Have `RedisEnded` come when the server that runs now is gone."""

        def wait() -> None:
            server.wait()
            self._events.put(RedisEnded(server))

        _in_background(wait)

    def post(self, event: Event) -> None:
        """Hand an event to the main thread; for any thread."""
        self._events.put(event)

    def next_event(self) -> Event:
        """What happened next."""
        return self._events.get()

    def finish(self, child: Child) -> str:
        """Run a child that speaks to its end; the last line it wrote.

        Raises its Stop if it failed, and Interrupted if the command was told to stop.
        """
        last_line = ""
        self.start(child)
        while (event := self.next_event()) != Ended(child):
            if isinstance(event, Said):
                last_line = event.line
            elif isinstance(event, Told):
                self.stop([child])
                raise Interrupted
        if child.exit_code:
            raise child.reason()
        return last_line

    def stop(self, children: Sequence[Child], patience_s: float | None = None) -> None:
        """Return when none of them runs: told by SIGTERM, and killed when the patience is over.

        A command that is told again has no patience left, for these and for any other children.
        """
        for timer in self._timers:
            timer.cancel()
        for child in children:
            child.send(signal.SIGKILL if self._must_hurry else signal.SIGTERM)
        ends_s = None if patience_s is None else time.monotonic() + patience_s
        while any(child.is_running for child in children):
            if not self._is_told_again(ends_s):
                continue
            self._must_hurry, ends_s = True, None
            for child in children:
                child.send(signal.SIGKILL)

    def _is_told_again(self, ends_s: float | None) -> bool:
        """Wait for the next event; whether it, or the end of the patience, asks for haste."""
        try:
            return isinstance(self._events.get(timeout=_left_s(ends_s)), Told)
        except Empty:
            return True

    def _on_signal(self, number: int, frame: FrameType | None) -> None:
        # SimpleQueue.put may be interrupted by itself, which is what a handler needs.
        self._events.put(Told())

    def _watch(self, child: Child, process: subprocess.Popen[str]) -> None:
        if process.stdout is not None:
            with process.stdout as lines:
                for line in lines:
                    self._events.put(Said(child, line))
        child.exit_code = process.wait()
        self._events.put(Ended(child))


def _in_background(work: Callable[[], object]) -> None:
    threading.Thread(target=work, daemon=True).start()


def _left_s(deadline_s: float | None) -> float | None:
    return None if deadline_s is None else max(0.0, deadline_s - time.monotonic())
