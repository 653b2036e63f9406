"""Your own data, reward and model, word for word as README has it, with a tiny model."""

import json
import re
from pathlib import Path

import pytest

from tests.chats import save_chat_model
from tests.command_line import volley
from volley.telemetry.stops import ExitCode

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

README = Path(__file__).parents[2] / "README.md"
MOST_LINES = 15
STEPS = 2
# What differs from README is the model, for which there may be no network here, and the time.
TINY = (
    "--set model.path=model --set model.dtype=float32 --set devices.engine=transformers "
    f"--set run.steps={STEPS} --set optim.groups_per_step=2 --set sampling.num_generations=4"
)


def section() -> str:
    _, _, after = README.read_text().partition("\n## Your own data, reward and model\n")
    return after.partition("\n## ")[0]


def files() -> dict[str, str]:
    """What is to be written, by the name in the line before it."""
    return dict(re.findall(r"^`([\w.]+)`:[^\n]*\n\n```\w+\n(.*?)^```", section(), re.M | re.S))


def test_no_more_than_fifteen_lines_are_to_be_written():
    assert sorted(files()) == ["config.toml", "rewards.py", "train.jsonl"]
    lines = [line for content in files().values() for line in content.splitlines() if line.strip()]
    assert len(lines) <= MOST_LINES


def test_what_is_to_be_typed_trains_and_leaves_what_is_promised(tmp_path):
    save_chat_model(tmp_path / "model")
    for name, content in files().items():
        (tmp_path / name).write_text(content)
    check, run = re.findall(r"^volley ((?:check|run) [\w.]+)", section(), re.M)
    ended = volley(f"{check} {TINY}", tmp_path, {"VOLLEY_TOKEN": ""})
    assert ended.exit_code == ExitCode.DONE, ended.output
    assert "What is 17 + 25?" in ended.output
    ended = volley(f"{run} {TINY}", tmp_path, {"VOLLEY_TOKEN": ""})
    assert ended.exit_code == ExitCode.DONE, ended.output
    assert f"Finished after {STEPS} of {STEPS} steps." in ended.output
    [folder] = (tmp_path / "runs").glob("sums-*")
    assert len((folder / "metrics.jsonl").read_text().splitlines()) == STEPS
    assert json.loads((folder / "summary.json").read_text())["steps"] == STEPS
    promised = ("logs/learner.log", "model/config.json", "model/model.safetensors", "reward.png")
    assert [name for name in promised if not (folder / name).exists()] == []
    assert list((folder / "trajectories").iterdir()) != []
