"""Held-out prompts on the workers of a run: when, by whom, and what is left of them."""

import json
import signal
from pathlib import Path

import pytest

from tests.processes import CONFIG, SLOW_REWARDS, learner, metrics, worker, write_run
from tests.run_folders import is_clean
from tests.waiting import wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

DEADLINE_S = 90.0
NUM_HELD_OUT = 6
EVALUATION = """
[evaluation]
data = "held_out.jsonl"
eval_steps = 3
num_generations = 2
pass_reward = 4
"""


@pytest.fixture
def config(tmp_path):
    config = write_run(tmp_path, CONFIG + EVALUATION, SLOW_REWARDS)
    rows = [{"prompt": f"sort {letter}z=>", "answer": "z"} for letter in "abcdef"]
    (tmp_path / "held_out.jsonl").write_text("\n".join(map(json.dumps, rows)))
    return config


def evaluations(folder: Path) -> list[dict[str, float]]:
    return [json.loads(line) for line in (folder / "evaluations.jsonl").read_text().splitlines()]


def test_versions_are_evaluated_whole_beside_the_training(redis_url, config):
    with (
        learner(config, redis_url, "--set", "run.steps=6") as (trainer, client, folder),
        worker(folder, "w"),
    ):
        wait_until(lambda: client.status().evaluation, DEADLINE_S)
        assert trainer.process.wait(DEADLINE_S) == 0, trainer.log.read_text()
    lines = evaluations(folder)
    # A version that is due while another one is being answered is left out.
    assert [line["step"] for line in lines] in ([0, 6], [0, 3, 6])
    roots = {line["step"]: line["root"] for line in metrics(folder)}
    for line in lines:
        assert line["num_answered"] == line["num_prompts"] == NUM_HELD_OUT
        assert line["reward"] > 1
        assert 0 <= line["pass@1"] <= line["pass@2"] <= 1
        assert line["reward_stderr"] > 0
        assert line["reward_greedy"] is not None
        assert line["root"] == roots.get(line["step"], line["root"])
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["evaluation"]["step"] == 6
    assert summary["best_evaluation"]["reward"] == max(line["reward"] for line in lines)
    assert is_clean(folder)


def test_what_a_killed_worker_and_a_killed_learner_leave_is_evaluated_once(redis_url, config):
    steps = ("--set", "run.steps=3")
    with learner(config, redis_url, *steps) as (_, client, folder):
        with worker(folder, "dying", failpoint="mid-generation@3") as dying:
            assert dying.process.wait(DEADLINE_S) == -signal.SIGKILL
        with worker(folder, "living"):
            wait_until(lambda: client.status().version.step >= 1, DEADLINE_S)
    with learner(config, redis_url, *steps) as (trainer, _, folder), worker(folder, "third"):
        assert trainer.process.wait(DEADLINE_S) == 0, trainer.log.read_text()
    steps_evaluated = [line["step"] for line in evaluations(folder)]
    assert steps_evaluated == sorted(set(steps_evaluated))
    assert steps_evaluated[-1] == 3
    assert evaluations(folder)[-1]["num_answered"] == NUM_HELD_OUT
    assert is_clean(folder)
