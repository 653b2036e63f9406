"""Every loss, advantage and correction against a plain version of it, on random ragged batches.

Axes: P prompts, G trajectories per group, B sequences, T columns. Whatever is not trained is not a
number, in front of, between and behind the trained tokens.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.losses import PlainSequence, PlainToken, plain_advantages, plain_loss
from volley.learner.advantages import compute_advantages
from volley.learner.corrections import correct
from volley.learner.loss import Normaliser, TokenLogProbs, compute_loss
from volley.learner.loss_settings import LOSS_TYPES, LossSettings
from volley.learner.step_rules import correction_rules, loss_rules

MAX_LENGTH = 7
ALMOST_EQUAL = 1e-12
DIFFERENCE = 1e-6

log_probs = st.floats(-4.0, -0.01)
# Of tenths: where all but the last bit is equal, what is left of it is rounding.
rewards = st.one_of(st.none(), st.integers(-50, 50).map(lambda tenths: tenths / 10))


@dataclass(frozen=True)
class Batch:
    """Sequences, and in which of T columns their trained tokens stand."""

    sequences: list[PlainSequence]
    columns_B: list[list[int]]

    @property
    def mask_BT(self) -> Tensor:
        columns_T = range(MAX_LENGTH)
        return torch.tensor([[column in row for column in columns_T] for row in self.columns_B])

    def tensor_BT(self, name: str) -> Tensor:
        """The log-probs under one of the four policies, or the entropy."""
        values_BT = torch.full((len(self.sequences), MAX_LENGTH), math.nan, dtype=torch.float64)
        for row, (sequence, columns) in enumerate(zip(self.sequences, self.columns_B, strict=True)):
            for token, column in zip(sequence.tokens, columns, strict=True):
                values_BT[row, column] = getattr(token, name)
        return values_BT

    @property
    def held(self) -> list[list[float]]:
        return [[token.policy for token in sequence.tokens] for sequence in self.sequences]

    @property
    def normaliser(self) -> Normaliser:
        num_tokens = sum(len(sequence.tokens) for sequence in self.sequences)
        # As if there were more of the step in other micro-batches.
        return Normaliser(len(self.sequences) + 2, num_tokens + 5, MAX_LENGTH + 1)


@st.composite
def batches(draw: st.DrawFn) -> Batch:
    sequences, columns_B = [], []
    for _ in range(draw(st.integers(1, 4))):
        columns = sorted(draw(st.sets(st.integers(0, MAX_LENGTH - 1))))
        tokens = [PlainToken(*(draw(log_probs) for _ in range(5))) for _ in columns]
        sequences.append(PlainSequence(tokens, draw(st.floats(-3.0, 3.0))))
        columns_B.append(columns)
    return Batch(sequences, columns_B)


@st.composite
def losses(draw: st.DrawFn, loss_type: str) -> LossSettings:
    """Any combination that is not refused."""
    fields: dict[str, object] = {
        "loss_type": loss_type,
        "epsilon": draw(st.sampled_from([0.01, 0.2, 0.4])),
        "epsilon_high": draw(st.sampled_from([None, 0.02, 0.28, 1.0])),
        "ratio_anchor": draw(st.sampled_from(["sampler", "proximal"])),
        "importance_sampling_clip_max": draw(st.sampled_from([1.0, 2.0, 5.0])),
        "off_policy_mask_low": draw(st.sampled_from([0.0, 0.5, 0.9])),
        "off_policy_mask_high": draw(st.sampled_from([1.1, 2.0, 5.0])),
        "beta": draw(st.sampled_from([0.0, 0.3])),
        "kl_target": draw(st.sampled_from(["sampler", "reference"])),
        "kl_estimator": draw(st.sampled_from(["k1", "k2", "k3"])),
        "entropy_coef": draw(st.sampled_from([0.0, 0.1])),
    }
    modes = ["token_truncate", "sequence_truncate", "off", None]
    masks = ["off", "sequence_mean", "sequence_any", "token"]
    biases = {"k1": [True], "k2": [False], "k3": [True, False]}[str(fields["kl_estimator"])]
    is_proximal = fields["ratio_anchor"] == "proximal"
    return LossSettings.model_validate(
        fields
        | {
            "importance_sampling_mode": draw(st.sampled_from(modes)) if is_proximal else None,
            "off_policy_mask": draw(st.sampled_from(masks[: 3 if loss_type == "gspo" else 4])),
            "use_bias_correction_kl": draw(st.sampled_from(biases)),
            "delta": None if loss_type == "cispo" else draw(st.sampled_from([None, 2.5])),
        }
    )


def loss_of(batch: Batch, policy_BT: Tensor, loss: LossSettings) -> Tensor:
    """What the learner makes of the batch."""
    sampler_BT, proximal_BT, reference_BT = (
        batch.tensor_BT(policy) for policy in ("sampler", "proximal", "reference")
    )
    return compute_loss(
        TokenLogProbs(
            policy_BT,
            sampler_BT,
            proximal_BT if loss.ratio_anchor == "proximal" else None,
            reference_BT if loss.has_reference_in_loss else None,
            batch.tensor_BT("entropy") if loss.entropy_coef > 0 else None,
        ),
        correct(proximal_BT, sampler_BT, batch.mask_BT, correction_rules(loss)),
        torch.tensor([one.advantage for one in batch.sequences], dtype=torch.float64),
        batch.mask_BT,
        loss_rules(loss),
        batch.normaliser,
    ).loss


def moved(batch: Batch, row: int, index: int, difference: float) -> list[PlainSequence]:
    """The sequences with one log-prob of the policy moved."""
    sequence = batch.sequences[row]
    tokens = list(sequence.tokens)
    tokens[index] = replace(tokens[index], policy=tokens[index].policy + difference)
    changed = list(batch.sequences)
    changed[row] = PlainSequence(tokens, sequence.advantage)
    return changed


def plain_gradient_BT(batch: Batch, loss: LossSettings) -> Tensor:
    """By central differences of the plain loss."""
    gradient_BT = torch.zeros(len(batch.sequences), MAX_LENGTH, dtype=torch.float64)
    for row, columns in enumerate(batch.columns_B):
        for index, column in enumerate(columns):
            above, below = (
                plain_loss(
                    moved(batch, row, index, sign * DIFFERENCE),
                    *(batch.held, loss, batch.normaliser),
                )
                for sign in (1, -1)
            )
            gradient_BT[row, column] = (above - below) / (2 * DIFFERENCE)
    return gradient_BT


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=150, deadline=None)
@given(data=st.data())
def test_every_loss_is_that_of_the_equations(loss_type: str, data: st.DataObject):
    batch, loss = data.draw(batches()), data.draw(losses(loss_type))
    found = loss_of(batch, batch.tensor_BT("policy"), loss).item()
    expected = plain_loss(batch.sequences, batch.held, loss, batch.normaliser)
    assert found == pytest.approx(expected, rel=ALMOST_EQUAL, abs=ALMOST_EQUAL)


@pytest.mark.parametrize("loss_type", LOSS_TYPES)
@settings(max_examples=40, deadline=None)
@given(data=st.data())
def test_every_gradient_is_that_of_the_equations(loss_type: str, data: st.DataObject):
    batch, loss = data.draw(batches()), data.draw(losses(loss_type))
    policy_BT = batch.tensor_BT("policy").requires_grad_()
    [gradient_BT] = torch.autograd.grad(loss_of(batch, policy_BT, loss), policy_BT)
    expected_BT = plain_gradient_BT(batch, loss)
    torch.testing.assert_close(gradient_BT, expected_BT, rtol=1e-6, atol=1e-6)


@st.composite
def groups(draw: st.DrawFn) -> list[list[float | None]]:
    """P groups of G rewards."""
    num_generations = draw(st.integers(2, 6))
    group = st.lists(rewards, min_size=num_generations, max_size=num_generations)
    return draw(st.lists(group, min_size=1, max_size=5))


@pytest.mark.parametrize(
    ("estimator", "scale_rewards"),
    [
        ("grpo", "group"),
        ("grpo", "batch"),
        ("grpo", "none"),
        ("rloo", "none"),
        ("reinforce_plus_plus_baseline", "batch"),
    ],
)
@settings(max_examples=150, deadline=None)
@given(rewards_PG=groups())
def test_every_advantage_is_that_of_the_equations(
    estimator, scale_rewards, rewards_PG: Sequence[Sequence[float | None]]
):
    given_PG = [[math.nan if one is None else one for one in group] for group in rewards_PG]
    found = compute_advantages(
        torch.tensor(given_PG, dtype=torch.float64), scale_rewards, estimator
    ).advantages_PG.tolist()
    expected = plain_advantages(rewards_PG, scale_rewards, estimator)
    for found_G, expected_G in zip(found, expected, strict=True):
        assert found_G == pytest.approx(expected_G, rel=ALMOST_EQUAL, abs=ALMOST_EQUAL)
