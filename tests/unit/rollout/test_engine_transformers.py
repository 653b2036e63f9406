"""The engine against plain forwards of the same model, and its promises."""

import pytest
import torch

from tests.sampling import (
    FIRST,
    NO_STOP,
    SECOND,
    assert_logprobs_agree,
    assert_stop_strings_end_samples,
    make_request,
    published,
    recomputed_logprobs,
    reloaded,
    run,
)
from tests.tiny_models import CONTEXT_LENGTH, VOCAB
from volley.rollout.engine import InvalidWeights, SampleRequest, Unservable
from volley.rollout.engine_transformers import TransformersEngine
from volley.schemas.groups import StopReason, VersionSpan
from volley.schemas.run_spec import SamplingSpec


def test_log_probs_equal_a_plain_forward_for_prompts_of_uneven_length(engine, model):
    requests = [make_request(index, num_tokens) for index, num_tokens in enumerate((1, 5, 12))]
    engine.load(published(model), FIRST)
    samples = run(engine, *requests)
    for request in requests:
        assert len(samples[request.id]) == NO_STOP.num_generations
        for sample in samples[request.id]:
            assert len(sample.token_ids) == NO_STOP.max_completion_length
            assert sample.stop_reason is StopReason.LENGTH
            assert sample.version_spans == (VersionSpan(8, FIRST),)
            assert_logprobs_agree(model, request, sample)


def test_a_model_with_learned_positions_and_dropout_agrees_as_well(gpt2_folder, gpt2):
    engine = TransformersEngine(gpt2_folder, "float32", "cpu", 16, CONTEXT_LENGTH)
    requests = [make_request(index, num_tokens) for index, num_tokens in enumerate((2, 10))]
    engine.load(published(gpt2), FIRST)
    samples = run(engine, *requests)
    for request in requests:
        for sample in samples[request.id]:
            assert_logprobs_agree(gpt2, request, sample)


def test_after_a_load_in_mid_wave_each_token_has_the_log_prob_of_its_version(engine, model):
    requests = [make_request(index, num_tokens) for index, num_tokens in enumerate((3, 9))]
    engine.load(published(model), FIRST)
    for request in requests:
        engine.add(request)
    for _ in range(3):
        assert not engine.step().finished
    engine.load(published(model, scale=0.8), SECOND)
    groups = [group for _ in range(5) for group in engine.step().finished]
    assert {group.request_id for group in groups} == {request.id for request in requests}
    second = reloaded(model, published(model, scale=0.8))
    by_id = {request.id: request for request in requests}
    for group in groups:
        request = by_id[group.request_id]
        for sample in group.samples:
            assert sample.version_spans == (VersionSpan(3, FIRST), VersionSpan(5, SECOND))
            first_T = recomputed_logprobs(model, request, sample)[:3]
            second_T = recomputed_logprobs(second, request, sample)[3:]
            expected_T = torch.cat([first_T, second_T])
            assert not torch.allclose(first_T, second_T[:3], atol=1e-2)
            torch.testing.assert_close(torch.tensor(sample.logprobs), expected_T, atol=1e-4, rtol=0)


def test_a_seed_gives_the_same_tokens_whoever_shares_the_batch(engine, model):
    engine.load(published(model), FIRST)
    request = make_request(0, 6)
    alone = run(engine, request)[request.id]
    among = run(engine, make_request(1, 11), request, make_request(2, 2))[request.id]
    assert [sample.token_ids for sample in among] == [sample.token_ids for sample in alone]
    other_seed = SampleRequest(request.id, request.prompt_ids, request.seed + 1, NO_STOP)
    assert run(engine, other_seed)[request.id][0].token_ids != alone[0].token_ids


def test_a_stop_string_ends_a_completion_with_the_token_that_completes_it(engine, model):
    assert_stop_strings_end_samples(engine, model)


def test_a_stop_token_ends_a_completion_and_is_its_last_token(engine, model):
    engine.load(published(model), FIRST)
    stop_ids = tuple(range(1, len(VOCAB), 4))
    sampling = SamplingSpec(8, 1.0, 12, stop_ids)
    request = make_request(0, 5, sampling)
    samples = run(engine, request)[request.id]
    lengths = {len(sample.token_ids) for sample in samples}
    assert len(lengths) > 1, "the seed gives completions of uneven length"
    for sample in samples:
        assert not set(sample.token_ids[:-1]) & set(stop_ids)
        stopped = sample.token_ids[-1] in stop_ids
        assert sample.stop_reason is (StopReason.STOP if stopped else StopReason.LENGTH)
        assert stopped or len(sample.token_ids) == 12
        assert sum(span.num_tokens for span in sample.version_spans) == len(sample.token_ids)
        # Rows that ended were dropped from the cache meanwhile; the others must not notice.
        assert_logprobs_agree(model, request, sample)


def test_completions_that_outlive_the_others_are_those_of_a_batch_without_stops(engine, model):
    engine.load(published(model), FIRST)
    free = make_request(0, 5, SamplingSpec(8, 1.0, 12, ()))
    stopping = make_request(0, 5, SamplingSpec(8, 1.0, 12, tuple(range(1, len(VOCAB), 4))))
    pairs = zip(run(engine, free)[free.id], run(engine, stopping)[stopping.id], strict=True)
    for whole, stopped in pairs:
        assert stopped.token_ids == whole.token_ids[: len(stopped.token_ids)]


def test_greedy_takes_the_likeliest_tokens(engine, model):
    engine.load(published(model), FIRST)
    request = make_request(0, 4, SamplingSpec(1, 0.0, 5, ()))
    (sample,) = run(engine, request)[request.id]
    ids = list(request.prompt_ids)
    for token in sample.token_ids:
        with torch.no_grad():
            assert token == int(model(torch.tensor([ids])).logits[0, -1].argmax())
        ids.append(token)


def test_requests_of_different_sampling_share_a_wave(engine, model):
    engine.load(published(model), FIRST)
    short, long = (
        make_request(0, 4, SamplingSpec(2, 1.0, 3, ())),
        make_request(1, 4, SamplingSpec(3, 0.5, 6, ())),
    )
    samples = run(engine, short, long)
    assert [len(sample.token_ids) for sample in samples[short.id]] == [3, 3]
    assert [len(sample.token_ids) for sample in samples[long.id]] == [6, 6, 6]
    for sample in samples[long.id]:
        assert_logprobs_agree(model, long, sample)


def test_what_does_not_fit_waits_for_the_next_wave(engine, model):
    engine.load(published(model), FIRST)
    requests = [make_request(index, 4) for index in range(5)]
    assert engine.num_free_seqs == 16
    for request in requests[:3]:
        engine.add(request)
    assert engine.num_free_seqs == 4
    for request in requests[3:]:
        engine.add(request)
    assert engine.num_free_seqs == 0
    results = [engine.step() for _ in range(16)]
    assert results[0].num_tokens == {request.id: 4 for request in requests[:4]}
    assert results[8].num_tokens == {requests[4].id: 4}
    assert {group.request_id for group in results[7].finished} == {r.id for r in requests[:4]}
    assert [group.request_id for group in results[15].finished] == [requests[4].id]
    assert engine.num_free_seqs == 16


def test_an_aborted_request_never_finishes_and_leaves_the_others_alone(engine, model):
    engine.load(published(model), FIRST)
    requests = [make_request(index, 4 + index) for index in range(3)]
    for request in requests[:2]:
        engine.add(request)
    engine.step()
    engine.add(requests[2])
    engine.abort(requests[0].id)
    engine.abort(requests[2].id)
    engine.abort("unknown")
    groups = [group for _ in range(7) for group in engine.step().finished]
    assert [group.request_id for group in groups] == [requests[1].id]
    for sample in groups[0].samples:
        assert_logprobs_agree(model, requests[1], sample)
    assert not engine.step().num_tokens


def test_aborting_the_last_request_ends_the_wave(engine, model):
    engine.load(published(model), FIRST)
    engine.add(make_request(0, 4))
    engine.step()
    engine.abort("task-0")
    assert engine.num_free_seqs == 16


@pytest.mark.parametrize(
    ("prompt_ids", "problem"),
    [
        ((3,) * (CONTEXT_LENGTH - 7), "exceed the context"),
        ((3, len(VOCAB)), "outside the vocabulary"),
        ((3, -1), "outside the vocabulary"),
        ((), "no tokens"),
    ],
)
def test_a_prompt_that_cannot_be_served_is_refused(engine, prompt_ids, problem):
    with pytest.raises(Unservable, match=problem):
        engine.add(SampleRequest("task", prompt_ids, 0, NO_STOP))
    assert engine.num_free_seqs == 16


def test_a_prompt_that_just_fits_the_context_is_served(engine, model):
    engine.load(published(model), FIRST)
    request = make_request(0, CONTEXT_LENGTH - 8)
    for sample in run(engine, request)[request.id]:
        assert_logprobs_agree(model, request, sample)


def without(tensors):
    return {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}


def reshaped(tensors):
    return tensors | {"model.norm.weight": torch.ones(31)}


def recast(tensors):
    return tensors | {"model.norm.weight": torch.ones(32, dtype=torch.bfloat16)}


def with_unknown(tensors):
    return tensors | {"model.extra": torch.ones(1)}


@pytest.mark.parametrize("spoil", [without, reshaped, recast, with_unknown])
def test_weights_that_are_not_the_models_leave_the_old_ones_serving(engine, model, spoil):
    engine.load(published(model), FIRST)
    with pytest.raises(InvalidWeights):
        engine.load(spoil(published(model, scale=2.0)), SECOND)
    request = make_request(0, 5)
    for sample in run(engine, request)[request.id]:
        assert sample.version_spans == (VersionSpan(8, FIRST),)
        assert_logprobs_agree(model, request, sample)
