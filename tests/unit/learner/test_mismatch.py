"""Axes: B sequences, T columns, N trained tokens."""

import math
from collections.abc import Sequence

import pytest
import torch
from torch import Tensor

from volley.learner.batching import MicroBatch, TrainSequence, micro_batches
from volley.learner.corrections import Band, Correction, CorrectionRules, correct
from volley.learner.mismatch import (
    NAMES,
    Mismatch,
    describe_mismatch,
    effective_share,
    measure_mismatch,
)


def sequence(
    ratios: Sequence[float], lags: Sequence[int], trained: Sequence[bool] | None = None
) -> TrainSequence:
    """Of which the learner thinks that every token has the probability exp(-2)."""
    return TrainSequence(
        prompt_ids=(4,),
        completion_ids=(5,) * len(ratios),
        trained=(True,) * len(ratios) if trained is None else tuple(trained),
        sampler_logprobs=tuple(-2 - math.log(ratio) for ratio in ratios),
        advantage=1.0,
        lags=tuple(lags),
    )


def measured(batch: MicroBatch, rules: CorrectionRules) -> Mismatch:
    proximal_BT = torch.full(batch.mask_BT.shape, -2.0)
    correction = correct(proximal_BT, batch.sampler_logprobs_BT, batch.mask_BT, rules)
    return measure_mismatch(batch, proximal_BT, correction, has_weights=rules.weight != "off")


def described(
    sequences: Sequence[TrainSequence],
    rules: CorrectionRules | None = None,
    token_budget: int = 1000,
) -> dict[str, float | None]:
    batches = micro_batches(sequences, token_budget)
    return describe_mismatch([measured(batch, rules or CorrectionRules()) for batch in batches])


def kl(*ratios: float) -> float:
    """The mean estimate of these ratios of proximal to sampler."""
    return sum(ratio - 1 - math.log(ratio) for ratio in ratios) / len(ratios)


def close(expected: float):
    return pytest.approx(expected, rel=1e-5)


def test_engine_and_learner_are_told_apart_from_staleness():
    found = described([sequence([1.25, 1.0, 2.0], [0, 0, 1]), sequence([0.5, 4.0], [1, 3])])
    assert found["mismatch_kl"] == close(kl(1.25, 1.0))
    assert found["mismatch_max"] == close(math.log(1.25))
    assert found["staleness_kl"] == close(kl(2.0, 0.5, 4.0))
    assert found["lag_kl/1"] == close(kl(2.0, 0.5))
    assert {found[f"lag_share/{lag}"] for lag in (0, 1)} == {0.4}
    assert found["lag_share/3"] == 0.2
    assert "lag_share/2" not in found


def test_tokens_that_are_not_trained_are_not_measured():
    found = described([sequence([1.0, 1e6, 2.0], [0, 7, 1], [True, False, True])])
    assert found["sampler_ratio_max"] == close(2.0)
    assert found["lag_share/1"] == 0.5
    assert "lag_share/7" not in found


def test_quantiles_are_of_the_ratios_before_any_correction():
    ratios = [(1 + token) / 100 for token in range(101)]
    rules = CorrectionRules("token_truncate", 1.0, "token", Band(0.1, 0.9))
    found = described([sequence(ratios, [0] * 101)], rules)
    quantiles = {name: found[f"sampler_ratio_{name}"] for name in ("min", "p50", "p95", "p99")}
    assert quantiles == {
        "min": close(0.01),
        "p50": close(0.51),
        "p95": close(0.96),
        "p99": close(1.0),
    }
    assert found["sampler_ratio_max"] == close(1.01)


def test_shares_of_tokens_and_sequences_that_are_truncated_or_masked():
    sequences = [sequence([0.2, 0.3], [1, 1]), sequence([1.0, 2.5, 3.0], [1, 1, 1])]
    found = described(sequences, CorrectionRules("token_truncate", 2.0, "token", Band(0.4, 2.75)))
    assert found["truncated_token_share"] == close(2 / 5)
    assert found["masked_token_share"] == close(3 / 5)
    # 3.0 is both.
    assert found["corrected_share"] == close(4 / 5)
    assert found["masked_sequence_share"] == 0.5


def test_the_effective_sample_share_is_that_of_the_weights_in_the_gradient():
    # Weights 1, 2 (its cap) and 0 (masked): (1 + 2)^2 / (3 x (1 + 4)).
    rules = CorrectionRules("token_truncate", 2.0, "token", Band(0.4, 4.0))
    found = described([sequence([1.0, 3.0, 0.2], [1, 1, 1])], rules)
    assert found["effective_sample_share"] == close(9 / 15)


def test_without_weights_the_ratio_itself_is_the_importance():
    found = described([sequence([1.0, 3.0], [1, 1])])
    assert found["effective_sample_share"] == close(16 / 20)


def test_equal_weights_are_worth_all_samples_and_a_single_one_is_worth_itself():
    assert effective_share(torch.full((8,), 0.3)) == close(1.0)
    assert effective_share(torch.tensor([0.0, 0.0, 5.0, 0.0])) == close(1 / 4)


def test_the_split_into_micro_batches_does_not_matter():
    sequences = [
        sequence([1.0 + 0.1 * token for token in range(length)], [length] * length)
        for length in (3, 5, 2, 6)
    ]
    rules = CorrectionRules("token_truncate", 1.3, "sequence_any", Band(0.5, 1.45))
    whole, parts = described(sequences, rules), described(sequences, rules, token_budget=1)
    assert whole == {name: pytest.approx(value) for name, value in parts.items()}
    assert whole["masked_sequence_share"] == 0.25


def test_what_does_not_exist_is_none():
    assert described([]) == dict.fromkeys(NAMES)
    found = described([sequence([1.0], [2])])
    assert (found["mismatch_kl"], found["mismatch_max"]) == (None, None)
    assert set(NAMES) < set(found)


def test_a_step_of_which_all_is_masked_has_no_effective_samples():
    batch_rules = CorrectionRules(mask="token", band=Band(0.9, 1.1))
    found = described([sequence([3.0, 4.0], [0, 0])], batch_rules)
    assert found["effective_sample_share"] is None
    assert found["masked_sequence_share"] == 1.0


def test_no_gradient_is_kept():
    proximal_BT = torch.full((1, 2), -2.0, requires_grad=True)
    [batch] = micro_batches([sequence([1.0, 1.0], [0, 0])], 10)
    weights: Tensor = torch.ones(1, 2)
    correction = Correction(weights, batch.mask_BT, torch.zeros_like(batch.mask_BT))
    found = measure_mismatch(batch, proximal_BT[:, -2:], correction, has_weights=False)
    assert not found.log_ratios_N.requires_grad
