"""How far the policy that sampled is from the one that a step begins with, token by token.

Both are measured before any correction. Tokens of lag 0 come from the very weights that are
trained, so what is left between the two is engine against learner: kernels, precision, batching. Of
older tokens staleness is the greater part, so the two are told apart.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, fields

import torch
from torch import Tensor

from volley.learner.batching import MicroBatch
from volley.learner.corrections import Correction
from volley.learner.kl import kl_to_sampler

QUANTILES = (("min", 0.0), ("p50", 0.5), ("p95", 0.95), ("p99", 0.99), ("max", 1.0))
NAMES = (
    *(f"sampler_ratio_{name}" for name, _ in QUANTILES),
    *("effective_sample_share", "truncated_token_share", "masked_token_share"),
    *("corrected_share", "masked_sequence_share"),
    *("mismatch_kl", "mismatch_max", "staleness_kl"),
)
"""Of all metrics that do not depend on which lags there are."""


@dataclass(frozen=True, slots=True, eq=False)
class Mismatch:
    """What is known of the N trained tokens of some sequences, row after row."""

    lags_N: Tensor
    """Versions behind the head."""
    log_ratios_N: Tensor
    """Proximal less sampler, nats."""
    importance_N: Tensor
    """The weight that each token has in the gradient for being off-policy; 0 where masked."""
    is_truncated_N: Tensor
    is_kept_N: Tensor
    is_masked_B: Tensor
    """Sequences of which no token is left."""


def measure_mismatch(
    batch: MicroBatch, proximal_logprobs_BT: Tensor, correction: Correction, *, has_weights: bool
) -> Mismatch:
    """Of a micro-batch, on its device.

    `has_weights` is False where the ratio itself carries the importance of a token.
    """
    mask_BT, kept_BT = batch.mask_BT, correction.kept_BT
    log_ratios_N = (proximal_logprobs_BT.detach() - batch.sampler_logprobs_BT)[mask_BT]
    weights_N = correction.weights_BT[mask_BT] if has_weights else log_ratios_N.exp()
    lags = [lag for sequence in batch.sequences for lag in sequence.trained_lags]
    return Mismatch(
        lags_N=torch.tensor(lags),
        log_ratios_N=log_ratios_N,
        importance_N=torch.where(kept_BT[mask_BT], weights_N, 0.0),
        is_truncated_N=correction.truncated_BT[mask_BT],
        is_kept_N=kept_BT[mask_BT],
        is_masked_B=mask_BT.any(-1) & ~kept_BT.any(-1),
    )


def describe_mismatch(mismatches: Sequence[Mismatch]) -> dict[str, float | None]:
    """Metrics of the step that the micro-batches make up; None where nothing was trained."""
    if not mismatches:
        return dict.fromkeys(NAMES)
    step = _joined(mismatches)
    values = {
        **_ratios(step.log_ratios_N),
        **_corrections(step),
        **_divergences(step.log_ratios_N, step.lags_N),
    }
    return {name: value if math.isfinite(value) else None for name, value in values.items()}


def _joined(mismatches: Sequence[Mismatch]) -> Mismatch:
    """All of them, on the host, log-ratios and weights in float64."""
    columns = {
        field.name: torch.cat([getattr(one, field.name) for one in mismatches]).cpu()
        for field in fields(Mismatch)
    }
    precise = {name: columns[name].double() for name in ("log_ratios_N", "importance_N")}
    return Mismatch(**columns | precise)


def _ratios(log_ratios_N: Tensor) -> dict[str, float]:
    ratios_N = log_ratios_N.exp().sort().values
    last = len(ratios_N) - 1
    return {f"sampler_ratio_{name}": float(ratios_N[round(q * last)]) for name, q in QUANTILES}


def _corrections(step: Mismatch) -> dict[str, float]:
    return {
        "effective_sample_share": effective_share(step.importance_N),
        "truncated_token_share": _mean(step.is_truncated_N),
        "masked_token_share": _mean(~step.is_kept_N),
        "corrected_share": _mean(step.is_truncated_N | ~step.is_kept_N),
        "masked_sequence_share": _mean(step.is_masked_B),
    }


def _divergences(log_ratios_N: Tensor, lags_N: Tensor) -> dict[str, float]:
    kls_N = kl_to_sampler(log_ratios_N, torch.zeros_like(log_ratios_N))
    distances_N = log_ratios_N.abs()[lags_N == 0]
    by_lag: dict[str, float] = {}
    for lag in lags_N.unique().tolist():
        by_lag[f"lag_share/{lag}"] = _mean(lags_N == lag)
        by_lag[f"lag_kl/{lag}"] = _mean(kls_N[lags_N == lag])
    return {
        "mismatch_kl": _mean(kls_N[lags_N == 0]),
        "mismatch_max": float(distances_N.max()) if len(distances_N) else math.nan,
        "staleness_kl": _mean(kls_N[lags_N > 0]),
        **by_lag,
    }


def effective_share(weights_N: Tensor) -> float:
    """(sum w)^2 / (N sum w^2): the share of equal samples that would estimate as well."""
    return float(weights_N.sum().square() / (len(weights_N) * weights_N.square().sum()))


def _mean(values: Tensor) -> float:
    """Not a number where there are no values."""
    return float(values.double().mean())
