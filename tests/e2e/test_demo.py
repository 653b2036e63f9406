"""`volley demo`, as far as a few steps can show it."""

import json
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from tests.processes import metrics

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


def demonstrate(tmp_path: Path, name: str, *options: str) -> tuple[Path, str]:
    """The run folder that a demo leaves, and what it shows."""
    command = [sys.executable, "-m", "volley.launcher", "demo", name, *options]
    done = subprocess.run(
        [*command, "--engine", "transformers"], cwd=tmp_path, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith(f"{name}-")
    for part in ("model/model.safetensors", "reward.png", "task/untrained", "task/start"):
        assert (folder / part).exists()
    assert f"volley run runs/{folder.name}/task/config.toml" in done.stdout
    return folder, done.stdout


def test_the_sort_demo_leaves_what_it_promises(tmp_path):
    folder, screen = demonstrate(tmp_path, "sort", "--steps", "3")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == summary["final_step"] == len(metrics(folder)) == 3
    assert summary["samples"] == 3 * 32 * 8
    assert 0 < summary["held_out_before"] <= 0.2
    assert summary["held_out_before"] < summary["greedy_before"]
    assert 0 <= summary["held_out_after"] <= 1
    assert 0 <= summary["greedy_after"] <= 1
    assert summary["samples_per_s"] > 0
    assert summary["engine"] == "transformers"
    config = tomllib.loads((folder / "task" / "config.toml").read_text())
    assert config["run"]["steps"] == 3
    assert f"{summary['held_out_before']:.3f}" in screen
    assert f"{summary['greedy_after']:.3f}" in screen
    assert screen.count("sort ") >= 2


def test_the_search_demo_leaves_what_it_promises(tmp_path):
    # As few batches of demonstrations as give an answer or two that are right.
    folder, screen = demonstrate(tmp_path, "search", "--steps", "1", "--cold-start-steps", "165")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == len(metrics(folder)) == 1
    assert 0.1 < summary["search_rate_before"] < 0.5
    assert 0 <= summary["search_rate_after"] <= 1
    # Who has not learnt to search much cannot know.
    assert summary["held_out_before"] < summary["search_rate_before"]
    assert summary["greedy_before"] <= 0.05
    [step] = metrics(folder)
    assert 0.1 < step["environment/searched"] < 0.5
    assert step["turns_mean"] == pytest.approx(1 + step["environment/searches"], abs=0.1)
    config = tomllib.loads((folder / "task" / "config.toml").read_text())
    assert config["environment"]["name"] == "search"
    assert f"{summary['search_rate_before']:.3f}" in screen
    assert screen.count("q: ") >= 2
    assert screen.count("reward ") >= 4
