"""Other losses than the default one, through the processes of a whole run."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

from tests.processes import CONFIG, metrics, write_run

pytestmark = [pytest.mark.redis, pytest.mark.e2e]

CORRECTED = """
[loss]
loss_type = "gspo"
epsilon = 0.05
ratio_anchor = "proximal"
importance_sampling_mode = "sequence_truncate"
off_policy_mask = "sequence_mean"
entropy_coef = 0.01
"""

OWN = """
[loss]
loss_type = "losses:reinforce"
"""
OWN_LOSS = """
from volley.learner.surrogates import ClipRules, Surrogate, Tokens

def reinforce(tokens: Tokens, rules: ClipRules) -> Surrogate:
    return Surrogate(-tokens.advantages_B1 * tokens.policy_logprobs_BT, tokens.mask_BT & False)
"""
# Every other prompt teaches nothing.
HALF_OF_THE_REWARDS = """
def variety(prompts, completions, answer, **columns):
    return [
        float(len(set(text))) if letters[0] in "ac" else 0.0
        for text, letters in zip(completions, answer)
    ]
"""


def volley(*arguments: object, folder: Path) -> str:
    done = subprocess.run(
        [sys.executable, "-m", "volley.launcher", *map(str, arguments)],
        cwd=folder,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_a_sequence_loss_with_corrections_and_entropy_trains_and_can_be_taken_again(tmp_path):
    volley("run", write_run(tmp_path, CONFIG + CORRECTED), folder=tmp_path)
    [run] = (tmp_path / "runs").iterdir()
    lines = metrics(run)
    assert len({line["root"] for line in lines}) == 3
    for line in lines:
        # Engine and learner compute the same, so only staleness is left to be corrected.
        assert line["mismatch_kl"] is None or line["mismatch_kl"] < 1e-6
        assert 0.5 < line["effective_sample_share"] <= 1
        assert 0.5 < line["sampler_ratio_p50"] < 2
        assert line["grad_norm"] > 0
        assert line["tenth_10/trained_share"] + line["tenth_10/stale_share"] == pytest.approx(1)
    volley("audit", run, folder=tmp_path)


def test_a_loss_of_ones_own_stays_with_the_run_and_idle_groups_are_made_up_for(tmp_path):
    config = CONFIG.replace("groups_per_step = 4", "groups_per_step = 4\nmax_refill_groups = 3")
    path = write_run(tmp_path, config + OWN, HALF_OF_THE_REWARDS)
    (tmp_path / "losses.py").write_text(OWN_LOSS)
    volley("run", path, folder=tmp_path)
    [run] = (tmp_path / "runs").iterdir()
    summary = json.loads((run / "summary.json").read_text())
    assert summary["samples"] > 3 * 4 * 4
    assert summary["ledger"]["filtered"] > 0
    assert summary["ledger"]["trained"] + summary["ledger"]["filtered"] <= 3 * (4 + 3)
    (tmp_path / "losses.py").unlink()
    volley("audit", run, folder=tmp_path)
