"""What a start finds in a run folder, and what it says and does about it."""

import json
import shutil
import signal
from pathlib import Path

import pytest

from tests.processes import (
    CONFIG,
    SLOW_REWARDS,
    learner,
    metrics,
    refusal,
    running,
    worker,
    write_run,
)
from tests.run_folders import is_clean
from tests.waiting import wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

DEADLINE_S = 90.0
DURABLE = """
[checkpoint]
every_steps = 2
min_free_bytes = 0
"""


def train(config: Path, redis_url: str, steps: int, *arguments: str, failpoint: str = "") -> Path:
    """Run until `steps` are taken, or until the failpoint; the run folder."""
    changes = ("--set", f"run.steps={steps}", *arguments)
    with (
        learner(config, redis_url, *changes, failpoint=failpoint) as (process, _, folder),
        worker(folder, "w"),
    ):
        expected = -signal.SIGKILL if failpoint else 0
        assert process.process.wait(DEADLINE_S) == expected, process.log.read_text()
    return folder


@pytest.fixture
def config(tmp_path):
    return write_run(tmp_path, CONFIG + DURABLE)


def test_a_finished_run_goes_on_when_it_is_given_more_steps(redis_url, config):
    folder = train(config, redis_url, 3)
    train(config, redis_url, 5)
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3, 4, 5]
    assert len({line["epoch"] for line in metrics(folder)[:3]}) == 1
    assert metrics(folder)[3]["epoch"] > metrics(folder)[2]["epoch"]
    assert json.loads((folder / "summary.json").read_text())["final_step"] == 5
    assert is_clean(folder)


def test_a_changed_learning_rate_is_said_and_holds_from_the_next_step_on(redis_url, config):
    folder = train(config, redis_url, 8, failpoint="after-optimizer-step@4")
    train(config, redis_url, 6, "--set", "optim.learning_rate=5e-4")
    log = (folder.parent / "learner.log").read_text()
    assert "optim.learning_rate: 0.001 -> 0.0005" in log
    rates = [line["learning_rate"] for line in metrics(folder)]
    assert rates == [1e-3] * 4 + [5e-4] * 2
    assert is_clean(folder)


def test_changed_data_is_refused_by_name(redis_url, config):
    folder = train(config, redis_url, 2)
    data = config.parent / "train.jsonl"
    data.write_text(data.read_text() + '\n{"prompt": "sort ab=>", "answer": "ab"}')
    code, words = refusal(config, redis_url, folder)
    assert code == 2
    assert "data.train has changed since run run began" in words
    assert "--fresh" in words


def test_a_second_learner_is_turned_away(redis_url, config):
    with learner(config, redis_url) as (first, _, folder):
        code, words = refusal(config, redis_url, folder)
        assert code == 5
        assert f"another learner (process {first.process.pid})" in words
        assert first.process.poll() is None


def test_the_learner_of_a_copied_folder_takes_over_and_the_other_stops(redis_url, config):
    steps = ("--set", "run.steps=100000")
    with learner(config, redis_url, *steps) as (first, _, folder), worker(folder, "w"):
        wait_until(lambda: folder.joinpath("metrics.jsonl").exists(), DEADLINE_S)
        first.process.send_signal(signal.SIGSTOP)
        copy = folder.with_name("copy")
        shutil.copytree(folder, copy)
        with running(
            "volley.learner", str(config), "--run-folder", str(copy), *steps,
            log=config.parent / "copy.log", environment={"VOLLEY_REDIS_URL": redis_url},
        ) as second:  # fmt: skip
            assert second.process.stdout is not None
            assert json.loads(second.process.stdout.readline())["run"] == "run"
            first.process.send_signal(signal.SIGCONT)
            assert first.process.wait(DEADLINE_S) == 5, first.log.read_text()
            assert "its successor has the run" in first.log.read_text()
            assert second.stop() == 0


def test_a_damaged_step_that_is_needed_stops_the_start_until_it_is_given_up(redis_url, config):
    config.write_text(config.read_text().replace("every_steps = 2", "every_steps = 100"))
    folder = train(config, redis_url, 8, failpoint="after-outcome@5")
    damaged = folder / "trajectories" / "step-00000003-0.vly"
    damaged.write_bytes(damaged.read_bytes()[:-1])
    code, words = refusal(config, redis_url, folder)
    assert code == 3
    assert "step-00000003-0.vly" in words
    assert "--rewind" in words
    train(config, redis_url, 6, "--rewind")
    lines = metrics(folder)
    assert [line["step"] for line in lines] == [1, 2, 3, 4, 5, 6]
    assert lines[2]["epoch"] > lines[1]["epoch"], "the third step is another one"
    assert is_clean(folder)


def test_a_group_that_kills_the_learner_is_set_aside_after_three_deaths(redis_url, tmp_path):
    # Steps that take as long as a lost lease: the group is back before its run has gone far.
    config = write_run(tmp_path, CONFIG + DURABLE, SLOW_REWARDS)
    for _ in range(3):
        folder = train(config, redis_url, 1_000, failpoint="mid-backward#1")
    train(config, redis_url, len(metrics(folder)) + 3)
    assert json.loads((folder / "dead" / "number-1.json").read_text())["disposition"] == "refused"
    assert json.loads((folder / "summary.json").read_text())["ledger"]["refused"] >= 1
    assert is_clean(folder)
