import json
from itertools import islice
from pathlib import Path

import pytest
import torch

from volley.learner.batching import micro_batches
from volley.learner.demonstrations import read_demonstrations
from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.learner.supervised import FineTuning, FineTuningRules, fine_tune

ROWS = [
    {"prompt": f"sort {word}=", "completion": "".join(sorted(word))}
    for word in ("ba", "cab", "dacb", "fed", "hg")
]


def load(folder: Path, dtype: str = "float32") -> Policy:
    settings = ModelSettings.model_validate({"path": str(folder), "dtype": dtype})
    return Policy.load(settings, "cpu")


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


def test_the_first_loss_is_that_of_the_trained_tokens(qwen3_folder: Path, tmp_path: Path):
    policy = load(qwen3_folder)
    inserted = {"prompt": "a", "completion": [{"text": "b"}, {"inserted": "c"}, {"text": "d"}]}
    demonstrations = read_demonstrations(write_rows(tmp_path, ROWS[1], inserted), policy)
    [batch] = micro_batches(demonstrations, token_budget=100)
    with torch.no_grad():
        logprobs_BT = policy.recompute_log_probs(batch, 1.0).policy_logprobs_BT
    assert batch.mask_BT.sum() == 4 + 3
    expected = -logprobs_BT[batch.mask_BT].mean().item()
    [first] = islice(fine_tune(policy, demonstrations, rules(batch_size=2)), 1)
    assert first == pytest.approx(expected, rel=1e-5)


def test_fine_tuning_lowers_the_loss(qwen3_folder: Path, tmp_path: Path):
    policy = load(qwen3_folder)
    demonstrations = read_demonstrations(write_rows(tmp_path, *ROWS), policy)
    losses = list(fine_tune(policy, demonstrations, rules()))
    assert len(losses) == 30
    assert losses[-1] < losses[0] / 4


def test_every_pass_shows_each_demonstration_once_in_an_order_of_its_own(
    qwen3_folder: Path, tmp_path: Path
):
    policy = load(qwen3_folder)
    demonstrations = read_demonstrations(write_rows(tmp_path, *ROWS), policy)
    tuning = FineTuning(policy, demonstrations, rules(batch_size=1))
    # A step with one demonstration has its number of tokens: 3, 4, 5, 4 and 3.
    tokens = [tuning.step(step).num_tokens for step in range(20)]
    passes = [tokens[first : first + 5] for first in range(0, 20, 5)]
    assert all(sorted(one) == [3, 3, 4, 4, 5] for one in passes)
    assert len({tuple(one) for one in passes}) > 1
