"""`volley demo sort`, as far as a few steps can show it."""

import json
import subprocess
import sys
import tomllib

import pytest

from tests.processes import metrics

pytestmark = [pytest.mark.redis, pytest.mark.e2e]


def test_the_sort_demo_leaves_what_it_promises(tmp_path):
    done = subprocess.run(
        [
            sys.executable,
            "-m",
            "volley.launcher",
            "demo",
            "sort",
            "--steps",
            "3",
            "--engine",
            "transformers",
        ],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    (folder,) = (tmp_path / "runs").iterdir()
    assert folder.name.startswith("sort-")
    summary = json.loads((folder / "summary.json").read_text())
    assert summary["steps"] == summary["final_step"] == len(metrics(folder)) == 3
    assert summary["samples"] == 3 * 32 * 8
    assert 0 < summary["held_out_before"] <= 0.2
    assert summary["held_out_before"] < summary["greedy_before"]
    assert 0 <= summary["held_out_after"] <= 1
    assert 0 <= summary["greedy_after"] <= 1
    assert summary["samples_per_s"] > 0
    assert summary["engine"] == "transformers"
    for part in ("model/model.safetensors", "reward.png", "task/untrained", "task/start"):
        assert (folder / part).exists()
    config = tomllib.loads((folder / "task" / "config.toml").read_text())
    assert config["run"]["steps"] == 3
    screen = done.stdout
    assert f"{summary['held_out_before']:.3f}" in screen
    assert f"{summary['greedy_after']:.3f}" in screen
    assert screen.count("sort ") >= 5
    assert f"volley run runs/{folder.name}/task/config.toml" in screen
