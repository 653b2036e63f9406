"""A run that is told to pause, to go on, to save, to let a worker go, to stop."""

import subprocess
from functools import partial
from pathlib import Path

import pytest

from tests.e2e.test_run import ENDLESS, START_S, running, status_of, steps_on, volley
from tests.processes import metrics, write_run
from tests.waiting import wait_until
from volley.schemas.status import LearnerState, StatusReport

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


@pytest.fixture(autouse=True)
def no_tokens_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("VOLLEY_TOKEN", "VOLLEY_ADMIN_TOKEN"):
        monkeypatch.delenv(name, raising=False)


def tell(folder: Path, *command: str) -> subprocess.CompletedProcess[str]:
    """`volley COMMAND` where a person would type it."""
    return subprocess.run(
        volley(*command), cwd=folder.parent.parent, capture_output=True, text=True
    )


def state_is(folder: Path, state: LearnerState) -> bool:
    report = status_of(folder)
    return report is not None and report.state is state


def workers_are(folder: Path, number: int) -> StatusReport | None:
    report = status_of(folder)
    return report if report is not None and len(report.workers) == number else None


def snapshots(folder: Path) -> set[str]:
    return {path.name for path in (folder / "checkpoints").iterdir()}


def test_a_run_does_what_it_is_told_and_goes_on_afterwards(tmp_path):
    config = write_run(tmp_path, ENDLESS)
    folder = tmp_path / "runs" / "run"
    with running(config) as process:
        wait_until(lambda: steps_on(folder, 2), START_S)

        assert tell(folder, "pause").stdout.startswith("pausing after the step in hand")
        wait_until(partial(state_is, folder, LearnerState.PAUSED), START_S)
        at_pause = len(metrics(folder))

        before = snapshots(folder)
        assert tell(folder, "checkpoint").returncode == 0
        wait_until(lambda: snapshots(folder) - before, START_S)
        assert len(metrics(folder)) == at_pause, "nothing is trained in a pause"

        assert tell(folder, "resume").stdout == "going on\n"
        wait_until(lambda: steps_on(folder, at_pause + 2), START_S)

        [worker] = wait_until(lambda: workers_are(folder, 1), START_S).workers
        unknown = tell(folder, "drain", "nobody")
        assert unknown.returncode == 2
        assert f"nobody is no worker of this run; there is: {worker.worker}" in unknown.stderr
        assert tell(folder, "drain", worker.worker[:8]).returncode == 0
        wait_until(lambda: workers_are(folder, 0), START_S)

        assert tell(folder, "stop").stdout.startswith("stopping after the step in hand")
        output, _ = process.communicate(timeout=START_S)
    assert process.returncode == 0, output
    assert "rollout-0 died" not in output
    assert "Stopped after" in output
    assert tell(folder, "pause").returncode == 3, "nobody is there to listen"
