"""The cold start of a run, before GRPO begins and in everybody's sight."""

import logging
import threading
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from volley.learner.cold_start import start_cold
from volley.learner.cold_start_folder import ColdStartLine
from volley.learner.control import Control
from volley.learner.front import Front
from volley.learner.health import HealthRules, judged
from volley.learner.policy import Schema
from volley.learner.run_folder import RunFolder
from volley.learner.served import Served
from volley.learner.settings import Settings
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import Version
from volley.schemas.status import DeliveryCounts, LearnerState, LedgerCounts, StatusReport
from volley.telemetry.stops import ExitCode, Stop

logger = logging.getLogger(__name__)

TELL_INTERVAL_S = 10.0
NOTHING_ISSUED = LedgerCounts(issued=0, open=0, trained=0, filtered=0, refused=0, skipped=0)
NOTHING_DELIVERED = DeliveryCounts(duplicate=0, invalid=0, stale=0, failed=0, retried={})


def warm_up(
    settings: Settings,
    folder: RunFolder,
    front: Front,
    control: Control,
    stopping: threading.Event,
    tools: Sequence[Schema],
) -> bool:
    """Do what is left of the run's cold start, if it has one; False when told to stop before.

    Meanwhile the front answers who asks for the run's status. Raises Stop.
    """
    if settings.cold_start is None:
        return True
    if folder.has_state and not folder.cold_start.exists():
        raise Stop(
            ExitCode.CONFIG,
            f"[cold_start] is new, and run {folder.run} began without one: leave it out, or start "
            "another run with --fresh",
        )
    rules = HealthRules(settings.queue.max_staleness, settings.queue.lease_s)
    progress = _Progress(folder.run, Version(folder.epoch(), 0), settings.run.steps, rules)
    if not folder.has_state:
        store = WeightStore(folder.weights, folder.run, settings.weights.keep)
        served = Served(folder.path, store, progress.report, control)
        front.show(served)
    return start_cold(settings, folder.cold_start, stopping, progress.tell, tools)


@dataclass(slots=True)
class _Progress:
    """How far the cold start is; its loop writes, the server reads."""

    run: str
    version: Version
    steps: int
    """Of GRPO."""
    rules: HealthRules
    how_far: str = "loading model and demonstrations"
    metrics: dict[str, float | None] = field(default_factory=dict)
    began_s: float = field(default_factory=time.monotonic)
    told_s: float = -TELL_INTERVAL_S

    def tell(self, line: ColdStartLine, num_steps: int) -> None:
        self.how_far = f"step {line.step} of {num_steps}, loss {line.loss:.3f}"
        self.metrics = {"loss": line.loss, "learning_rate": line.learning_rate}
        now_s = time.monotonic()
        if now_s - self.told_s >= TELL_INTERVAL_S or line.step == num_steps:
            self.told_s = now_s
            logger.info("cold start: %s", self.how_far)

    def report(self) -> StatusReport:
        return judged(self._status(), self.rules)

    def _status(self) -> StatusReport:
        return StatusReport(
            run=self.run,
            state=LearnerState.COLD_START,
            version=self.version,
            steps=self.steps,
            root="",
            redis="ok",
            uptime_s=time.monotonic() - self.began_s,
            num_samples=0,
            places=0,
            queue=None,
            ledger=NOTHING_ISSUED,
            deliveries=NOTHING_DELIVERED,
            workers=(),
            metrics=self.metrics,
            sample=None,
            cold_start=self.how_far,
        )
