"""Every Prometheus name of Volley, made from a process's own counts when it is scraped."""

from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    InfoMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from volley.schemas.groups import Version
from volley.schemas.status import (
    DeliveryCounts,
    EvaluationReport,
    HealthLevel,
    LearnerState,
    LedgerCounts,
    StatusReport,
    WeightsReport,
    WorkerReport,
)


class StatusCollector(Collector):
    """A learner's metrics; asks for a report at every scrape, so nothing is counted twice."""

    def __init__(self, report: Callable[[], StatusReport]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report()
        yield from _run(report)
        yield from _health(report)
        yield from _queue(report)
        yield from _last_step(report.metrics)
        yield from _weights(report.weights)
        if report.evaluation is not None:
            yield _last_evaluation(report.evaluation)
        yield from _workers(report.workers, report.version.step)

    def describe(self) -> list[Metric]:
        """Names depend on the report; registering must not ask for one."""
        return []


def _run(report: StatusReport) -> Iterator[Metric]:
    yield InfoMetricFamily("volley_run", "The run's id", {"run": report.run})
    yield _one_of(
        "volley_state", "1 for what the learner does", "state", LearnerState, report.state
    )
    yield GaugeMetricFamily("volley_step", "Optimiser steps behind the head", report.version.step)
    yield GaugeMetricFamily("volley_steps_planned", "Steps of the whole run", report.steps)
    yield GaugeMetricFamily("volley_epoch", "Starts of the learner so far", report.version.epoch)
    yield GaugeMetricFamily("volley_uptime_seconds", "Since the last start", report.uptime_s)
    yield CounterMetricFamily("volley_samples", "Completions collected", report.num_samples)


def _health(report: StatusReport) -> Iterator[Metric]:
    level = report.health.level
    yield _one_of("volley_health", "1 for how the run is", "level", HealthLevel, level)
    problems = GaugeMetricFamily("volley_problem", "1 for what is wrong now", labels=["code"])
    for problem in report.health.problems:
        problems.add_metric([problem.code], 1)
    yield problems
    yield GaugeMetricFamily(
        "volley_alarms", "Alarms about the last steps, as in [alarms]", len(report.alarms)
    )
    yield GaugeMetricFamily(
        "volley_redis_up", "1 while this process reaches Redis", report.redis == "ok"
    )
    yield GaugeMetricFamily(
        "volley_disk_ok", "1 while the run folder's disk has room", report.disk == "ok"
    )


def _queue(report: StatusReport) -> Iterator[Metric]:
    yield _ledger(report.ledger)
    yield _deliveries(report.deliveries)
    yield GaugeMetricFamily("volley_places", "Most numbers that are outstanding", report.places)
    if report.queue is not None:
        depth = report.queue
        yield GaugeMetricFamily(
            "volley_outstanding", "Numbers issued and not dropped", depth.outstanding
        )
        yield GaugeMetricFamily("volley_tasks", "Tasks in Redis", depth.tasks)
        yield GaugeMetricFamily("volley_results", "Results in Redis", depth.results)


def _ledger(ledger: LedgerCounts) -> Metric:
    family = GaugeMetricFamily("volley_numbers", "Prompt numbers by state", labels=["state"])
    for state in ("open", "trained", "filtered", "refused", "skipped"):
        family.add_metric([state], getattr(ledger, state))
    return family


def _deliveries(deliveries: DeliveryCounts) -> Metric:
    family = CounterMetricFamily("volley_deliveries", "Answers of no use", labels=["kind"])
    for kind in ("duplicate", "invalid", "stale", "failed"):
        family.add_metric([kind], getattr(deliveries, kind))
    for reason, count in deliveries.retried.items():
        family.add_metric([f"retried_{reason}"], count)
    return family


def _last_step(metrics: Mapping[str, float | None]) -> Iterator[Metric]:
    yield _by_metric("volley_last_step", "The last line of metrics.jsonl", metrics)
    seconds = GaugeMetricFamily(
        "volley_step_seconds", "Of the last step, by what the learner did", labels=["state"]
    )
    for state in (LearnerState.WAITING, LearnerState.TRAINING, LearnerState.PUBLISHING):
        if (spent_s := metrics.get(f"{state}_s")) is not None:
            seconds.add_metric([state], spent_s)
    yield seconds


def _last_evaluation(evaluation: EvaluationReport) -> Metric:
    return _by_metric(
        "volley_last_evaluation",
        "The last line of evaluations.jsonl",
        {"step": evaluation.version.step, **evaluation.metrics},
    )


def _weights(weights: WeightsReport | None) -> Iterator[Metric]:
    if weights is None:
        return
    yield GaugeMetricFamily(
        "volley_weights_bytes", "What a worker fetches of each version", weights.num_bytes
    )
    if weights.publish_s is not None:
        yield GaugeMetricFamily(
            "volley_weights_publish_seconds", "Of the last version", weights.publish_s
        )


def _workers(workers: tuple[WorkerReport, ...], head_step: int) -> Iterator[Metric]:
    yield GaugeMetricFamily("volley_workers", "Workers that report", len(workers))
    labels = ["worker", "host", "engine"]
    speed = GaugeMetricFamily("volley_worker_tokens_per_second", "Sampling speed", labels=labels)
    tokens = CounterMetricFamily("volley_worker_tokens", "Sampled", labels=labels)
    groups = CounterMetricFamily("volley_worker_groups", "Completed", labels=labels)
    leases = GaugeMetricFamily("volley_worker_leases", "Tasks in hand", labels=labels)
    still = GaugeMetricFamily(
        "volley_worker_last_progress_seconds", "Since anything moved", labels=labels
    )
    lag = GaugeMetricFamily("volley_worker_lag_versions", "Behind the head", labels=labels)
    load = GaugeMetricFamily(
        "volley_worker_last_load_seconds", "Pause for the last swap of weights", labels=labels
    )
    for worker in workers:
        names = [worker.worker, worker.host, worker.engine]
        speed.add_metric(names, worker.tokens_per_s)
        tokens.add_metric(names, worker.num_tokens)
        groups.add_metric(names, worker.num_groups)
        leases.add_metric(names, len(worker.leases))
        still.add_metric(names, worker.last_progress_s)
        if worker.version is not None:
            lag.add_metric(names, head_step - worker.version.step)
        if worker.last_load_s is not None:
            load.add_metric(names, worker.last_load_s)
    yield from (speed, tokens, groups, leases, still, lag, load)


def _one_of(name: str, text: str, label: str, all_values: Iterable[str], value: str) -> Metric:
    """1 for `value` and 0 for the others, as Prometheus wants an enumeration."""
    family = GaugeMetricFamily(name, text, labels=[label])
    for one in all_values:
        family.add_metric([one], one == value)
    return family


def _by_metric(name: str, text: str, metrics: Mapping[str, float | None]) -> Metric:
    family = GaugeMetricFamily(name, text, labels=["metric"])
    for metric, value in metrics.items():
        if value is not None:
            family.add_metric([metric], value)
    return family


@dataclass(frozen=True, slots=True)
class WorkerVitals:
    """A worker at a glance; as it stands here, of one that has just started."""

    version: Version | None = None
    """Weights it samples from; None before the first load."""
    redis_up: bool = False
    num_groups: int = 0
    """Completed since it started."""
    num_tokens: int = 0
    """Sampled since it started."""
    num_leases: int = 0
    num_loads: int = 0
    """Versions loaded since it started, and how long that took in all."""
    load_s: float = 0.0
    rewards_failed: Mapping[str, int] = field(default_factory=dict)
    """Completions left without a reward, by how that came."""


class VitalsCollector(Collector):
    """A worker's metrics."""

    def __init__(self, vitals: WorkerVitals) -> None:
        self._vitals = vitals

    def collect(self) -> Iterator[Metric]:
        vitals = self._vitals
        yield CounterMetricFamily(
            "volley_groups_completed", "Groups the queue accepted", vitals.num_groups
        )
        yield CounterMetricFamily("volley_tokens_sampled", "Of completions", vitals.num_tokens)
        yield GaugeMetricFamily("volley_leases_held", "Tasks in hand", vitals.num_leases)
        yield GaugeMetricFamily(
            "volley_redis_up", "1 while this process reaches Redis", vitals.redis_up
        )
        yield SummaryMetricFamily(
            "volley_weights_load_seconds",
            "Pauses for a swap of weights",
            count_value=vitals.num_loads,
            sum_value=vitals.load_s,
        )
        failed = CounterMetricFamily(
            "volley_rewards_failed", "Completions left without a reward", labels=["kind"]
        )
        for kind, count in vitals.rewards_failed.items():
            failed.add_metric([kind], count)
        yield failed
        if vitals.version is not None:
            yield GaugeMetricFamily(
                "volley_weights_epoch", "Of the weights sampled from", vitals.version.epoch
            )
            yield GaugeMetricFamily(
                "volley_weights_step", "Of the weights sampled from", vitals.version.step
            )


def expose_status(report: Callable[[], StatusReport]) -> bytes:
    """The Prometheus text exposition of one report."""
    return _expose(StatusCollector(report))


def expose_vitals(vitals: WorkerVitals) -> bytes:
    """The Prometheus text exposition of a worker."""
    return _expose(VitalsCollector(vitals))


def _expose(collector: Collector) -> bytes:
    registry = CollectorRegistry()
    registry.register(collector)
    # process_resident_memory_bytes and the like, as every process of a Prometheus client has them.
    ProcessCollector(registry=registry)
    return generate_latest(registry)
