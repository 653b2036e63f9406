"""The two tempting mistakes, in a real learner that is killed once: the audit finds both."""

import os
import re
import signal
from pathlib import Path

import pytest

from tests.processes import CONFIG, running, worker, write_run
from volley.learner.audit import audit
from volley.learner.past_run import open_run

pytestmark = [pytest.mark.redis, pytest.mark.e2e, pytest.mark.timeout(300)]

ROOT = Path(__file__).parents[2]
DEADLINE_S = 90.0
DURABLE = """
[checkpoint]
keep_all_steps = true
min_free_bytes = 0
"""


def faults_by_check(folder: Path) -> dict[str, tuple[str, ...]]:
    with open_run(folder) as run:
        findings = audit(run, run.oldest_kept(from_start=True))
    return {finding.check: finding.faults for finding in findings if finding.faults}


RIGHT = ("volley.learner",)
# The first life has trained steps 1 and 2; which of its groups came first is the worker's affair.
TWICE = re.compile(r"number \d was trained in steps [12]-0, [3-6]-0")


def wrong(mistake: str) -> tuple[str, ...]:
    return ("tests.fault.wrong_learner", mistake)


def live(program: tuple[str, ...], redis_url: str, folder: Path, death: str = "") -> None:
    """One life of a learner with a worker of its own, to its death or to the end of the run."""
    run_folder = folder / "run"
    module, *mistake = program
    with running(
        module, *mistake, str(folder / "config.toml"), "--run-folder", str(run_folder),
        log=folder / "learner.log",
        environment={
            "VOLLEY_REDIS_URL": redis_url,
            "VOLLEY_FAILPOINT": death,
            "PYTHONPATH": os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")]),
        },
    ) as learner:  # fmt: skip
        assert learner.process.stdout is not None
        assert learner.process.stdout.readline(), learner.log.read_text()
        with worker(run_folder, "w"):
            expected = -signal.SIGKILL if death else 0
            assert learner.process.wait(DEADLINE_S) == expected, learner.log.read_text()


@pytest.fixture
def folder(tmp_path):
    write_run(tmp_path, CONFIG.replace("steps = 3", "steps = 6") + DURABLE)
    return tmp_path


def test_groups_that_count_as_trained_before_they_are_logged_are_missed(redis_url, folder):
    live(wrong("acknowledges"), redis_url, folder, death="after-collect@3")
    live(RIGHT, redis_url, folder)
    faults = faults_by_check(folder / "run")
    assert set(faults) == {"sums"}
    assert "its counts do not follow from those before it" in faults["sums"][0]


def test_numbers_that_are_issued_without_a_look_at_the_ledger_are_trained_twice(redis_url, folder):
    live(RIGHT, redis_url, folder, death="after-publish@2")
    live(wrong("forgets"), redis_url, folder)
    faults = faults_by_check(folder / "run")
    assert set(faults) == {"once", "sums"}
    assert any(TWICE.search(fault) for fault in faults["once"]), faults["once"]
