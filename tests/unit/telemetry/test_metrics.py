"""What Prometheus reads, and that every name of it is documented."""

import re
from dataclasses import replace
from pathlib import Path

from prometheus_client.parser import text_string_to_metric_families

from tests.reports import REPORT, WORKER
from volley.schemas.groups import Version
from volley.schemas.status import (
    EvaluationReport,
    Health,
    HealthLevel,
    HealthProblem,
    LearnerState,
    WeightsReport,
)
from volley.telemetry.metrics import WorkerVitals, expose_status, expose_vitals

DOCUMENT = Path(__file__).parents[3] / "docs" / "watching.md"

FULL = replace(
    REPORT,
    state=LearnerState.WAITING,
    disk="degraded: full",
    health=Health(
        HealthLevel.CRITICAL, "No worker.", (HealthProblem("no_workers", "none", "start one"),)
    ),
    alarms=("alarm kl, for 10 steps: ...",),
    workers=(replace(WORKER, last_load_s=0.125),),
    weights=WeightsReport(num_bytes=4096, publish_s=0.5),
    evaluation=EvaluationReport(Version(1, 30), "ab", {"reward": 0.75, "pass@n": None}),
    metrics=REPORT.metrics | {"waiting_s": 1.5, "training_s": 2.5, "publishing_s": 0.5},
)


def samples(exposition: bytes) -> dict[str, float]:
    """Values by name and labels, but those of the process."""
    return {
        sample.name + "".join(f",{label}={value}" for label, value in sample.labels.items()): (
            sample.value
        )
        for family in text_string_to_metric_families(exposition.decode())
        for sample in family.samples
        if sample.name.startswith("volley_")
    }


def test_a_report_is_told_in_base_units():
    told = samples(expose_status(lambda: FULL))
    worker = ",engine=transformers,host=box,worker=0123456789abcdef"
    expected = {
        "volley_run_info,run=sort-1": 1,
        "volley_state,state=waiting": 1,
        "volley_state,state=training": 0,
        "volley_health,level=critical": 1,
        "volley_health,level=ok": 0,
        "volley_problem,code=no_workers": 1,
        "volley_alarms": 1,
        "volley_redis_up": 1,
        "volley_disk_ok": 0,
        "volley_step": 37,
        "volley_steps_planned": 300,
        "volley_samples_total": 9472,
        "volley_numbers,state=filtered": 6,
        "volley_deliveries_total,kind=retried_lease": 3,
        "volley_places": 96,
        "volley_outstanding": 64,
        "volley_tasks": 3,
        "volley_results": 2,
        "volley_last_step,metric=kl": 0.00213,
        "volley_step_seconds,state=training": 2.5,
        "volley_weights_bytes": 4096,
        "volley_weights_publish_seconds": 0.5,
        "volley_last_evaluation,metric=reward": 0.75,
        "volley_last_evaluation,metric=step": 30,
        f"volley_worker_lag_versions{worker}": 1,
        f"volley_worker_leases{worker}": 2,
        f"volley_worker_tokens_total{worker}": 100,
        f"volley_worker_last_load_seconds{worker}": 0.125,
    }
    assert expected.items() <= told.items()
    assert "volley_last_evaluation,metric=pass@n" not in told


def test_what_is_not_known_is_left_out():
    told = samples(expose_status(lambda: replace(REPORT, queue=None, workers=())))
    assert told["volley_workers"] == 0
    absent = ("volley_tasks", "volley_weights", "volley_worker_", "volley_step_seconds")
    assert [name for name in told if name.startswith(absent)] == []


def test_the_memory_of_every_process_is_told():
    for exposition in (expose_status(lambda: REPORT), expose_vitals(WorkerVitals())):
        assert b"process_resident_memory_bytes" in exposition


def test_every_name_is_documented_and_no_other_one():
    vitals = WorkerVitals(version=Version(1, 0), rewards_failed={"raised": 1})
    exposed = expose_status(lambda: FULL) + expose_vitals(vitals)
    names = set(re.findall(rb"^# TYPE (volley_\w+)", exposed, re.MULTILINE))
    rows = re.findall(r"^\| `(volley_\w+)", DOCUMENT.read_text(encoding="utf-8"), re.MULTILINE)
    assert sorted(rows) == sorted(name.decode() for name in names)
