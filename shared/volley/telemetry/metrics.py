"""Every Prometheus name of Volley, made from a process's own counts when it is scraped."""

from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    Metric,
    SummaryMetricFamily,
)
from prometheus_client.registry import Collector

from volley.schemas.groups import Version
from volley.schemas.status import (
    DeliveryCounts,
    EvaluationReport,
    LedgerCounts,
    StatusReport,
    WorkerReport,
)


class StatusCollector(Collector):
    """A learner's metrics; asks for a report at every scrape, so nothing is counted twice."""

    def __init__(self, report: Callable[[], StatusReport]) -> None:
        self._report = report

    def collect(self) -> Iterator[Metric]:
        report = self._report()
        yield GaugeMetricFamily(
            "volley_step", "Optimiser steps behind the head", report.version.step
        )
        yield GaugeMetricFamily("volley_epoch", "Epoch of the learner", report.version.epoch)
        yield GaugeMetricFamily(
            "volley_redis_up", "1 while the learner reaches Redis", report.redis == "ok"
        )
        yield GaugeMetricFamily("volley_uptime_seconds", "Since the start", report.uptime_s)
        yield CounterMetricFamily("volley_samples", "Completions collected", report.num_samples)
        yield _ledger(report.ledger)
        yield _deliveries(report.deliveries)
        if report.queue is not None:
            yield GaugeMetricFamily(
                "volley_outstanding", "Numbers issued, not dropped", report.queue.outstanding
            )
        yield _steps(report.metrics)
        if report.evaluation is not None:
            yield _evaluation(report.evaluation)
        yield from _workers(report.workers, report.version.step)

    def describe(self) -> list[Metric]:
        """Names depend on the report; registering must not ask for one."""
        return []


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


def _steps(metrics: dict[str, float | None]) -> Metric:
    family = GaugeMetricFamily("volley_last_step", "metrics.jsonl, last line", labels=["metric"])
    for name, value in metrics.items():
        if value is not None:
            family.add_metric([name], value)
    return family


def _evaluation(evaluation: EvaluationReport) -> Metric:
    family = GaugeMetricFamily(
        "volley_last_evaluation", "evaluations.jsonl, last line", labels=["metric"]
    )
    for name, value in {"step": evaluation.version.step, **evaluation.metrics}.items():
        if value is not None:
            family.add_metric([name], value)
    return family


def _workers(workers: tuple[WorkerReport, ...], head_step: int) -> Iterator[Metric]:
    yield GaugeMetricFamily("volley_workers", "Workers that report", len(workers))
    labels = ["worker", "host", "engine"]
    speed = GaugeMetricFamily("volley_worker_tokens_per_second", "Sampling speed", labels=labels)
    lag = GaugeMetricFamily("volley_worker_lag_versions", "Behind the head", labels=labels)
    for worker in workers:
        names = [worker.worker, worker.host, worker.engine]
        speed.add_metric(names, worker.tokens_per_s)
        if worker.version is not None:
            lag.add_metric(names, head_step - worker.version.step)
    yield speed
    yield lag


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
            "volley_redis_up", "1 while the worker reaches Redis", vitals.redis_up
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
    return generate_latest(registry)
