"""Learner and workers as processes of their own, over a real Redis."""

import json
import os
import signal

import pytest

from tests.processes import (
    CONFIG,
    SLOW_REWARDS,
    Running,
    learner,
    metrics,
    retried,
    worker,
    write_run,
)
from tests.waiting import wait_until
from volley.schemas.status import StatusReport, WorkerReport
from volley.transport.learner_client import LearnerClient
from volley.transport.redis_stream import connect

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

START_S = 60.0
LEASE_S = 2.0
TASKS = "volley:{run}:tasks"


def report_of(client: LearnerClient, process: Running) -> WorkerReport | None:
    reports = [one for one in client.status().workers if one.pid == process.process.pid]
    return reports[0] if reports else None


def has_worked(client: LearnerClient, process: Running) -> bool:
    report = report_of(client, process)
    return report is not None and report.num_groups > 0


def is_frozen_with_a_task(redis_url: str, client: LearnerClient, process: Running) -> bool:
    """Whether it has stopped with a task in hand: a report alone may be older than its answer."""
    report = report_of(client, process)
    assert report is not None
    os.kill(process.process.pid, signal.SIGSTOP)
    with connect(redis_url) as redis:
        consumers = redis.xinfo_consumers(TASKS, "workers")
    if any(one["name"].decode() == report.worker and one["pending"] for one in consumers):
        return True
    os.kill(process.process.pid, signal.SIGCONT)
    return False


def steps_on(client: LearnerClient, steps: int) -> bool:
    return client.status().version.step >= steps


def sums_meet(status: StatusReport) -> bool:
    ledger = status.ledger
    closed = ledger.trained + ledger.filtered + ledger.refused + ledger.skipped
    return ledger.issued == ledger.open + closed


def test_without_allowed_staleness_every_token_comes_from_the_weights_it_trains(
    redis_url, tmp_path
):
    config = write_run(tmp_path)
    changes = ["--set", "run.steps=50", "--set", "queue.max_staleness=0"]
    with learner(config, redis_url, *changes) as (process, _, folder), worker(folder, "w"):
        assert process.process.wait(120) == 0, process.log.read_text()
    lines = metrics(folder)
    assert [line["step"] for line in lines] == list(range(1, 51))
    assert all(line["staleness_max"] == 0 for line in lines)
    # On-policy, what the learner recomputes is what the sampler said, to rounding.
    assert all(abs(line["ratio_max"] - 1) < 1e-4 for line in lines if line["num_tokens"])
    assert len({line["root"] for line in lines}) == 50
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["samples"] >= 50 * 4 * 4
    assert summary["final_root"] == lines[-1]["root"]
    assert summary["engine"] == "transformers"


def test_two_workers_share_the_work_and_one_finishes_what_a_killed_one_held(redis_url, tmp_path):
    # Without staleness a step needs every number that is out, so a gap would stop the run.
    config = write_run(
        tmp_path, CONFIG.replace("steps = 3", "steps = 100000"), rewards=SLOW_REWARDS
    )
    with (
        learner(config, redis_url, "--set", "queue.max_staleness=0") as (process, client, folder),
        worker(folder, "first") as first,
        worker(folder, "second") as second,
    ):
        wait_until(lambda: has_worked(client, first), START_S)
        wait_until(lambda: has_worked(client, second), START_S)
        wait_until(lambda: is_frozen_with_a_task(redis_url, client, first), START_S)
        first.process.kill()
        step = client.status().version.step
        wait_until(lambda: steps_on(client, step + 3), 2 * LEASE_S + 10)
        wait_until(lambda: report_of(client, first) is None, START_S)
        status = client.status()
        assert retried(status, "lease") >= 1
        assert sums_meet(status)
        assert second.stop() == 0
        assert process.stop() == 0
    assert json.loads((folder / "summary.json").read_text())["state"] == "stopped"


def test_the_late_answer_of_a_frozen_worker_is_a_duplicate(redis_url, tmp_path):
    config = write_run(
        tmp_path, CONFIG.replace("steps = 3", "steps = 100000"), rewards=SLOW_REWARDS
    )
    with (
        learner(config, redis_url) as (_, client, folder),
        worker(folder, "frozen") as frozen,
    ):
        wait_until(lambda: has_worked(client, frozen), START_S)
        wait_until(lambda: is_frozen_with_a_task(redis_url, client, frozen), START_S)
        wait_until(lambda: retried(client.status(), "lease") >= 1, START_S)
        os.kill(frozen.process.pid, signal.SIGCONT)
        wait_until(lambda: client.status().deliveries.duplicate >= 1, START_S)
        step = client.status().version.step
        wait_until(lambda: steps_on(client, step + 2), START_S)
        assert sums_meet(client.status())


def test_a_worker_that_is_told_to_leave_hands_back_or_finishes(redis_url, tmp_path):
    config = write_run(
        tmp_path, CONFIG.replace("steps = 3", "steps = 100000"), rewards=SLOW_REWARDS
    )
    with (
        learner(config, redis_url, "--set", "queue.lease_s=600") as (_, client, folder),
        worker(folder, "leaving") as leaving,
        worker(folder, "staying") as staying,
    ):
        wait_until(lambda: has_worked(client, leaving), START_S)
        wait_until(lambda: has_worked(client, staying), START_S)
        assert leaving.stop() == 0
        # Leases last ten minutes: only what was given back can be finished by the other.
        step = client.status().version.step
        wait_until(lambda: steps_on(client, step + 4), START_S)
        assert retried(client.status(), "lease") == 0
        assert client.status().ledger.skipped == 0
