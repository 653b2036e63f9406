"""Why a process stops: an exit code and words that say what to do next.

    0 done   2 config or user code   3 environment   4 diverged   5 another learner runs

docs/errors has a page for each code. Raise `Stop` anywhere; `reporting_stops` in a `__main__` turns
it into one screen and the code.
"""

import sys
from collections.abc import Iterator
from contextlib import contextmanager
from enum import IntEnum

ERROR_PREFIX = "volley: error: "


class ExitCode(IntEnum):
    DONE = 0
    CONFIG = 2
    ENVIRONMENT = 3
    DIVERGED = 4
    ANOTHER_LEARNER = 5


class Stop(Exception):
    """The process cannot go on; `message` names the field or file and the fix."""

    def __init__(self, code: ExitCode, message: str) -> None:
        super().__init__(message)
        self.code = code
        self.message = message


@contextmanager
def reporting_stops() -> Iterator[None]:
    """Exit with the code of a Stop raised inside, its message on standard error."""
    try:
        yield
    except Stop as stop:
        sys.stderr.write(f"{ERROR_PREFIX}{stop.message}\n")
        sys.exit(stop.code)
