"""What people see: workers' reports and the answer of `GET /v1/status`."""

from enum import StrEnum

from msgspec import Struct

from volley.schemas.groups import Version


class WorkerReport(Struct, frozen=True):
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


class LedgerCounts(Struct, frozen=True):
    """Prompt numbers by state; `issued` is the sum of the others, exactly."""

    issued: int
    open: int
    trained: int
    filtered: int
    refused: int
    skipped: int


class DeliveryCounts(Struct, frozen=True):
    """What came more than once or not well; at-least counts."""

    duplicate: int
    invalid: int
    stale: int
    failed: int
    retried: dict[str, int]
    """Tasks issued again, by reason."""


class QueueDepth(Struct, frozen=True):
    """What Redis holds for the run."""

    outstanding: int
    """Numbers issued and not dropped."""
    tasks: int
    results: int


class EvaluationReport(Struct, frozen=True):
    """How a version did on held-out prompts."""

    version: Version
    root: str
    metrics: dict[str, float | None]
    """As in evaluations.jsonl."""


class StatusReport(Struct, frozen=True):
    """A run at a glance."""

    run: str
    state: LearnerState
    version: Version
    steps: int
    """Optimiser steps that the run is to take."""
    root: str
    redis: str
    """`ok`, or `degraded: ` and the reason."""
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
    metrics: dict[str, float | None]
    """Of the last step, as in metrics.jsonl; empty before it."""
    sample: str | None
    """One trajectory of the last step, prompt and completion, for the eye."""
    disk: str = "ok"
    """Of the run folder: `ok`, or `degraded: ` and the reason."""
    replay: str | None = None
    """How far the replay is, while it lasts."""
    evaluation: EvaluationReport | None = None
    """The last one that is over."""
    cold_start: str | None = None
    """How far the cold start is, while it lasts."""
