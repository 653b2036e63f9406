"""Failpoints in real processes, which die of them."""

import os
import signal
import subprocess
import sys

import pytest

from volley.telemetry.failpoints import FAILPOINTS, VARIABLE, parse_trigger
from volley.telemetry.stops import ExitCode

STEPS = """
from volley.telemetry.failpoints import reach
for step in range(1, 6):
    print("collected", step, flush=True)
    reach("after-collect")
    print("logged", step, flush=True)
    reach("after-log", step)
"""

STOPPING = f"""
from volley.telemetry.stops import reporting_stops
with reporting_stops():
    {STEPS.replace(chr(10), chr(10) + "    ")}
"""


def _start(failpoint: str | None, program: str = STEPS) -> "subprocess.Popen[str]":
    environment = {name: value for name, value in os.environ.items() if name != VARIABLE}
    return subprocess.Popen(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=environment | ({VARIABLE: failpoint} if failpoint is not None else {}),
    )


def _run(failpoint: str | None, program: str = STEPS) -> tuple[int, list[str], str]:
    """Exit code, lines written, words on standard error."""
    with _start(failpoint, program) as process:
        written, said = process.communicate(timeout=60)
        return process.returncode, written.splitlines(), said


@pytest.mark.parametrize("failpoint", [None, "", "after-log@6", "mid-swap@1", "random@0/7"])
def test_a_process_that_is_not_told_to_die_does_not(failpoint):
    code, lines, _ = _run(failpoint)
    assert (code, len(lines)) == (0, 10)


@pytest.mark.parametrize(
    ("failpoint", "last_line"),
    [
        ("after-collect@1", "collected 1"),
        ("after-collect@3", "collected 3"),
        ("after-log@3", "logged 3"),
        ("after-log#4", "logged 4"),
        ("random@1/7", "collected 1"),
    ],
)
def test_a_process_dies_at_the_point_it_is_told(failpoint, last_line):
    code, lines, _ = _run(failpoint)
    assert (code, lines[-1]) == (-signal.SIGKILL, last_line)


def test_a_point_without_a_number_is_not_one_for_a_number():
    code, lines, _ = _run("after-collect#1")
    assert (code, len(lines)) == (0, 10)


def test_the_same_seed_draws_the_same_death_and_another_seed_another():
    lives = [len(_run(f"random@0.2/{seed}")[1]) for seed in (1, 1, 4)]
    assert lives[0] == lives[1] != lives[2]


def test_a_process_that_is_told_to_stop_can_be_woken():
    with _start("after-log@2:stop") as process:
        _, status = os.waitpid(process.pid, os.WUNTRACED)
        assert (os.WIFSTOPPED(status), os.WSTOPSIG(status)) == (True, signal.SIGSTOP)
        process.send_signal(signal.SIGCONT)
        written, _ = process.communicate(timeout=60)
        assert written.splitlines()[-1] == "logged 5"
        assert process.returncode == 0


@pytest.mark.parametrize(
    ("failpoint", "reason"),
    [
        ("after-lunch@1", "there is no 'after-lunch', only after-collect, "),
        ("random@3", "there is no 'random'"),
        ("after-log@1:pause", "write it as"),
        ("after-log", "write it as"),
        ("after-log@0", "write it as"),
        ("random@2/7", "write it as"),
    ],
)
def test_what_is_not_understood_stops_the_process(failpoint, reason):
    code, lines, said = _run(failpoint, STOPPING)
    assert code == ExitCode.CONFIG
    assert lines == ["collected 1"]
    assert f"{VARIABLE}={failpoint}: {reason}" in said


@pytest.mark.parametrize("name", FAILPOINTS)
def test_every_point_can_be_chosen(name):
    assert parse_trigger(f"{name}@1").is_hit(name, ())
