"""Waiting for what must come true."""

import threading
import time
from collections.abc import Callable
from typing import TypeVar

_Found = TypeVar("_Found")

LOOK_INTERVAL_S = 0.01


def wait_until(look: Callable[[], _Found | None], deadline_s: float = 20.0) -> _Found:
    """The first answer of `look` that is true; fails the test when none comes in time."""
    ends = time.monotonic() + deadline_s
    pause = threading.Event()
    while not (found := look()):
        assert time.monotonic() < ends, f"{look} did not come true within {deadline_s} s"
        pause.wait(LOOK_INTERVAL_S)
    return found
