"""Every Prometheus name of Volley, made from a status report when it is scraped."""

from collections.abc import Callable, Iterator

from prometheus_client import CollectorRegistry, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric
from prometheus_client.registry import Collector

from volley.schemas.status import DeliveryCounts, LedgerCounts, StatusReport, WorkerReport


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


def expose(report: Callable[[], StatusReport]) -> bytes:
    """The Prometheus text exposition of one report."""
    registry = CollectorRegistry()
    registry.register(StatusCollector(report))
    return generate_latest(registry)
