"""The real processes of a run, started by hand as a user would."""

import json
import os
import signal
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.tiny_models import save_tiny_qwen3
from volley.launcher.parent_death import die_with_parent
from volley.schemas.status import StatusReport
from volley.transport.learner_client import LearnerClient

TOKEN = "a-token-for-tests"
STOP_S = 30.0
START_S = 90.0

# Rewards that a random model gets some signal from.
REWARDS = """
def variety(prompts, completions, **columns):
    return [float(len(set(text))) for text in completions]
"""

# Every group is in somebody's hands for a while, so that a kill always hits some.
SLOW_REWARDS = """
import time

def variety(prompts, completions, **columns):
    time.sleep(0.2)
    return [float(len(set(text))) for text in completions]
"""

CONFIG = """
[run]
steps = 3
[model]
path = "model"
dtype = "float32"
[data]
train = "train.jsonl"
[sampling]
num_generations = 4
max_completion_length = 8
[reward]
functions = ["rewards:variety"]
[optim]
groups_per_step = 4
learning_rate = 1e-3
[devices]
learner = "cpu"
rollout = ["cpu"]
[queue]
lease_s = 2.0
"""


def write_run(folder: Path, config: str = CONFIG, rewards: str = REWARDS) -> Path:
    """A config with everything that it names beside it; returns its path."""
    save_tiny_qwen3(folder / "model")
    rows = [{"prompt": f"sort {a}{b}=>", "answer": f"{a}{b}"} for a in "abcd" for b in "efgh"]
    (folder / "train.jsonl").write_text("\n".join(json.dumps(row) for row in rows))
    (folder / "rewards.py").write_text(rewards)
    path = folder / "config.toml"
    path.write_text(config)
    return path


@dataclass
class Running:
    """A process that was started, and where its standard error goes."""

    process: subprocess.Popen[str]
    log: Path

    def stop(self) -> int:
        """SIGTERM, then the exit code."""
        self.process.send_signal(signal.SIGTERM)
        return self.process.wait(STOP_S)


@contextmanager
def running(
    module: str, *arguments: str, log: Path, environment: Mapping[str, str] | None = None
) -> Iterator[Running]:
    """`python -m module`, killed at the end if it still runs."""
    with (
        log.open("a") as stderr,
        subprocess.Popen(
            [sys.executable, "-m", module, *arguments],
            stdout=subprocess.PIPE,
            stderr=stderr,
            text=True,
            env={**os.environ, "VOLLEY_TOKEN": TOKEN, **(environment or {})},
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, takes no lock
        ) as process,
    ):
        try:
            yield Running(process, log)
        finally:
            process.kill()


@contextmanager
def learner(
    config: Path, redis_url: str, *arguments: str, failpoint: str = ""
) -> Iterator[tuple[Running, LearnerClient, Path]]:
    """A learner that listens: the process, a client for it, and its run folder."""
    folder = config.parent / "run"
    with running(
        "volley.learner", str(config), "--run-folder", str(folder), *arguments,
        log=config.parent / "learner.log",
        environment={"VOLLEY_REDIS_URL": redis_url, "VOLLEY_FAILPOINT": failpoint},
    ) as process:  # fmt: skip
        assert process.process.stdout is not None
        line = process.process.stdout.readline()
        assert line, process.log.read_text()
        yield process, LearnerClient(json.loads(line)["url"], TOKEN), folder


def refusal(config: Path, redis_url: str, folder: Path, *arguments: str) -> tuple[int, str]:
    """Exit code and last words of a learner that does not start."""
    log = config.parent / "refused.log"
    log.unlink(missing_ok=True)
    with running(
        "volley.learner", str(config), "--run-folder", str(folder), *arguments,
        log=log, environment={"VOLLEY_REDIS_URL": redis_url},
    ) as process:  # fmt: skip
        return process.process.wait(START_S), log.read_text()


def learner_url(folder: Path) -> str:
    """Where the learner of a run folder listens."""
    url: str = json.loads((folder / "server.json").read_text())["url"]
    return url


@contextmanager
def worker(folder: Path, name: str, *options: str, failpoint: str = "") -> Iterator[Running]:
    """A worker that joins with the URL and the token alone."""
    with running(
        "volley.rollout", "--learner", learner_url(folder), "--device", "cpu", *options,
        log=folder.parent / f"{name}.log", environment={"VOLLEY_FAILPOINT": failpoint},
    ) as process:  # fmt: skip
        yield process


def metrics(folder: Path) -> list[dict[str, float]]:
    """The lines of metrics.jsonl."""
    return [json.loads(line) for line in (folder / "metrics.jsonl").read_text().splitlines()]


def retried(status: StatusReport, reason: str) -> int:
    """Tasks issued again for `reason`."""
    return status.deliveries.retried.get(reason, 0)
