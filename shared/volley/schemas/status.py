"""What people see now: workers' reports, the answer of `GET /v1/status`, and how a run ended.

Dataclasses, which msgspec writes and reads and from which pydantic makes the OpenAPI document.
"""

from dataclasses import dataclass
from enum import StrEnum

from volley.schemas.documented import Documented
from volley.schemas.groups import Version


@dataclass(frozen=True, slots=True, kw_only=True)
class WorkerReport(Documented):
    """A worker's word about itself, renewed in Redis with every heartbeat."""

    worker: str
    host: str
    pid: int
    engine: str
    device: str
    version: Version | None
    """Weights it samples from; None before the first load."""
    root: str | None
    tokens_per_s: float
    """Sampled since the report before."""
    num_tokens: int
    """Sampled since it started."""
    num_groups: int
    """Completed since it started."""
    leases: tuple[int, ...]
    """Prompt numbers in hand."""
    last_progress_s: float
    """Seconds since a token, a tool or a reward moved."""
    num_loads: int = 0
    """Versions loaded since it started."""
    last_load_s: float | None = None
    """Seconds for which sampling paused to load the version at hand; None before the first."""


class LearnerState(StrEnum):
    STARTING = "starting"
    COLD_START = "cold start"
    """The model is fine-tuned on demonstrations, before GRPO begins."""
    REPLAYING = "replaying"
    """Logged steps are taken again after a restart."""
    WAITING = "waiting"
    TRAINING = "training"
    PUBLISHING = "publishing"
    PAUSED = "paused"
    """A person wants nothing issued and nothing trained for a while."""
    EVALUATING = "evaluating"
    """All steps are taken, and the last evaluation is awaited."""
    FINISHED = "finished"
    STOPPED = "stopped"


@dataclass(frozen=True, slots=True)
class LedgerCounts(Documented):
    """Prompt numbers by state; `issued` is the sum of the others, exactly."""

    issued: int
    open: int
    trained: int
    filtered: int
    refused: int
    skipped: int


@dataclass(frozen=True, slots=True)
class DeliveryCounts(Documented):
    """What came more than once or not well; at-least counts."""

    duplicate: int
    invalid: int
    stale: int
    failed: int
    retried: dict[str, int]
    """Tasks issued again, by reason."""


@dataclass(frozen=True, slots=True)
class QueueDepth(Documented):
    """What Redis holds for the run."""

    outstanding: int
    """Numbers issued and not dropped."""
    tasks: int
    results: int


@dataclass(frozen=True, slots=True)
class EvaluationReport(Documented):
    """How a version did on held-out prompts."""

    version: Version
    root: str
    metrics: dict[str, float | None]
    """As in evaluations.jsonl."""


@dataclass(frozen=True, slots=True)
class WeightsReport(Documented):
    """What workers fetch for the version at hand."""

    num_bytes: int
    """Of what is other bytes in every version: all tensors, or the adapters."""
    publish_s: float | None
    """Seconds that the last step spent on making it fetchable; None before the first step."""


class HealthLevel(StrEnum):
    OK = "ok"
    WARNING = "warning"
    """It goes on, but a person should look."""
    CRITICAL = "critical"
    """Nothing is trained."""


@dataclass(frozen=True, slots=True)
class HealthProblem(Documented):
    """One reason why a run is not well."""

    code: str
    """A word that stays the same in all versions, as no_workers."""
    message: str
    fix: str
    """What to do about it."""


@dataclass(frozen=True, slots=True)
class Health(Documented):
    """Whether the run does what it should, and if not why."""

    level: HealthLevel = HealthLevel.OK
    sentence: str = ""
    """All of it in one sentence."""
    problems: tuple[HealthProblem, ...] = ()


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusReport(Documented):
    """A run at a glance."""

    run: str
    state: LearnerState
    version: Version
    steps: int
    """Optimiser steps that the run is to take."""
    root: str
    redis: str
    """`ok`, or `degraded: ` and the reason."""
    disk: str = "ok"
    """Of the run folder: `ok`, or `degraded: ` and the reason."""
    health: Health = Health()
    alarms: tuple[str, ...] = ()
    """Raised in the last steps, the newest last."""
    uptime_s: float
    num_samples: int
    """Completions collected."""
    places: int
    """Most numbers that may be outstanding."""
    queue: QueueDepth | None
    """None while Redis is away."""
    ledger: LedgerCounts
    deliveries: DeliveryCounts
    workers: tuple[WorkerReport, ...]
    weights: WeightsReport | None = None
    """None before the first weights are published."""
    metrics: dict[str, float | None]
    """Of the last step, as in metrics.jsonl; empty before it."""
    sample: str | None
    """One trajectory of the last step, prompt and completion, for the eye."""
    evaluation: EvaluationReport | None = None
    """The last one that is over."""
    replay: str | None = None
    """How far the replay is, while it lasts."""
    cold_start: str | None = None
    """How far the cold start is, while it lasts."""


@dataclass(frozen=True, slots=True)
class WorkersReport(Documented):
    """The workers of a run that are alive."""

    workers: tuple[WorkerReport, ...]


@dataclass(frozen=True, slots=True)
class LedgerReport(Documented):
    """Where all prompt numbers are, and what came of deliveries."""

    ledger: LedgerCounts
    deliveries: DeliveryCounts
    queue: QueueDepth | None
    """None while Redis is away."""
    places: int
    """Most numbers that may be outstanding."""


@dataclass(frozen=True, slots=True)
class RunEnd(Documented):
    """Why a learner has gone away."""

    state: LearnerState
    """Finished, or stopped: then the same command goes on with the run."""
    reason: str
    exit_code: int
    """Of the learner's process: 0, or as in docs/errors.md."""
