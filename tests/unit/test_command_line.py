"""The `volley` command: quick to answer, and every verb explained."""

import resource
import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from volley.launcher.__main__ import app

VERBS = sorted(typer.main.get_command(app).list_commands(None))  # type: ignore[attr-defined]
HELP_CPU_S = 0.5


def answer(*arguments: str) -> str:
    """What a wide terminal shows."""
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "120", "TERM": "dumb"})
    return result.output


def test_all_verbs_are_there():
    steering = "checkpoint drain page pause resume stop"
    others = "audit check dead demo doctor evaluate export learner replay rollout run sft"
    showing = "status trajectories"
    assert sorted(f"{steering} {others} {showing}".split()) == VERBS


@pytest.mark.parametrize("verb", VERBS)
def test_the_help_of_every_verb_has_an_example(verb: str):
    text = answer(verb, "--help")
    _, heading, examples = text.partition("Example")
    assert heading, text
    assert f"volley {verb}" in examples


def test_help_takes_less_than_half_a_second_of_cpu():
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    program = [sys.executable, "-m", "volley.launcher", "--help"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert "demo" in shown.stdout
    spent_s = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    assert spent_s < HELP_CPU_S


def test_a_misspelt_verb_is_answered_with_the_nearest():
    assert "Did you mean 'status'?" in answer("stauts")


def test_a_misspelt_setting_stops_a_run_before_anything_starts(tmp_path):
    config = tmp_path / "config.toml"
    config.write_text('[model]\npath = "m"\n[data]\ntrian = "t.jsonl"\n')
    program = [sys.executable, "-m", "volley.launcher", "run", str(config)]
    done = subprocess.run(program, capture_output=True, text=True, cwd=tmp_path)
    assert done.returncode == 2
    assert "data.trian: no such key, did you mean train?" in done.stderr
    assert [path.name for path in tmp_path.iterdir()] == ["config.toml"]
