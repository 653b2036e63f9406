"""Room on the disk: looked at before work is issued, waited for when a write finds none."""

import logging
import shutil
import threading
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

import tenacity

from volley.learner.status import Progress
from volley.telemetry.stops import ExitCode, Stop

logger = logging.getLogger(__name__)

RETRY_S = 1.0

_Written = TypeVar("_Written")


class Disk:
    """The disk of one run folder; what ails it is in the run's progress."""

    def __init__(
        self, folder: Path, min_free_bytes: int, progress: Progress, stopping: threading.Event
    ) -> None:
        self._folder = folder
        self._min_free_bytes = min_free_bytes
        self._progress = progress
        self._stopping = stopping

    def has_room(self) -> bool:
        """Whether there is enough for the steps that new work would lead to."""
        num_free_bytes = shutil.disk_usage(self._folder).free
        if num_free_bytes >= self._min_free_bytes:
            self._note("ok")
            return True
        self._note(
            f"degraded: {num_free_bytes >> 20} MiB free in {self._folder}, fewer than "
            f"checkpoint.min_free_bytes ({self._min_free_bytes >> 20} MiB): nothing new is issued "
            "until there is room"
        )
        return False

    def write(self, action: Callable[[], _Written]) -> _Written:
        """Do `action`, again and again while the disk refuses it; raises Stop when told to stop."""
        retry = tenacity.Retrying(
            retry=tenacity.retry_if_exception_type(OSError),
            wait=tenacity.wait_fixed(RETRY_S),
            sleep=tenacity.sleep_using_event(self._stopping),
            stop=tenacity.stop_when_event_set(self._stopping),
            before_sleep=self._note_failure,
            reraise=True,
        )
        try:
            written = retry(action)
        except OSError as error:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"cannot write to {self._folder}: {error.strerror}: make room and start again, "
                "nothing is lost",
            ) from error
        self._note("ok")
        return written

    def _note_failure(self, state: tenacity.RetryCallState) -> None:
        assert state.outcome is not None, "something failed"
        self._note(f"degraded: cannot write to {self._folder}: {state.outcome.exception()}")

    def _note(self, condition: str) -> None:
        before, self._progress.disk = self._progress.disk, condition
        if condition != "ok" and before == "ok":
            logger.warning("the disk is %s", condition)
        elif condition == "ok" and before != "ok":
            logger.info("the disk has room again")
