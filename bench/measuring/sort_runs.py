"""The sort demo's GRPO part, as it is and with a learner that trains nothing; and their speeds."""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

from volley.launcher.redis_server import RedisServer
from volley.transport.redis_stream import connect

RUN = ("-m", "volley.launcher", "run")
FORGETFUL_RUN = (str(Path(__file__).with_name("forgetful_run.py")), "run")
IDLE_RUN = (str(Path(__file__).with_name("idle_run.py")), "run")
SEED = "0"


@dataclass(frozen=True, slots=True)
class Rate:
    """Samples a second of a run."""

    from_first_task: float
    """As summary.json has it: while the first step's tasks wait, the worker still starts."""
    from_first_step: float
    """Once everything is under way."""


def write_task(folder: Path, steps: int, engine: str) -> Path:
    """Build the demo's task and the model that GRPO starts from; returns the run's config."""
    options = ("--steps", str(steps), "--engine", engine, "--seed", SEED)
    _finish("-m", "volley.learner.sort_task", str(folder), *options)
    return folder / "config.toml"


def run_to_end(
    command: tuple[str, ...], config: Path, folder: Path, *, synced: bool = True
) -> Rate:
    """Run it into `folder`, all its steps kept; Redis syncs every write to its disk, or none."""
    with RedisServer(folder.with_name(f"{folder.name}-redis")) as redis:
        if not synced:
            with connect(redis.url) as client:
                client.config_set("appendonly", "no")
        keep = ("--set", "checkpoint.keep_all_steps=true")
        place = ("--run-folder", str(folder))
        _finish(*command, str(config), *place, *keep, VOLLEY_REDIS_URL=redis.url)
    return read_rate(folder)


def read_rate(folder: Path) -> Rate:
    """The speed of the run that lies in `folder`."""
    summary = json.loads((folder / "summary.json").read_text(encoding="utf-8"))
    with (folder / "metrics.jsonl").open(encoding="utf-8") as lines:
        first = json.loads(lines.readline())
    all_s = summary["samples"] / summary["samples_per_s"]
    first_s = first["num_samples"] / first["samples_per_s"]
    num_later_samples = summary["samples"] - first["num_samples"]
    return Rate(summary["samples_per_s"], num_later_samples / (all_s - first_s))


def _finish(*arguments: str, **environment: str) -> None:
    """Run a Python command to its end; exits with what it said if it fails."""
    done = subprocess.run(
        [sys.executable, *arguments],
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        env={**os.environ, "OMP_NUM_THREADS": "1", **environment},
        check=False,
    )
    if done.returncode:
        sys.exit(done.stdout)
