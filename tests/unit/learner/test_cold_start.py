import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest
import torch

from tests.tiny_models import VOCAB
from volley.learner.batching import micro_batches
from volley.learner.demonstrations import read_demonstrations
from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.learner.supervised import FineTuningRules, fine_tune
from volley.telemetry.stops import ExitCode

ROWS = [
    {"prompt": f"sort {word}=", "completion": "".join(sorted(word))}
    for word in ("ba", "cab", "dacb", "fed", "hg")
]


@pytest.fixture
def policy(qwen3_folder: Path) -> Policy:
    return Policy.load(ModelSettings(path=str(qwen3_folder), dtype="float32"), "cpu")


def write_rows(folder: Path, *rows: object) -> Path:
    data = folder / "demonstrations.jsonl"
    data.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return data


def rules(**changes: float) -> FineTuningRules:
    fields = {
        "num_steps": 30,
        "learning_rate": 1e-2,
        "batch_size": 4,
        "warmup_steps": 2,
        "seed": 0,
    }
    return FineTuningRules(**(fields | changes))  # type: ignore[arg-type]  # ints stay ints


def test_the_first_loss_is_that_of_the_completion_tokens(policy: Policy, tmp_path: Path):
    demonstrations = read_demonstrations(write_rows(tmp_path, ROWS[1]), policy)
    [batch] = micro_batches(demonstrations, token_budget=100)
    with torch.no_grad():
        logprobs_BT = policy.recompute_log_probs(batch, 1.0).policy_logprobs_BT
    expected = -logprobs_BT[batch.mask_BT].mean().item()
    [first] = islice(fine_tune(policy, demonstrations, rules(batch_size=3)), 1)
    assert first == pytest.approx(expected, rel=1e-5)


def test_fine_tuning_lowers_the_loss_and_repeats_itself(qwen3_folder: Path, tmp_path: Path):
    data = write_rows(tmp_path, *ROWS)
    runs = []
    for _ in range(2):
        settings = ModelSettings(path=str(qwen3_folder), dtype="float32")
        policy = Policy.load(settings, "cpu")
        runs.append(list(fine_tune(policy, read_demonstrations(data, policy), rules())))
    assert runs[0] == runs[1]
    assert len(runs[0]) == 30
    assert runs[0][-1] < runs[0][0] / 4


def run_command(*arguments: object) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "volley.learner.cold_start", *map(str, arguments)],
        capture_output=True,
        text=True,
        env=os.environ | {"OMP_NUM_THREADS": "1"},
    )


def test_the_command_leaves_a_model_folder_and_says_what_it_did(qwen3_folder: Path, tmp_path: Path):
    out = tmp_path / "deep" / "start"
    data = write_rows(tmp_path, *ROWS)
    done = run_command(qwen3_folder, data, out, "--steps", 4, "--learning-rate", 1e-2)
    assert done.returncode == 0, done.stderr
    summary = json.loads(done.stdout.splitlines()[-1])
    assert (summary["model"], summary["steps"], summary["demonstrations"]) == (str(out), 4, 5)
    assert summary["last_loss"] < summary["first_loss"]
    tuned = Policy.load(ModelSettings(path=str(out), dtype="float32"), "cpu")
    assert tuned.tokenise(["ab"]) == [[VOCAB["a"], VOCAB["b"]]]


def test_the_command_says_what_is_wrong_and_exits_with_the_code_for_it(
    qwen3_folder: Path, tmp_path: Path
):
    data = write_rows(tmp_path, {"prompt": "a"})
    done = run_command(qwen3_folder, data, tmp_path / "out")
    assert done.returncode == ExitCode.CONFIG
    assert done.stdout == ""
    assert done.stderr.startswith(f"volley: error: {data}:1: column 'completion' is missing")
