"""The `volley` command: quick to answer, and every verb explained."""

import subprocess
import sys

import pytest
import typer
from typer.testing import CliRunner

from volley.launcher.__main__ import app

VERBS = sorted(typer.main.get_command(app).list_commands(None))  # type: ignore[attr-defined]
SLOW_TO_LOAD = {"fastapi", "matplotlib", "numpy", "redis", "requests", "torch", "transformers"}


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


@pytest.mark.parametrize(
    ("service", "word"), [("launcher", "demo"), ("learner", "Usage"), ("rollout", "--learner")]
)
def test_help_loads_nothing_that_is_slow_to_load(service: str, word: str):
    program = [sys.executable, "-X", "importtime", "-m", f"volley.{service}", "--help"]
    shown = subprocess.run(program, capture_output=True, text=True, check=True)
    assert word in shown.stdout
    modules = [line.rpartition("|")[2].strip() for line in shown.stderr.splitlines()]
    loaded = {module.partition(".")[0] for module in modules}
    assert {"typer", "volley"} <= loaded
    assert not loaded & SLOW_TO_LOAD


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
