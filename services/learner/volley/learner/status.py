"""The run at a glance, put together when somebody asks."""

import time
from dataclasses import dataclass, field

import msgspec

from volley.learner.alarms import Alarm
from volley.learner.metrics_file import Metrics
from volley.learner.tasks import Tasks
from volley.schemas.groups import Version
from volley.schemas.manifest import Manifest
from volley.schemas.status import (
    EvaluationReport,
    LearnerState,
    QueueDepth,
    StatusReport,
    WeightsReport,
    WorkerReport,
)
from volley.transport.redis_stream import LearnerQueue, QueueError

_REPORT = msgspec.json.Decoder(WorkerReport)


@dataclass(slots=True)
class Progress:
    """What the loop knows about itself; it writes, the server reads."""

    run: str
    steps: int
    version: Version
    root: str = ""
    state: LearnerState = LearnerState.STARTING
    redis: str = "ok"
    disk: str = "ok"
    replay: str | None = None
    num_samples: int = 0
    num_tokens: int = 0
    metrics: dict[str, float | None] = field(default_factory=dict)
    sample: str | None = None
    evaluation: EvaluationReport | None = None
    alarms: dict[str, tuple[int, Alarm]] = field(default_factory=dict)
    """By name, the last of its kind and the step that raised it."""
    started_s: float = field(default_factory=time.monotonic)

    def note(self, alarm: Alarm, step: int) -> None:
        """Show an alarm until it would be raised again."""
        # Another thread may be reading the one that there is.
        self.alarms = self.alarms | {alarm.name: (step, alarm)}


def read_workers(queue: LearnerQueue) -> tuple[WorkerReport, ...]:
    """The reports of workers that are alive; one that cannot be read is left out."""
    reports = []
    for body in queue.reports():
        try:
            reports.append(_REPORT.decode(body))
        except msgspec.DecodeError:
            continue
    return tuple(sorted(reports, key=lambda report: report.worker))


def report_status(
    progress: Progress, tasks: Tasks, queue: LearnerQueue, places: int, head: Manifest | None
) -> StatusReport:
    """Everything that `/v1/status` says; what Redis knows is left out while it is away."""
    depth: QueueDepth | None = None
    workers: tuple[WorkerReport, ...] = ()
    duplicates = 0
    redis = progress.redis
    if tasks.num_kept_back:
        redis = f"degraded: full, {tasks.num_kept_back} tasks wait for room: raise its maxmemory"
    try:
        depth, workers, duplicates = queue.depth(), read_workers(queue), queue.duplicates()
    except QueueError as error:
        redis = f"degraded: {error}"
    return StatusReport(
        run=progress.run,
        state=progress.state,
        version=progress.version,
        steps=progress.steps,
        root=progress.root,
        redis=redis,
        uptime_s=time.monotonic() - progress.started_s,
        num_samples=progress.num_samples,
        places=places,
        queue=depth,
        ledger=tasks.ledger.counts(),
        deliveries=tasks.ledger.deliveries(duplicates),
        workers=workers,
        metrics=progress.metrics,
        sample=progress.sample,
        disk=progress.disk,
        alarms=_recent(progress),
        weights=_weights(head, progress.metrics),
        replay=progress.replay,
        evaluation=progress.evaluation,
    )


def _recent(progress: Progress) -> tuple[str, ...]:
    """Alarms that would not have been raised again yet; the newest last."""
    step_now = progress.version.step
    newest_last = sorted(progress.alarms.values(), key=lambda raised: raised[0])
    return tuple(
        f"step {step}: {alarm.message}"
        for step, alarm in newest_last
        if step_now - step <= alarm.patience
    )


def _weights(head: Manifest | None, metrics: Metrics) -> WeightsReport | None:
    if head is None:
        return None
    return WeightsReport(head.changing.num_bytes, metrics.get("publishing_s"))
