from dataclasses import replace
from itertools import product

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


def test_a_row_is_a_sequence_without_its_last_token_padded_on_the_right():
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
    # 10 and 52 predict the trained tokens of the first row, 12 that of the second one.
    assert batch.sources_BT[batch.mask_BT].tolist() == [0, 3, 6]
    assert batch.sampler_logprobs_BT.tolist() == [[-1, -2, -3, -4], [-0.5, 0, 0, 0]]
    assert batch.advantages_B.tolist() == [1.0, -2.0]


def test_a_shared_prompt_stands_once_before_its_completions():
    sequences = [
        replace(sequence(2, 1), advantage=1.0),
        replace(sequence(3, 2, first_id=20), advantage=2.0),
        replace(sequence(2, 3), advantage=3.0),
    ]
    [batch] = micro_batches(sequences, token_budget=100, share_from=0)
    assert batch.input_ids_RL.tolist() == [[10, 11, 50, 51, 52, 50, 20, 21, 22, 50, 51]]
    first, second = batch.shared_prompts
    assert first.positions.tolist() == [0, 1, 2, 3, 4, 2]
    assert second.positions.tolist() == [0, 1, 2, 3, 4]
    assert batch.targets_BT.tolist() == [[50, 51, 52], [50, 0, 0], [50, 51, 0]]
    # Each completion's first token is predicted by the prompt's last one.
    assert batch.sources_BT[batch.mask_BT].tolist() == [1, 2, 3, 1, 8, 9]
    assert batch.advantages_B.tolist() == [3.0, 1.0, 2.0]


def test_a_prompt_is_shared_from_as_many_saved_tokens_as_asked_for():
    pair = [sequence(5, 1), sequence(5, 2)]
    for share_from, num_shared in ((5, 1), (6, 0), (None, 0)):
        [batch] = micro_batches(pair, token_budget=100, share_from=share_from)
        assert len(batch.shared_prompts) == num_shared


def test_a_shared_prompt_counts_for_every_sequence():
    groups = [sequence(3, 1 + i % 2, first_id=10 * (i // 4)) for i in range(12)]
    batches = micro_batches(groups, token_budget=40, share_from=0)
    # Four sequences of at most five tokens are twenty: two groups fit, the third travels alone.
    assert [len(batch.advantages_B) for batch in batches] == [8, 4]
    assert [len(batch.shared_prompts) for batch in batches] == [2, 1]


def test_a_shared_prompt_is_repeated_where_its_group_exceeds_the_budget():
    batches = micro_batches([sequence(3, 2) for _ in range(5)], token_budget=10, share_from=0)
    assert [len(batch.advantages_B) for batch in batches] == [2, 2, 1]
    assert all(batch.input_ids_RL[0, :3].tolist() == [10, 11, 12] for batch in batches)


def test_the_masked_targets_are_the_trained_tokens_whatever_the_split():
    sequences = [sequence(2 + i % 3, 1 + i % 5) for i in range(20)]
    for token_budget, share_from in product((1, 16, 50, 1000), (None, 0)):
        batches = micro_batches(sequences, token_budget, share_from)
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
