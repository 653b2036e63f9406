"""`volley run`: everything on one machine, from the first start to the last stop."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.processes import CONFIG, metrics, write_run
from tests.waiting import wait_until
from volley.schemas.status import StatusReport
from volley.telemetry.stops import ExitCode
from volley.transport.learner_client import LearnerClient, LearnerUnavailable

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

START_S = 60.0
ENDLESS = CONFIG.replace("steps = 3", "steps = 100000")
RAISING_REWARD = """
def variety(prompts, completions, **columns):
    return [1.0 / 0.0]
"""


@pytest.fixture(autouse=True)
def no_token_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("VOLLEY_TOKEN", raising=False)


def volley(*arguments: object) -> list[str]:
    return [sys.executable, "-m", "volley.launcher", *map(str, arguments)]


@contextmanager
def running(config: Path) -> Iterator[subprocess.Popen[str]]:
    """`volley run` in the config's folder, the run in `run/`."""
    with subprocess.Popen(
        volley("run", config, "--run-folder", config.parent / "runs" / "run"),
        cwd=config.parent,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    ) as process:
        try:
            yield process
        finally:
            process.kill()


def status_of(folder: Path) -> StatusReport | None:
    """What the learner of a run folder says; None before it listens."""
    server, token = folder / "server.json", folder / "token"
    if not server.exists():
        return None
    client = LearnerClient(json.loads(server.read_text())["url"], token.read_text())
    try:
        return client.status()
    except LearnerUnavailable:
        return None
    finally:
        client.close()


def steps_on(folder: Path, steps: int) -> StatusReport | None:
    report = status_of(folder)
    return report if report is not None and report.version.step >= steps else None


def processes_about(folder: Path) -> list[str]:
    """Command lines and working folders of this machine's processes that name the folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
            place = (process / "cwd").readlink()
        except OSError:
            continue
        if str(folder) in f"{line} {place}" and process.name != str(os.getpid()):
            found.append(line)
    return found


def test_a_run_takes_its_steps_and_leaves_a_model_and_a_summary(tmp_path):
    config = write_run(tmp_path)
    done = subprocess.run(
        volley("run", config, "--set", "run.steps=2"), cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "Finished after 2 of 2 steps." in done.stdout
    (folder,) = (tmp_path / "runs").iterdir()
    assert [line["step"] for line in metrics(folder)] == [1, 2]
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["final_step"] == summary["steps"] == 2
    assert summary["samples"] >= 2 * 4 * 4
    assert summary["final_root"] == metrics(folder)[-1]["root"]
    assert (folder / "model" / "model.safetensors").exists()
    assert (folder / "reward.png").exists()
    assert processes_about(tmp_path) == []


def test_ctrl_c_stops_everything_cleanly_and_status_sees_the_run_before(tmp_path):
    config = write_run(tmp_path, ENDLESS)
    folder = tmp_path / "runs" / "run"
    with running(config) as process:
        wait_until(lambda: steps_on(folder, 2), START_S)
        shown = subprocess.run(volley("status", "--json"), cwd=tmp_path, capture_output=True)
        assert json.loads(shown.stdout)["run"] == "run"
        process.send_signal(signal.SIGINT)
        output, _ = process.communicate(timeout=START_S)
    assert process.returncode == 0, output
    assert "Stopped after" in output
    assert f"run {config.name} --run-folder runs/run goes on from there" in output
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["state"] == "stopped"
    assert summary["steps"] == len(metrics(folder)) >= 2
    assert (folder / "model").exists()
    assert (folder / "redis").exists(), "groups that were answered are not asked for again"
    assert processes_about(tmp_path) == []


def test_a_reward_that_raises_stops_the_run_with_its_traceback(tmp_path):
    config = write_run(tmp_path, rewards=RAISING_REWARD)
    done = subprocess.run(volley("run", config), cwd=tmp_path, capture_output=True, text=True)
    assert done.returncode == 2
    assert "rewards.py" in done.stderr
    assert "ZeroDivisionError" in done.stderr
    assert done.stderr.count("ZeroDivisionError") == 1
    assert len(done.stderr.splitlines()) < 24
    assert processes_about(tmp_path) == []


def test_a_killed_worker_and_a_killed_redis_are_started_again(tmp_path):
    config = write_run(tmp_path, ENDLESS)
    folder = tmp_path / "runs" / "run"
    with running(config) as process:
        first = wait_until(lambda: steps_on(folder, 1), START_S)
        os.kill(first.workers[0].pid, signal.SIGKILL)
        wait_until(lambda: has_another_worker(folder, first), START_S)
        kill_redis(folder)
        before = wait_until(lambda: status_of(folder), START_S).version.step
        wait_until(lambda: steps_on(folder, before + 3), START_S)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=START_S)
    assert process.returncode == 0, output
    assert "rollout-0 died (signal SIGKILL)" in output
    assert "Redis died" in output


def has_another_worker(folder: Path, first: StatusReport) -> bool:
    report = status_of(folder)
    killed = first.workers[0].worker
    return report is not None and any(worker.worker != killed for worker in report.workers)


def kill_redis(folder: Path) -> None:
    """Kill the server that works in the run's redis folder."""
    for process in Path("/proc").glob("[0-9]*"):
        try:
            is_ours = (process / "cwd").readlink() == folder / "redis"
        except OSError:
            continue
        if is_ours:
            os.kill(int(process.name), signal.SIGKILL)


def test_a_killed_learner_is_started_again_where_the_workers_wait_for_it(tmp_path):
    config = write_run(tmp_path, ENDLESS.replace("steps = 100000", "steps = 12"))
    folder = tmp_path / "runs" / "run"
    with running(config) as process:
        first = wait_until(lambda: steps_on(folder, 3), START_S)
        address = json.loads((folder / "server.json").read_text())
        os.kill(address["pid"], signal.SIGKILL)
        again = wait_until(lambda: in_another_epoch(folder, first), START_S)
        assert json.loads((folder / "server.json").read_text())["url"] == address["url"]
        assert again.version.step >= first.version.step
        output, _ = process.communicate(timeout=2 * START_S)
    assert process.returncode == 0, output
    assert "learner died (signal SIGKILL), it is started again in 0.5 s" in output
    assert output.count(" died ") == 1, "the workers have waited"
    assert "Finished after 12 of 12 steps." in output
    assert [line["step"] for line in metrics(folder)] == list(range(1, 13))
    assert processes_about(tmp_path) == []


def in_another_epoch(folder: Path, first: StatusReport) -> StatusReport | None:
    report = steps_on(folder, first.version.step)
    return report if report is not None and report.version.epoch > first.version.epoch else None


def test_a_command_that_is_killed_goes_on_with_what_was_on_disk(tmp_path):
    config = write_run(tmp_path, ENDLESS.replace("steps = 100000", "steps = 40"))
    command = volley("run", config)
    with subprocess.Popen(command, cwd=tmp_path, stdout=subprocess.DEVNULL) as process:
        folder = wait_until(lambda: next((tmp_path / "runs").glob("*"), None), START_S)
        wait_until(lambda: steps_on(folder, 3), START_S)
        process.kill()
    wait_until(lambda: not processes_about(tmp_path), START_S)
    done = len(metrics(folder))

    again = subprocess.run(command, cwd=tmp_path, capture_output=True, text=True)
    assert again.returncode == 0, again.stdout + again.stderr
    assert f"resuming {folder} at step {done} of 40 (--fresh starts another run)" in again.stdout
    assert "Finished after 40 of 40 steps." in again.stdout
    assert [line["step"] for line in metrics(folder)] == list(range(1, 41))
    assert not (folder / "redis").exists(), "nobody needs it any more"
    assert processes_about(tmp_path) == []


def test_a_second_command_for_the_same_run_is_refused_and_the_first_goes_on(tmp_path):
    config = write_run(tmp_path, ENDLESS)
    folder = tmp_path / "runs" / "run"
    with running(config) as process:
        wait_until(lambda: steps_on(folder, 1), START_S)
        second = subprocess.run(
            volley("run", config, "--run-folder", folder), capture_output=True, text=True
        )
        assert second.returncode == ExitCode.ANOTHER_LEARNER
        assert f"another `volley run` works on {folder}" in second.stderr
        before = wait_until(lambda: status_of(folder), START_S).version.step
        wait_until(lambda: steps_on(folder, before + 2), START_S)
        process.send_signal(signal.SIGTERM)
        output, _ = process.communicate(timeout=START_S)
    assert process.returncode == 0, output
