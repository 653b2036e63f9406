"""Rewards that raise, hang, eat memory, crash or fork: a real run ends as if they did not."""

from contextlib import suppress
from pathlib import Path

import psutil
import pytest

from tests.processes import CONFIG, learner, metrics, worker, write_run
from tests.waiting import wait_until

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

END_S = 120.0

CONFIG_WITH_LIMITS = CONFIG.replace(
    "[reward]", '[reward]\ntimeout_s = 0.5\nmax_memory_bytes = 268435456\non_failure = "skip"'
)

# About every second completion of a random model does its worst.
WILD = """
import os, subprocess, threading, zlib

def variety(prompts, completions, **columns):
    return [score(text) for text in completions]

def score(text):
    match zlib.crc32(text.encode()) % 12:
        case 0:
            raise ValueError("planted")
        case 1:
            threading.Event().wait()
        case 2:
            return len(bytearray(2**30))
        case 3:
            os._exit(1)
        case 4:
            os.kill(os.getpid(), 11)
        case 5:
            subprocess.Popen(["sleep", "1000"])
            return float("nan")
    return float(len(set(text)))
"""


def test_a_run_with_wild_rewards_takes_all_its_steps_and_leaves_nothing_behind(
    redis_url, tmp_path, monkeypatch
):
    # Handed down to every process of the run, and known by nobody else on this machine.
    monkeypatch.setenv("TMPDIR", str(tmp_path))
    config = write_run(tmp_path, CONFIG_WITH_LIMITS, WILD)
    with (
        learner(config, redis_url) as (process, _, folder),
        worker(folder, "w") as sampling,
    ):
        assert process.process.wait(END_S) == 0
        assert sampling.process.wait(END_S) == 0
    wait_until(lambda: not processes_of(tmp_path))
    log = (tmp_path / "w.log").read_text()
    for kind in ("raised", "timed_out", "out_of_memory", "died"):
        assert f" kind={kind} " in log
    assert len(metrics(folder)) == 3


def processes_of(folder: Path) -> list[psutil.Process]:
    found = []
    for process in psutil.process_iter():
        with suppress(psutil.NoSuchProcess, psutil.AccessDenied):
            if process.environ().get("TMPDIR") == str(folder):
                found.append(process)
    return found
