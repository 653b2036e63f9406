"""`volley doctor` as a user runs it."""

import io
import json
import os
import socket
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.processes import write_run
from volley.launcher.findings import Finding, Level, bad, gib, ok, show, warn, worst


def doctor(*arguments: str, cwd: Path) -> subprocess.CompletedProcess[str]:
    environment = {name: value for name, value in os.environ.items() if "VOLLEY" not in name}
    program = [sys.executable, "-m", "volley.launcher", "doctor", *arguments]
    return subprocess.run(program, capture_output=True, text=True, cwd=cwd, env=environment)


def report(done: subprocess.CompletedProcess[str]) -> dict[str, Finding]:
    assert done.stdout, done.stderr
    findings = json.loads(done.stdout.splitlines()[-1])["findings"]
    return {found["subject"]: Finding(**found) for found in findings}


@pytest.mark.redis
def test_a_machine_that_is_fit_for_a_run_is_told_so(redis_binary, tmp_path):
    config = write_run(tmp_path)
    done = doctor(str(config), "--json", cwd=tmp_path)
    findings = report(done)
    assert done.returncode == 0, findings
    expected = {"python", "cores", "memory", "torch", "transformers", "vllm", "devices"}
    expected |= {"redis-server", "threads", "port", "model", "memory of cpu", "disk"}
    assert findings.keys() >= expected
    assert "parameters, float32" in findings["model"].found
    assert not (tmp_path / "runs").exists()


@pytest.mark.redis
def test_every_bad_thing_is_found_at_once_with_its_fix(redis_binary, tmp_path):
    config = write_run(tmp_path)
    with socket.create_server(("127.0.0.1", 0)) as listening:
        port = listening.getsockname()[1]
        done = doctor(
            str(config), "--set", f"server.port={port}", "--set", "devices.learner=cuda:7",
            "--set", "queue.redis_url=redis://127.0.0.1:1/0", "--set", "model.path=./nothing",
            cwd=tmp_path,
        )  # fmt: skip
    assert done.returncode == 3
    broken = [line for line in done.stdout.splitlines() if line.startswith("bad ")]
    subjects = [line.removeprefix("bad ").split(":")[0].strip() for line in broken]
    assert subjects == ["redis", "cuda", "port", "model"]
    assert all(" -> " in line for line in broken)


def test_a_config_that_cannot_be_read_is_a_mistake_of_its_own(tmp_path):
    done = doctor("nowhere.toml", cwd=tmp_path)
    assert done.returncode == 2
    assert "give the path of a TOML file" in done.stderr


FINDINGS = [ok("one", "fine"), warn("two", "[so so]", "mend it"), bad("three", "broken", "buy it")]


def test_a_terminal_shows_a_table_with_what_to_do():
    console = Console(file=io.StringIO(), width=80, force_terminal=True, color_system=None)
    show(FINDINGS, console)
    assert isinstance(console.file, io.StringIO)
    lines = [line.rstrip() for line in console.file.getvalue().splitlines()]
    assert lines == [
        "ok    one    fine",
        "warn  two    [so so]",
        "             -> mend it",
        "bad   three  broken",
        "             -> buy it",
    ]


def test_elsewhere_a_finding_is_a_line(capsys):
    show(FINDINGS, Console(file=io.StringIO()))
    assert capsys.readouterr().out.splitlines() == [
        "ok    one: fine",
        "warn  two: [so so] -> mend it",
        "bad   three: broken -> buy it",
    ]


def test_the_worst_finding_counts():
    assert worst(FINDINGS) is Level.BAD
    assert worst(FINDINGS[:2]) is Level.WARN
    assert worst(FINDINGS[:1]) is Level.OK


def test_bytes_are_told_in_units_that_can_be_read():
    assert [gib(0), gib(5 * 2**20), gib(2**29), gib(10**11)] == [
        "0 MiB", "5 MiB", "0.5 GiB", "93.1 GiB",
    ]  # fmt: skip
