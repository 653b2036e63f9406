"""What answers look like, for the OpenAPI document."""

from volley.schemas.groups import StopReason, Version
from volley.schemas.past import (
    GroupDetails,
    GroupReport,
    GroupsPage,
    MetricsReport,
    Segment,
    Source,
    TrajectoryReport,
)
from volley.schemas.status import (
    DeliveryCounts,
    EvaluationReport,
    Health,
    HealthLevel,
    HealthProblem,
    LearnerState,
    LedgerCounts,
    QueueDepth,
    RunEnd,
    StatusReport,
    WeightsReport,
    WorkerReport,
)

_HEAD = Version(1, 37)
_ROOT = "5d8c1f" + 58 * "0"
_METRICS: dict[str, float | None] = {
    "reward_mean": 0.4125,
    "kl": 0.00213,
    "entropy": 1.31,
    "tokens_per_s": 812.3,
}
_SCORES: dict[str, float | None] = {"reward_mean": 0.52, "reward_greedy_mean": 0.61}

WORKER = WorkerReport(
    worker="0123456789abcdef0123456789abcdef",
    host="box",
    pid=4711,
    engine="vllm",
    device="cuda:0",
    version=Version(1, 36),
    root=_ROOT,
    tokens_per_s=9000.4,
    num_tokens=123456,
    num_groups=12,
    leases=(40, 41),
    last_progress_s=0.25,
    num_loads=36,
    last_load_s=0.07,
)

STATUS = StatusReport(
    run="sums-20261123-090828",
    state=LearnerState.WAITING,
    version=_HEAD,
    steps=200,
    root=_ROOT,
    redis="ok",
    health=Health(
        HealthLevel.WARNING,
        "It trains, but 1 worker is 3 versions behind.",
        (HealthProblem("workers_behind", "1 worker is 3 versions behind", "see its log"),),
    ),
    alarms=("step 31: alarm kl, for 10 steps: kl 0.31 is above alarms.max_kl = 0.2",),
    uptime_s=62.0,
    num_samples=9472,
    places=64,
    queue=QueueDepth(outstanding=64, tasks=3, results=2),
    ledger=LedgerCounts(issued=100, open=64, trained=30, filtered=6, refused=0, skipped=0),
    deliveries=DeliveryCounts(duplicate=1, invalid=0, stale=2, failed=0, retried={"lease": 3}),
    workers=(WORKER,),
    weights=WeightsReport(num_bytes=988_097_824, publish_s=1.4),
    metrics=_METRICS,
    sample="What is 17 + 25? 42 (rewards 1.0)",
    evaluation=EvaluationReport(Version(1, 30), _ROOT, _SCORES),
)

STEP = MetricsReport(1, 37, _ROOT, _METRICS)
EVALUATION = MetricsReport(1, 30, _ROOT, _SCORES)

GROUPS = GroupsPage(
    37,
    (
        GroupReport(
            number=5,
            attempt=0,
            worker=WORKER.worker,
            disposition="trained",
            rewards=(1.0, 0.0),
            advantages=(0.7071, -0.7071),
            num_tokens=(3, 4),
        ),
    ),
)

GROUP = GroupDetails(
    step=37,
    number=5,
    attempt=0,
    worker=WORKER.worker,
    disposition="trained",
    trajectories=(
        TrajectoryReport(
            segments=(
                Segment(Source.PROMPT, "What is 17 + 25?", 9),
                Segment(Source.GENERATED, "42</s>", 3),
            ),
            rewards={"rewards:right": 1.0},
            reward=1.0,
            advantage=0.7071,
            versions=("1.36",),
            stop_reason=StopReason.STOP,
            turns=1,
            metrics={},
        ),
    ),
)

END = RunEnd(LearnerState.STOPPED, "told to stop; the same command goes on with the run", 0)
