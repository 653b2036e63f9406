"""Trackio: a local database, `trackio show --project volley`; or what TRACKIO_SPACE_ID names."""

import io
import logging
from collections.abc import Mapping
from contextlib import ExitStack, redirect_stdout

import trackio

from volley.learner.tracker import TrackedRun

logger = logging.getLogger(__name__)


class TrackioTracker:
    """A Tracker that goes on with the run of that name."""

    def __init__(self, run: TrackedRun) -> None:
        self._quiet = ExitStack()
        self._quiet.enter_context(redirect_stdout(_Spoken()))
        self._run = trackio.init(
            run.project,
            # It knows a run by its name alone.
            name=run.id if run.name == run.id else f"{run.name} ({run.id})",
            resume="allow",
            config=dict(run.config),
            embed=False,
            auto_log_cpu=False,
            auto_log_gpu=False,
        )

    def log(self, step: int, values: Mapping[str, float]) -> None:
        self._run.log(dict(values), step=step)

    def close(self) -> None:
        self._run.finish()
        self._quiet.close()


class _Spoken(io.TextIOBase):
    """What it prints, in the log: standard output is for the line that workers are told by."""

    def write(self, text: str) -> int:
        if text.strip():
            logger.debug("%s", text.strip())
        return len(text)
