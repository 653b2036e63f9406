"""What a learner might answer when it is asked how it is."""

from dataclasses import replace

from volley.schemas.groups import Version
from volley.schemas.status import (
    DeliveryCounts,
    LearnerState,
    LedgerCounts,
    QueueDepth,
    StatusReport,
    WorkerReport,
)

WORKER = WorkerReport(
    worker="0123456789abcdef",
    host="box",
    pid=7,
    engine="transformers",
    device="cpu",
    version=Version(1, 36),
    root="ab" * 32,
    tokens_per_s=9000.4,
    num_tokens=100,
    num_groups=12,
    leases=(40, 41),
    last_progress_s=0.25,
)

REPORT = StatusReport(
    run="sort-1",
    state=LearnerState.TRAINING,
    version=Version(1, 37),
    steps=300,
    root="cd" * 32,
    redis="ok",
    uptime_s=62.0,
    num_samples=9472,
    places=96,
    queue=QueueDepth(outstanding=64, tasks=3, results=2),
    ledger=LedgerCounts(issued=100, open=64, trained=30, filtered=6, refused=0, skipped=0),
    deliveries=DeliveryCounts(duplicate=1, invalid=0, stale=2, failed=0, retried={"lease": 3}),
    workers=(WORKER,),
    metrics={
        "reward_mean": 0.4125,
        "kl": 0.00213,
        "staleness_mean": 1.24,
        "samples_per_s": 812.3,
    },
    sample="sort cab= abc (rewards 1.0)",
)


def report_at(step: int, reward: float | None = None, sample: str | None = None) -> StatusReport:
    """The report with another step, reward and sample."""
    return replace(
        REPORT,
        version=Version(1, step),
        metrics=REPORT.metrics | {"reward_mean": reward},
        sample=sample,
    )
