from dataclasses import replace

import torch

from volley.learner.batching import TrainSequence, micro_batches


def sequence(num_prompt: int, num_completion: int, *, first_id: int = 10) -> TrainSequence:
    return TrainSequence(
        prompt_ids=tuple(range(first_id, first_id + num_prompt)),
        completion_ids=tuple(range(50, 50 + num_completion)),
        trained=(True,) * num_completion,
        sampler_logprobs=(-0.5,) * num_completion,
        advantage=1.0,
    )


def test_columns_are_padded_on_the_right_and_targets_cover_every_completion():
    [batch] = micro_batches(
        [
            replace(sequence(3, 1), advantage=-2.0),
            replace(
                sequence(1, 4),
                trained=(True, False, False, True),
                sampler_logprobs=(-1, -2, -3, -4),
            ),
        ],
        token_budget=100,
    )
    assert batch.input_ids_RL.tolist() == [[10, 50, 51, 52], [10, 11, 12, 0]]
    assert batch.targets_BT.tolist() == [[50, 51, 52, 53], [50, 0, 0, 0]]
    assert batch.mask_BT.tolist() == [[True, False, False, True], [True, False, False, False]]
    assert batch.sampler_logprobs_BT.tolist() == [[-1, -2, -3, -4], [-0.5, 0, 0, 0]]
    assert batch.advantages_B.tolist() == [1.0, -2.0]


def test_the_masked_targets_are_the_trained_tokens_whatever_the_split():
    sequences = [sequence(2 + i % 3, 1 + i % 5) for i in range(20)]
    for token_budget in (1, 16, 50, 1000):
        batches = micro_batches(sequences, token_budget)
        found = torch.cat([batch.targets_BT[batch.mask_BT] for batch in batches])
        assert sorted(found.tolist()) == sorted(t for one in sequences for t in one.completion_ids)


def test_the_budget_counts_padding():
    lengths = [5, 2, 2, 2, 4, 3]
    batches = micro_batches([sequence(1, length - 1) for length in lengths], token_budget=10)
    assert [tuple(batch.input_ids_RL.shape) for batch in batches] == [(2, 4), (3, 2), (1, 1)]


def test_a_sequence_above_the_budget_travels_alone():
    batches = micro_batches([sequence(2, 9), sequence(1, 1), sequence(1, 1)], token_budget=4)
    assert [tuple(batch.input_ids_RL.shape) for batch in batches] == [(1, 10), (2, 1)]


def test_sequences_of_one_length_keep_their_order():
    [batch] = micro_batches([sequence(1, 1, first_id=id) for id in (30, 20, 40)], token_budget=99)
    assert batch.input_ids_RL[:, 0].tolist() == [30, 20, 40]


def test_no_sequences_make_no_batches():
    assert micro_batches([], token_budget=10) == []
