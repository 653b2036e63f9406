"""Axes: B sequences, T columns. Proximal over sampler is the ratio of which all is worked out."""

import math

import pytest
import torch
from torch import Tensor

from volley.learner.corrections import Band, Correction, CorrectionRules, correct, uncorrected

T, F = True, False
# Two sequences; the last token of the first one is not trained, and its ratio is absurd.
RATIOS_BT = torch.tensor([[2.0, 1.5, 1e9], [0.5, 4.0, 0.25]], dtype=torch.float64)
MASK_BT = torch.tensor([[T, T, F], [T, T, T]])


def corrected(rules: CorrectionRules, ratios_BT: Tensor = RATIOS_BT) -> Correction:
    sampler_BT = torch.full_like(ratios_BT, -3.0)
    return correct(sampler_BT + ratios_BT.log(), sampler_BT, MASK_BT, rules)


def test_nothing_is_corrected_by_default():
    found = corrected(CorrectionRules())
    plain = uncorrected(MASK_BT)
    assert found.weights_BT.tolist() == plain.weights_BT.tolist() == [[1.0] * 3] * 2
    assert found.kept_BT.tolist() == plain.kept_BT.tolist() == MASK_BT.tolist()
    assert not (found.truncated_BT | plain.truncated_BT).any()


def test_token_weights_are_the_ratios_up_to_their_cap():
    found = corrected(CorrectionRules(weight="token_truncate", clip_max=1.75))
    expected = torch.tensor([[1.75, 1.5, 1.0], [0.5, 1.75, 0.25]], dtype=torch.float64)
    torch.testing.assert_close(found.weights_BT, expected)
    assert found.truncated_BT.tolist() == [[T, F, F], [F, T, F]]
    assert found.kept_BT.tolist() == MASK_BT.tolist()


def test_sequence_weights_are_the_products_of_the_trained_ratios_up_to_their_cap():
    # 2 x 1.5 = 3, capped; 0.5 x 4 x 0.25 = 0.5.
    found = corrected(CorrectionRules(weight="sequence_truncate", clip_max=2.5))
    expected = torch.tensor([[2.5] * 3, [0.5] * 3], dtype=torch.float64)
    torch.testing.assert_close(found.weights_BT, expected)
    assert found.truncated_BT.tolist() == [[T, T, F], [F, F, F]]


@pytest.mark.parametrize(
    ("mask", "band", "kept"),
    [
        ("token", Band(0.5, 1.75), [[F, T, F], [T, F, F]]),
        ("token", Band(0.25, 4.0), [[T, T, F], [T, T, T]]),
        # Geometric means: sqrt(3) = 1.73 and 0.5 ^ (1/3) = 0.79.
        ("sequence_mean", Band(0.75, 1.75), [[T, T, F], [T, T, T]]),
        ("sequence_mean", Band(0.75, 1.7), [[F, F, F], [T, T, T]]),
        ("sequence_mean", Band(0.8, 1.75), [[T, T, F], [F, F, F]]),
        ("sequence_any", Band(0.25, 3.9), [[T, T, F], [F, F, F]]),
        ("sequence_any", Band(0.25, 4.0), [[T, T, F], [T, T, T]]),
    ],
)
def test_each_mask_keeps_what_is_in_the_band(mask, band, kept):
    # The band's bounds belong to it; log and exp may not undo each other to the last bit.
    wider = Band(band.low * (1 - 1e-12), band.high * (1 + 1e-12))
    assert corrected(CorrectionRules(mask=mask, band=wider)).kept_BT.tolist() == kept


def test_weights_and_masks_work_together():
    rules = CorrectionRules("token_truncate", 2.0, "token", Band(0.4, 3.0))
    found = corrected(rules)
    assert found.kept_BT.tolist() == [[T, T, F], [T, F, F]]
    torch.testing.assert_close(found.weights_BT[MASK_BT].tolist(), [2.0, 1.5, 0.5, 2.0, 0.25])


@pytest.mark.parametrize("mask", ["token", "sequence_mean", "sequence_any"])
def test_a_ratio_that_is_not_a_number_is_out_of_every_band(mask):
    ratios_BT = RATIOS_BT.clone()
    ratios_BT[0, 0] = math.nan
    found = corrected(CorrectionRules(mask=mask, band=Band(0.0, 1e6)), ratios_BT)
    assert not found.kept_BT[0, 0]
    assert found.kept_BT[1].all()


def test_corrections_are_constants_of_the_policy():
    proximal_BT = RATIOS_BT.log().requires_grad_()
    rules = CorrectionRules(weight="token_truncate")
    found = correct(proximal_BT, torch.zeros_like(RATIOS_BT), MASK_BT, rules)
    assert not found.weights_BT.requires_grad
