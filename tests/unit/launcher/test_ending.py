"""The last screen of a run."""

import io
import json

import pytest
from rich.console import Console

from volley.launcher.ending import read_summary, show_ending


@pytest.fixture
def console() -> Console:
    return Console(file=io.StringIO(), width=110)


def shown(console: Console) -> str:
    assert isinstance(console.file, io.StringIO)
    return console.file.getvalue()


def test_a_finished_run_shows_its_figures_its_paths_and_what_to_type(
    console, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    folder = tmp_path / "runs" / "sums-1"
    (folder / "model").mkdir(parents=True)
    lines = [{"step": step, "reward_mean": step / 20} for step in range(1, 21)]
    (folder / "metrics.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "summary.json").write_text(json.dumps({"steps": 20, "samples_per_s": 812.4}))
    show_ending(console, folder, 20, tmp_path / "sums.toml")
    text = shown(console)
    assert "Finished after 20 of 20 steps." in text
    # Steps 1 to 10, and 11 to 20.
    assert "0.275 -> 0.775 (means of the first and the last 10 steps)" in text
    assert "812" in text
    assert "runs/sums-1/reward.png" in text
    assert "volley evaluate sums.toml HELD_OUT.jsonl --model runs/sums-1/model" in text
    assert (folder / "reward.png").exists()


def test_a_run_that_was_stopped_before_its_first_step_says_so_and_how_it_goes_on(
    console, tmp_path, monkeypatch
):
    monkeypatch.chdir(tmp_path)
    show_ending(console, tmp_path / "runs" / "sums-1", 20, tmp_path / "sums.toml")
    assert shown(console).splitlines()[0] == "Stopped after 0 of 20 steps."
    assert "run sums.toml --run-folder runs/sums-1 goes on from there" in shown(console)
    assert read_summary(tmp_path) == {}
