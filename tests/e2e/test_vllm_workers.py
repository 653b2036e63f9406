"""vLLM workers as processes of their own, with a real learner over a real Redis."""

import json
import os
from functools import partial
from pathlib import Path

import pytest

from tests.processes import CONFIG, Running, learner, metrics, worker, write_run
from tests.waiting import wait_until
from volley.schemas.status import WorkerReport
from volley.transport.learner_client import LearnerClient

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.usefixtures("vllm")]

START_S = 120.0
VLLM = ("--engine", "vllm", "--kv-cache-memory-bytes", str(2**24))


def report_of(client: LearnerClient, process: Running) -> WorkerReport | None:
    """The report of a worker that has completed a group."""
    reports = [one for one in client.status().workers if one.pid == process.process.pid]
    return next((report for report in reports if report.num_groups), None)


def children_of(pid: int) -> set[int]:
    return {
        int(child)
        for task in Path(f"/proc/{pid}/task").iterdir()
        for child in (task / "children").read_text().split()
    }


def test_what_a_vllm_worker_samples_is_what_the_learner_recomputes(redis_url, tmp_path):
    config = write_run(tmp_path)
    exact = ["--set", "queue.max_staleness=0"]
    with (
        learner(config, redis_url, *exact) as (process, _, folder),
        worker(folder, "vllm", *VLLM) as sampling,
    ):
        assert process.process.wait(START_S) == 0, process.log.read_text()
        assert sampling.process.wait(START_S) == 0, sampling.log.read_text()
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3]
    for line in lines:
        # One policy on both sides, so the ratio of its probabilities is 1 for every token.
        assert line["ratio_mean"] == pytest.approx(1, abs=1e-4)
        assert line["ratio_max"] == pytest.approx(1, abs=1e-3)
    assert json.loads((folder / "summary.json").read_text())["engine"] == "vllm"


def test_two_vllm_workers_and_one_of_transformers_serve_one_run(redis_url, tmp_path):
    config = write_run(tmp_path, CONFIG.replace("steps = 3", "steps = 100000"))
    with (
        learner(config, redis_url) as (process, client, folder),
        worker(folder, "split", *VLLM, "--tensor-parallel-size", "2") as split,
        worker(folder, "whole", *VLLM) as whole,
        worker(folder, "plain") as plain,
    ):
        workers = {"split": split, "whole": whole, "plain": plain}
        reports = {
            name: wait_until(partial(report_of, client, one), START_S)
            for name, one in workers.items()
        }
        assert {name: report.engine for name, report in reports.items()} == {
            "split": "vllm",
            "whole": "vllm",
            "plain": "transformers",
        }
        parts = children_of(split.process.pid)
        assert len(parts) >= 2
        split.process.kill()
        split.process.wait()
        wait_until(lambda: not any(os.path.exists(f"/proc/{part}") for part in parts), START_S)
        step = client.status().version.step
        wait_until(lambda: client.status().version.step > step + 2, START_S)
        assert whole.stop() == 0, whole.log.read_text()
        assert plain.stop() == 0
        assert process.stop() == 0
