"""Which learner `volley status` asks, and what it makes of the answer."""

import io
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest
from rich.console import Console

from tests.reports import REPORT
from volley.launcher.status import Address, find_learner, render, show_status
from volley.schemas.groups import Version
from volley.schemas.status import EvaluationReport
from volley.telemetry.stops import ExitCode, Stop


def write_run(runs: Path, name: str, url: str, age_s: int) -> None:
    folder = runs / name
    folder.mkdir(parents=True)
    (folder / "token").write_text(f"token of {name}")
    (folder / "server.json").write_text(json.dumps({"url": url, "pid": 1}))
    os.utime(folder / "server.json", (1_000_000 - age_s,) * 2)


@pytest.fixture
def runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.delenv("VOLLEY_TOKEN", raising=False)
    write_run(tmp_path, "old", "http://127.0.0.1:1000", age_s=60)
    write_run(tmp_path, "new", "http://127.0.0.1:2000", age_s=0)
    (tmp_path / "unfinished").mkdir()
    return tmp_path


def test_without_a_url_the_newest_run_is_asked(runs):
    assert find_learner(None, runs) == Address("http://127.0.0.1:2000", "token of new")


def test_the_token_of_a_known_url_is_found(runs):
    assert find_learner("http://127.0.0.1:1000/", runs).token == "token of old"


def test_an_unknown_url_takes_the_token_of_the_environment(runs, monkeypatch):
    with pytest.raises(Stop, match="set VOLLEY_TOKEN"):
        find_learner("http://elsewhere:8000", runs)
    monkeypatch.setenv("VOLLEY_TOKEN", "given")
    assert find_learner("http://elsewhere:8000", runs).token == "given"


def test_without_any_run_the_error_says_what_to_do(tmp_path):
    with pytest.raises(Stop, match="give the learner's URL") as caught:
        find_learner(None, tmp_path / "runs")
    assert caught.value.code is ExitCode.CONFIG


def test_what_is_not_a_url_is_said_to_be_none(runs):
    with pytest.raises(Stop, match="http://HOST:PORT"):
        find_learner("localhost:8000", runs)


def test_of_a_run_in_its_cold_start_only_that_is_shown():
    cold = replace(REPORT, cold_start="step 3 of 64, loss 1.234", queue=None)
    console = Console(file=io.StringIO(), width=100)
    console.print(render(cold))
    assert isinstance(console.file, io.StringIO)
    text = console.file.getvalue()
    assert "step 3 of 64, loss 1.234" in text
    assert "Redis is away" not in text


def test_a_learner_that_is_gone_is_an_error_of_the_environment(runs):
    with pytest.raises(Stop, match="the run is over") as caught:
        show_status(find_learner(None, runs), watch=False, as_json=False)
    assert caught.value.code is ExitCode.ENVIRONMENT


def table(report: object) -> str:
    console = Console(file=io.StringIO(), width=110)
    console.print(report)
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_the_table_shows_the_run_its_numbers_and_its_workers():
    text = table(render(REPORT))
    assert "37 of 300 (epoch 1, root cdcdcdcdcdcd)" in text
    assert "100 issued = 64 open + 30 trained + 6 filtered + 0 refused + 0 skipped" in text
    assert "1 duplicate, 0 invalid, 2 stale, 0 failed; retried: lease 3" in text
    assert "64 of 96 places taken, 3 tasks, 2 results" in text
    worker = " ".join(text.splitlines()[-1].split())
    assert worker == "01234567 box:7 transformers on cpu 1.36 9000 12 2 0.2 s"


def test_a_run_without_workers_says_how_to_start_one():
    alone = replace(REPORT, workers=(), queue=None)
    assert "volley rollout --learner URL" in table(render(alone))
    assert "Redis is away" in table(render(alone))


def test_a_full_disk_and_a_replay_are_shown():
    told = replace(REPORT, disk="degraded: 12 MB free", replay="3 of 12 taken")
    text = table(render(told))
    assert "disk degraded: 12 MB free" in text
    assert "3 of 12 taken" in text


def test_the_last_evaluation_is_shown():
    scores = {"num_prompts": 6.0, "num_answered": 5.0, "reward": 0.5, "reward_greedy": None}
    evaluation = EvaluationReport(Version(1, 20), "ef" * 32, {**scores, "pass@4": 0.75})
    text = table(render(replace(REPORT, evaluation=evaluation)))
    assert "step 20: reward 0.500  pass@4 0.750  (5 of 6 prompts)" in text
