"""A run that begins with a cold start: seen, stopped, killed, gone on with, and audited."""

import json
import signal
from pathlib import Path

import pytest

from tests.processes import CONFIG, Running, learner, metrics, refusal, worker, write_run
from tests.run_folders import is_clean
from tests.waiting import wait_until
from volley.learner.export import export
from volley.schemas.status import LearnerState
from volley.transport.learner_client import LearnerUnavailable

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

DEADLINE_S = 90.0
COLD_START = """
[checkpoint]
every_steps = 2
keep_all_steps = true
min_free_bytes = 0
[cold_start]
data = "demonstrations.jsonl"
steps = 6
batch_size = 4
learning_rate = 1e-2
save_steps = 2
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    rows = [{"prompt": f"sort {word}=", "completion": "ab"} for word in ("ab", "ba", "aab")]
    (tmp_path / "demonstrations.jsonl").write_text("".join(f"{json.dumps(row)}\n" for row in rows))
    return write_run(tmp_path, CONFIG + COLD_START)


def cold_steps(folder: Path) -> list[int]:
    lines = (folder / "cold_start" / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["step"] for line in lines]


def ends_with(process: Running, code: int) -> None:
    assert process.process.wait(DEADLINE_S) == code, process.log.read_text()


def test_killed_in_the_cold_start_and_in_grpo_it_ends_as_it_should(redis_url, config, tmp_path):
    with learner(config, redis_url, failpoint="after-cold-start-step@5") as (process, _, folder):
        ends_with(process, -signal.SIGKILL)
    assert cold_steps(folder) == [1, 2, 3, 4, 5]
    assert not (folder / "cold_start" / "model").exists()
    with (
        learner(config, redis_url, failpoint="after-optimizer-step@2") as (process, _, _),
        worker(folder, "w"),
    ):
        ends_with(process, -signal.SIGKILL)
    made = (folder / "cold_start" / "model" / "model.safetensors").stat().st_mtime_ns
    with learner(config, redis_url) as (process, _, _), worker(folder, "w"):
        ends_with(process, 0)
    assert cold_steps(folder) == [1, 2, 3, 4, 5, 6]
    assert (folder / "cold_start" / "model" / "model.safetensors").stat().st_mtime_ns == made
    assert [line["step"] for line in metrics(folder)] == [1, 2, 3]
    # A run folder that is moved takes along the model that the audit's replay begins with.
    moved = folder.rename(tmp_path / "moved")
    assert is_clean(moved)
    export(moved, tmp_path / "exported", None)
    code, words = refusal(config, redis_url, moved, "--set", "cold_start.steps=7")
    assert (code, "cold_start.steps is 7" in words) == (2, True), words


def test_it_is_seen_and_told_to_stop(redis_url, config):
    steps = ("--set", "cold_start.steps=1000000")
    with learner(config, redis_url, *steps) as (process, client, folder):
        wait_until(lambda: "step " in (client.status().cold_start or ""), DEADLINE_S)
        assert client.status().state is LearnerState.COLD_START
        with pytest.raises(LearnerUnavailable, match="503"):
            client.run_spec()
        assert process.stop() == 0, process.log.read_text()
    assert any((folder / "cold_start" / "checkpoints").iterdir())
    assert not (folder / "run.json").exists()
