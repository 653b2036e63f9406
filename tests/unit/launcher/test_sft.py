"""`volley sft`, as a person runs it."""

import io
import json
import subprocess
import sys
from pathlib import Path

import pytest
from rich.console import Console

from tests.tiny_models import save_tiny_qwen3
from volley.launcher.sft import Display
from volley.learner.cold_start_folder import ColdStartLine

CONFIG = """
[run]
name = "warm"
[model]
path = "model"
dtype = "float32"
[data]
train = "train.jsonl"
[cold_start]
data = "demonstrations.jsonl"
steps = 11
learning_rate = 1e-2
[devices]
learner = "cpu"
"""


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    save_tiny_qwen3(tmp_path / "model")
    (tmp_path / "config.toml").write_text(CONFIG)
    (tmp_path / "demonstrations.jsonl").write_text('{"prompt": "sort ba=", "completion": "ab"}\n')
    return tmp_path


def test_it_tells_its_steps_and_leaves_a_model(folder: Path):
    program = [sys.executable, "-m", "volley.launcher", "sft", "config.toml"]
    done = subprocess.run(program, capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr
    told = [line.partition(":")[0] for line in done.stdout.splitlines()]
    assert told[:3] == ["step 1 of 11", "step 10 of 11", "step 11 of 11"]
    out = folder / "runs" / "warm-cold-start"
    assert f"The model is in {out.relative_to(folder) / 'model'}" in done.stdout
    assert (out / "model" / "tokenizer.json").exists()
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [*range(1, 12)]
    assert lines[-1]["loss"] < lines[0]["loss"]
    assert lines[0].keys() == {"step", "loss", "learning_rate", "grad_norm", "num_tokens"}


def test_a_terminal_gets_a_bar():
    console = Console(file=io.StringIO(), force_terminal=True, width=100)
    with Display(console) as display:
        display.tell(ColdStartLine(3, 1.5, 1e-3, 0.1, 7), 10)
        display.tell(ColdStartLine(4, 1.25, 1e-3, 0.1, 7), 10)
    assert isinstance(console.file, io.StringIO)
    assert "loss 1.250" in console.file.getvalue()
    assert display.summary() == "Steps 3 to 4: loss 1.500 -> 1.250. "
