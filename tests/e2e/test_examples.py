"""Every folder of examples/, run small with its own files, and the environment of the docs page."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import Running, running
from tests.tiny_models import save_tiny_chat_model
from tests.waiting import wait_until
from volley.learner.tiny_model import save_model
from volley.transport.learner_client import LearnerClient, LearnerError

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

ROOT = Path(__file__).parents[2]
EXAMPLES = ROOT / "examples"
DEADLINE_S = 120.0
SMALL = (
    *("--set", "model.dtype=float32", "--set", "devices.learner=cpu"),
    *("--set", "sampling.max_completion_length=24", "--set", "optim.groups_per_step=4"),
)


def python(*arguments: object, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, *map(str, arguments)], cwd=folder, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def run_until_rewarded(folder: Path, *options: str) -> list[dict[str, object]]:
    """`volley run config.toml` until some groups have rewards; their trajectories."""
    run = folder / "run"
    options += ("--run-folder", str(run), "--set", "devices.engine=transformers")
    log = folder / "volley.log"
    with running(
        "volley.launcher", "run", str(folder / "config.toml"), *options, log=log
    ) as launcher:
        wait_until(lambda: num_rewarded(run, launcher) >= 8, DEADLINE_S)
        assert launcher.stop() == 0, log.read_text()
    shown = python("-m", "volley.launcher", "trajectories", run, "--json", folder=folder)
    return [json.loads(line) for line in shown.splitlines()]


def num_rewarded(run: Path, launcher: Running) -> int:
    """Groups that are through; every one of them has rewards."""
    assert launcher.process.poll() is None, launcher.log.read_text()
    try:
        server = json.loads((run / "server.json").read_text())
        client = LearnerClient(server["url"], (run / "token").read_text().strip())
        ledger = client.status().ledger
    except (OSError, LearnerError):
        return 0
    assert not ledger.skipped
    return ledger.trained + ledger.filtered


@pytest.fixture
def example(tmp_path: Path):
    """A copy of an example's folder."""

    def copy(name: str) -> Path:
        kept = shutil.ignore_patterns("model", "task", "__pycache__")
        shutil.copytree(EXAMPLES / name, tmp_path / name, ignore=kept)
        return tmp_path / name

    return copy


@pytest.mark.parametrize("name", ["maths", "search", "own_reward"])
def test_an_example_of_a_real_model_runs_with_a_tiny_one(example, name):
    folder = example(name)
    if (folder / "data.py").exists():
        python("data.py", folder=folder)
    save_tiny_chat_model(folder / "model")
    shown = run_until_rewarded(folder, *SMALL, "--set", f"model.path={folder / 'model'}")
    assert all(one["reward"] is not None for one in shown)


def test_the_sort_example_trains(example):
    folder = example("sort")
    python("-m", "volley.learner.sort_task", "task", "--cold-start-steps", 2, folder=folder)
    shown = run_until_rewarded(folder)
    assert all(one["turns"] == 1 and one["reward"] in (0, 1) for one in shown)


def test_the_calculator_is_learnt_from_demonstrations_and_used(example):
    folder = example("own_environment")
    python("data.py", folder=folder)
    shown = run_until_rewarded(folder, "--set", "cold_start.steps=80")
    assert any("=" in str(one["completion"]) and one["turns"] == 3 for one in shown)


def test_the_environment_of_the_docs_page_works_as_it_stands_there(tmp_path):
    page = (ROOT / "docs" / "environments.md").read_text()
    for language, name in (
        ("python", "calculator.py"),
        ("json", "train.jsonl"),
        ("toml", "config.toml"),
    ):
        block = re.search(rf"```{language}\n(.*?)```", page, flags=re.DOTALL)
        assert block, language
        (tmp_path / name).write_text(block[1])
    save_model(tmp_path / "model", seed=0)
    small = ("--set", "devices.learner=cpu", "--set", "model.dtype=float32")
    shown = run_until_rewarded(tmp_path, *small)
    assert {one["turns"] for one in shown} != {1}
