"""One process of a command: how it is started, how it ended, what it had to say."""

import os
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TextIO

from volley.launcher.parent_death import die_with_parent
from volley.learner.run_folder import explaining_run_folder
from volley.telemetry.stops import ERROR_PREFIX, ExitCode, Stop

QUICK_DEATH_S = 20.0
"""A child that lived longer was well once; what killed it may be over."""
MAX_QUICK_DEATHS = 4
FIRST_PAUSE_S = 0.5
LAST_LINES = 20
PLAIN_TRACEBACKS = {"TYPER_STANDARD_TRACEBACK": "1"}
"""Typer draws boxes around them, which make of a log's last lines a small part of one."""


class Child:
    """A process by name; it may be started again after it ended."""

    def __init__(
        self,
        name: str,
        arguments: Sequence[str],
        log: Path,
        environment: Mapping[str, str],
        *,
        speaks: bool = False,
        quick_death_s: float = QUICK_DEATH_S,
    ) -> None:
        """`environment` is added to this process's own.

        Somebody listens to the standard output of one that `speaks`; else it goes to the log too.
        """
        self.name = name
        self.log = log
        self.speaks = speaks
        self.exit_code: int | None = None
        """None before its end."""
        self.arguments = arguments
        """Of the next start."""
        self._environment = environment
        self._process: subprocess.Popen[str] | None = None
        self._quick_death_s = quick_death_s
        self._started_s = 0.0
        self._quick_deaths = 0

    @property
    def is_running(self) -> bool:
        return self._process is not None and self.exit_code is None

    def start(self) -> subprocess.Popen[str]:
        """Run it, its standard error at the end of the log."""
        with self._open_log() as log:
            self._process = subprocess.Popen(
                self.arguments,
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE if self.speaks else log,
                stderr=log,
                text=True,
                env={**os.environ, **PLAIN_TRACEBACKS, **self._environment},
                preexec_fn=die_with_parent,  # noqa: PLW1509 - one foreign call, takes no lock
                start_new_session=True,  # Ctrl-C is for the command, which tells its children
            )
        self._started_s = time.monotonic()
        self.exit_code = None
        return self._process

    def _open_log(self) -> TextIO:
        """To be written on at its end; raises Stop where there can be none."""
        with explaining_run_folder(self.log.parents[1]):
            self.log.parent.mkdir(parents=True, exist_ok=True)
            return self.log.open("a", encoding="utf-8")

    def send(self, number: signal.Signals) -> None:
        """Send a signal; nothing happens to a process that has ended."""
        if self._process is not None:
            self._process.send_signal(number)

    def forgive(self) -> None:
        """Do not count its deaths so far: it has shown that it is well."""
        self._quick_deaths = 0

    def pause_s(self) -> float | None:
        """How long to wait before it is started again; None when it keeps dying at once."""
        if time.monotonic() - self._started_s > self._quick_death_s:
            self.forgive()
        self._quick_deaths += 1
        return pause_after(self._quick_deaths)

    def how_it_ended(self) -> str:
        """`exit code 1` or `signal SIGKILL`."""
        assert self.exit_code is not None, "it has ended"
        if self.exit_code >= 0:
            return f"exit code {self.exit_code}"
        return f"signal {signal.Signals(-self.exit_code).name}"

    def reason(self) -> Stop:
        """Why nothing goes on without this child: its own Stop, else the last lines of its log."""
        text = self.log.read_text(encoding="utf-8", errors="replace")
        _, prefix, message = text.rpartition(ERROR_PREFIX)
        if prefix and self.exit_code in set(ExitCode):
            return Stop(ExitCode(self.exit_code), message.strip())
        heading = f"{self.name} died ({self.how_it_ended()}), the end of {self.log}:"
        # An option that does not exist is no fault of the machine.
        is_config = self.exit_code == ExitCode.CONFIG
        code = ExitCode.CONFIG if is_config else ExitCode.ENVIRONMENT
        return Stop(code, "\n  ".join([heading, *text.splitlines()[-LAST_LINES:]]))


def pause_after(quick_deaths: int) -> float | None:
    """Seconds before the next start, doubled each time; None after too many deaths in a row."""
    if quick_deaths >= MAX_QUICK_DEATHS:
        return None
    return FIRST_PAUSE_S * 2.0 ** (quick_deaths - 1)
