"""Rows in which a prompt stands once: where its tokens are, and that nothing else changes.

Axes: B sequences, T tokens of a completion.
"""

from pathlib import Path

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from torch import Tensor

from tests.tiny_models import VOCAB, save_tiny_qwen3
from volley.learner.batching import MicroBatch, TrainSequence, micro_batches
from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.learner.shared_prompts import SharedPrompt

TEMPERATURE = 0.7


@pytest.fixture(scope="module")
def qwen3(qwen3_folder: Path) -> Policy:
    return Policy.load(ModelSettings(path=str(qwen3_folder), dtype="float32"), "cpu")


def family(prompt_length: int, lengths: list[int], seed: int) -> list[TrainSequence]:
    """Completions of these lengths of one prompt; every third token was inserted."""
    generator = torch.Generator().manual_seed(seed)

    def draw(num_tokens: int) -> tuple[int, ...]:
        return tuple(torch.randint(3, len(VOCAB), (num_tokens,), generator=generator).tolist())

    prompt_ids = draw(prompt_length)
    return [
        TrainSequence(
            prompt_ids=prompt_ids,
            completion_ids=draw(length),
            trained=tuple(index % 3 != 2 for index in range(length)),
            sampler_logprobs=(-1.0,) * length,
            advantage=1.0 if index % 2 else -0.5,
            number=seed,
        )
        for index, length in enumerate(lengths)
    ]


def test_places_worked_by_hand():
    # A prompt of 2 and completions of 3 and 1: tokens p0 p1 a0 a1 a2 b0.
    one = SharedPrompt.of_lengths(2, [3, 1])
    assert one.num_tokens == 6
    assert one.positions.tolist() == [0, 1, 2, 3, 4, 2]
    assert one.token_at_GT.tolist() == [[0, 1, 2], [3, 0, 0]]
    assert one.place_of_N.tolist() == [0, 1, 2, 3]
    # a0 and b0 are both predicted by p1, a1 by a0.
    assert one.sources_GT(3)[0].tolist() == [1, 2, 3]
    assert one.sources_GT(3)[1, 0].item() == 1


def by_sequence(policy: Policy, batches: list[MicroBatch]) -> dict[tuple[int, ...], Tensor]:
    """Log-probs and entropies of the trained tokens, by their completion's ids."""
    found = {}
    for batch in batches:
        now = policy.recompute_log_probs(batch, TEMPERATURE)
        for row, one in enumerate(batch.sequences):
            mask_T = batch.mask_BT[row]
            pair = (now.policy_logprobs_BT[row][mask_T], now.entropy_BT[row][mask_T])
            found[one.completion_ids] = torch.stack(pair)
    return found


def gradient(policy: Policy, batches: list[MicroBatch]) -> Tensor:
    """Of what a loss would be, all parameters as one vector."""
    for batch in batches:
        now = policy.recompute_log_probs(batch, TEMPERATURE)
        weighted_BT = batch.advantages_B[:, None] * (now.policy_logprobs_BT - 0.1 * now.entropy_BT)
        weighted_BT.masked_fill(~batch.mask_BT, 0.0).sum().backward()
    grads = [one.grad.flatten() for one in policy.parameters().values() if one.grad is not None]
    for parameter in policy.parameters().values():
        parameter.grad = None
    return torch.cat(grads)


lengths = st.lists(st.integers(1, 12), min_size=1, max_size=5)


@settings(
    deadline=None, max_examples=25, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
@given(
    families=st.lists(st.tuples(st.integers(1, 20), lengths), min_size=1, max_size=4),
    token_budget=st.sampled_from([1, 40, 10_000]),
)
def test_sharing_changes_neither_values_nor_gradient(qwen3, families, token_budget):
    sequences = [
        one for seed, (length, of) in enumerate(families) for one in family(length, of, seed)
    ]
    alone = micro_batches(sequences, token_budget)
    shared = micro_batches(sequences, token_budget, share_from=1)
    has_company = any(len(of) > 1 for _, of in families)
    assert any(batch.shared_prompts for batch in shared) is has_company
    assert sum(len(batch.sequences) for batch in shared) == len(sequences)
    expected = by_sequence(qwen3, alone)
    for ids, found in by_sequence(qwen3, shared).items():
        torch.testing.assert_close(found, expected[ids], rtol=0, atol=2e-5)
    whole, parts = gradient(qwen3, alone), gradient(qwen3, shared)
    assert ((whole - parts).norm() / whole.norm()).item() < 1e-5


def test_a_prompt_goes_through_the_model_once():
    sequences = family(30, [5] * 8, seed=0)
    [shared] = micro_batches(sequences, 10_000, share_from=1)
    [alone] = micro_batches(sequences, 10_000)
    assert shared.input_ids_RL.shape == (1, 30 + 8 * 5)
    assert alone.input_ids_RL.shape == (8, 30 + 5 - 1)


def test_only_prompts_that_save_enough_are_shared():
    sequences = [*family(30, [5] * 3, seed=0), *family(10, [5] * 3, seed=1)]
    batches = micro_batches(sequences, 10_000, share_from=60)
    assert [len(batch.shared_prompts) for batch in batches] == [1, 0]
    assert all(not batch.shared_prompts for batch in micro_batches(sequences, 10_000, 61))


def test_a_budget_counts_a_shared_prompt_for_every_completion():
    sequences = family(10, [10] * 6, seed=0)
    batches = micro_batches(sequences, token_budget=60, share_from=1)
    assert [len(batch.sequences) for batch in batches] == [3, 3]


def test_models_without_the_usual_attention_get_a_row_per_sequence(qwen3_folder, qwen3):
    settings = ModelSettings(path=str(qwen3_folder), dtype="float32", attn_implementation="eager")
    assert qwen3.share_from is not None
    assert Policy.load(settings, "cpu").share_from is None


def test_a_sliding_window_is_not_given_up(tmp_path):
    save_tiny_qwen3(tmp_path, sliding_window=4)
    policy = Policy.load(ModelSettings(path=str(tmp_path), dtype="float32"), "cpu")
    assert policy.share_from is None
