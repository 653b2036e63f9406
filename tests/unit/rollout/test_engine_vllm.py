"""vLLM on the CPU against plain forwards of the same model, with and without tied embeddings."""

import random
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest
import torch
from transformers import PreTrainedModel

from tests.multi_turn import Counting, ask, assert_turns_agree
from tests.sampling import (
    FIRST,
    NO_STOP,
    SECOND,
    assert_each_version_agrees,
    assert_logprobs_agree,
    assert_stop_strings_end_samples,
    make_request,
    published,
    reloaded,
    run,
)
from tests.tiny_models import VOCAB, load_plain, save_tiny_qwen3
from volley.rollout.engine import (
    InvalidWeights,
    LoadFailed,
    SampledGroup,
    SampleRequest,
    Unservable,
)
from volley.rollout.episodes import EpisodeRules, Episodes
from volley.rollout.settings import VllmSettings
from volley.rollout.tokenizer import Tokenizer
from volley.schemas.groups import StopReason, Version, VersionSpan
from volley.schemas.run_spec import SamplingSpec

if TYPE_CHECKING:
    from volley.rollout.engine_vllm import VllmEngine

# vLLM's own warnings are not ours to mend.
pytestmark = [pytest.mark.usefixtures("vllm"), pytest.mark.filterwarnings("ignore")]

CONTEXT_LENGTH = 160
MAX_NUM_SEQS = 256
THIRD = Version(2, 0)
EOS = VOCAB["<eos>"]


@pytest.fixture(scope="module", params=[True, False], ids=["tied", "untied"])
def folder(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("qwen3")
    return save_tiny_qwen3(folder, tied=request.param, context_length=CONTEXT_LENGTH)


@pytest.fixture(scope="module")
def model(folder: Path) -> PreTrainedModel:
    return load_plain(folder)


@pytest.fixture(scope="module")
def engine(vllm: None, folder: Path) -> Iterator["VllmEngine"]:
    """Room for 256 sequences, shared by the tests of this file; each loads weights first."""
    from volley.rollout.engine_vllm import VllmEngine

    engine = VllmEngine(folder, "float32", "cpu", MAX_NUM_SEQS, CONTEXT_LENGTH, VllmSettings())
    yield engine
    engine.close()


def test_log_probs_equal_a_plain_forward_for_prompts_of_uneven_length(engine, model):
    # Longer ones share a block of keys and values between the samples of a group.
    requests = [make_request(index, num_tokens) for index, num_tokens in enumerate((1, 5, 32, 70))]
    engine.load(published(model), FIRST)
    samples = run(engine, *requests)
    for request in requests:
        assert len(samples[request.id]) == NO_STOP.num_generations
        for sample in samples[request.id]:
            assert len(sample.token_ids) == NO_STOP.max_completion_length
            assert sample.stop_reason is StopReason.LENGTH
            assert sample.version_spans == (VersionSpan(8, FIRST),)
            assert_logprobs_agree(model, request, sample)


def test_swaps_in_mid_generation_lose_nothing_and_tag_every_token_rightly(engine, model):
    models = {
        version: reloaded(model, published(model, scale))
        for version, scale in ((FIRST, 1.0), (SECOND, 0.8), (THIRD, 0.9))
    }
    sampling = SamplingSpec(4, 0.7, 96, ())
    prompt_lengths = random.Random(0).choices(range(1, 60), k=72)
    requests = [make_request(n, length, sampling) for n, length in enumerate(prompt_lengths)]
    engine.load(published(models[FIRST]), FIRST)
    for request in requests:
        engine.add(request)
    groups: dict[str, SampledGroup] = {}
    num_sampled: Counter[str] = Counter()
    # At the second swap 256 sequences of 75 tokens are under way, and eight groups wait.
    for tokens_each, version in ((30, SECOND), (75, THIRD), (96 * 2, None)):
        while sum(num_sampled.values()) < tokens_each * MAX_NUM_SEQS and len(groups) < 72:
            result = engine.step()
            num_sampled.update(result.num_tokens)
            groups |= {group.request_id: group for group in result.finished}
        if version is not None:
            engine.load(published(models[version]), version)
    assert groups.keys() == {request.id for request in requests}
    seen = set()
    for request in requests:
        assert len(groups[request.id].samples) == 4
        assert num_sampled[request.id] == 4 * 96
        for sample in groups[request.id].samples:
            assert len(sample.token_ids) == 96
            seen.add(tuple(span.version for span in sample.version_spans))
            assert_each_version_agrees(models, request, sample)
    assert seen == {(FIRST, SECOND, THIRD), (THIRD,)}


def test_a_prompt_that_was_cached_is_prefilled_again_after_a_swap(engine, model):
    request = make_request(0, 100)
    for version, scale in ((FIRST, 1.0), (SECOND, 0.6)):
        tensors = published(model, scale)
        engine.load(tensors, version)
        for sample in run(engine, request)[request.id]:
            assert_logprobs_agree(reloaded(model, tensors), request, sample)


def test_a_seed_gives_the_same_tokens_whoever_shares_the_batch(engine, model):
    engine.load(published(model), FIRST)
    request = make_request(0, 6)
    alone = run(engine, request)[request.id]
    among = run(engine, make_request(1, 11), request, make_request(2, 2))[request.id]
    assert [sample.token_ids for sample in among] == [sample.token_ids for sample in alone]
    assert len({sample.token_ids for sample in alone}) == 4
    other_seed = SampleRequest(request.id, request.prompt_ids, request.seed + 1000, NO_STOP)
    assert run(engine, other_seed)[request.id][0].token_ids != alone[0].token_ids


def test_a_stop_string_ends_a_completion_with_the_token_that_completes_it(engine, model):
    assert_stop_strings_end_samples(engine, model)


def test_a_stop_token_ends_a_completion_and_is_its_last_token(engine, model):
    engine.load(published(model), FIRST)
    stop_ids = tuple(range(1, len(VOCAB), 4))
    request = make_request(0, 5, SamplingSpec(8, 1.0, 12, stop_ids))
    samples = run(engine, request)[request.id]
    lengths = {len(sample.token_ids) for sample in samples}
    assert len(lengths) > 1, "the seed gives completions of uneven length"
    for sample in samples:
        assert not set(sample.token_ids[:-1]) & set(stop_ids)
        stopped = sample.token_ids[-1] in stop_ids
        assert sample.stop_reason is (StopReason.STOP if stopped else StopReason.LENGTH)
        assert stopped or len(sample.token_ids) == 12
        assert sum(span.num_tokens for span in sample.version_spans) == len(sample.token_ids)
        assert_logprobs_agree(model, request, sample)


def test_the_turns_of_an_episode_together_are_what_one_forward_gives(engine, model, folder):
    engine.load(published(model), FIRST)
    rules = EpisodeRules(Counting, max_turns=4, timeout_s=20.0)
    episodes = Episodes(engine, Tokenizer(folder), len(VOCAB), rules)
    assert_turns_agree(model, ask(episodes, *range(12)))
    episodes.close()


def test_only_the_stop_ids_of_the_request_end_a_completion(engine, model):
    assert model.generation_config.eos_token_id == EOS
    engine.load(published(model), FIRST)
    requests = [make_request(n, 5, SamplingSpec(8, 2.0, 40, ())) for n in range(4)]
    samples = run(engine, *requests)
    tokens = [sample.token_ids for request in requests for sample in samples[request.id]]
    assert any(EOS in token_ids[:-1] for token_ids in tokens)
    assert {len(token_ids) for token_ids in tokens} == {40}


def test_greedy_takes_the_likeliest_tokens_with_log_probs_at_temperature_1(engine, model):
    engine.load(published(model), FIRST)
    greedy = make_request(0, 4, SamplingSpec(1, 0.0, 5, ()))
    sampled = make_request(1, 4)
    (sample,) = run(engine, greedy, sampled)[greedy.id]
    ids = list(greedy.prompt_ids)
    for token, logprob in zip(sample.token_ids, sample.logprobs, strict=True):
        with torch.no_grad():
            logprobs_V = torch.log_softmax(model(torch.tensor([ids])).logits[0, -1], dim=-1)
        assert token == int(logprobs_V.argmax())
        assert logprob == pytest.approx(float(logprobs_V[token]), abs=1e-4)
        ids.append(token)


def test_places_become_free_one_by_one_and_what_waits_takes_them(engine, model):
    engine.load(published(model), FIRST)
    assert engine.num_free_seqs == MAX_NUM_SEQS
    short = make_request(0, 4, SamplingSpec(128, 1.0, 2, ()))
    long = make_request(1, 4, SamplingSpec(128, 1.0, 6, ()))
    waiting = make_request(2, 4, SamplingSpec(128, 1.0, 3, ()))
    for request, num_free_seqs in ((short, 128), (long, 0), (waiting, 0)):
        engine.add(request)
        assert engine.num_free_seqs == num_free_seqs
    results = [engine.step() for _ in range(6)]
    assert results[0].num_tokens == {short.id: 128, long.id: 128}
    assert [group.request_id for group in results[1].finished] == [short.id]
    assert results[2].num_tokens == {long.id: 128, waiting.id: 128}
    assert [group.request_id for group in results[4].finished] == [waiting.id]
    assert [group.request_id for group in results[5].finished] == [long.id]
    assert engine.num_free_seqs == MAX_NUM_SEQS


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
    assert engine.num_free_seqs == MAX_NUM_SEQS - NO_STOP.num_generations
    groups = [group for _ in range(7) for group in engine.step().finished]
    assert [group.request_id for group in groups] == [requests[1].id]
    for sample in groups[0].samples:
        assert_logprobs_agree(model, requests[1], sample)
    assert not engine.step().num_tokens


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
    assert engine.num_free_seqs == MAX_NUM_SEQS


def test_a_prompt_that_just_fits_the_context_is_served(engine, model):
    engine.load(published(model), FIRST)
    request = make_request(0, CONTEXT_LENGTH - 8)
    for sample in run(engine, request)[request.id]:
        assert_logprobs_agree(model, request, sample)


Tensors = dict[str, torch.Tensor]


def without(tensors: Tensors) -> Tensors:
    return {name: tensor for name, tensor in tensors.items() if name != "model.norm.weight"}


def reshaped(tensors: Tensors) -> Tensors:
    return tensors | {"model.norm.weight": torch.ones(31)}


def recast(tensors: Tensors) -> Tensors:
    return tensors | {"model.norm.weight": torch.ones(32, dtype=torch.bfloat16)}


def with_unknown(tensors: Tensors) -> Tensors:
    return tensors | {"model.extra": torch.ones(1)}


@pytest.mark.parametrize("spoil", [without, reshaped, recast, with_unknown])
def test_weights_that_are_not_the_models_leave_the_old_ones_serving(engine, model, spoil):
    engine.load(published(model), FIRST)
    request = make_request(0, 5)
    engine.add(request)
    engine.step()
    with pytest.raises(InvalidWeights):
        engine.load(spoil(published(model, scale=2.0)), SECOND)
    (group,) = [group for _ in range(7) for group in engine.step().finished]
    for sample in group.samples:
        assert sample.version_spans == (VersionSpan(8, FIRST),)
        assert_logprobs_agree(model, request, sample)


UNREADABLE = "model.layers.0.self_attn.k_proj.weight"
# vLLM fuses it with two others, which the broken load does not get to.
LOADED_BEFORE = "model.layers.1.self_attn.q_proj.weight"


def test_after_a_load_that_fails_half_way_nothing_is_sampled_before_the_next(engine, model):
    engine.load(published(model), FIRST)
    request = make_request(0, 40)
    engine.add(request)
    for _ in range(3):
        engine.step()
    addresses = addresses_of_parameters(engine)
    second = published(model, scale=0.8)
    # The right name, shape and dtype, and no data: found only when it is copied.
    unreadable = {LOADED_BEFORE: second[LOADED_BEFORE]} | second
    unreadable[UNREADABLE] = torch.empty_like(second[UNREADABLE], device="meta")
    with pytest.raises(LoadFailed, match="meta"):
        engine.load(unreadable, SECOND)
    with pytest.raises(AssertionError):
        engine.step()
    engine.load(second, SECOND)
    (group,) = [group for _ in range(5) for group in engine.step().finished]
    models = {FIRST: model, SECOND: reloaded(model, second)}
    for sample in group.samples:
        assert sample.version_spans == (VersionSpan(3, FIRST), VersionSpan(5, SECOND))
        assert_each_version_agrees(models, request, sample)
    # CUDA graphs read the memory that was there when they were captured.
    assert addresses_of_parameters(engine) == addresses


def addresses_of_parameters(engine: "VllmEngine") -> dict[str, int]:
    (addresses,) = engine._vllm.apply_model(
        lambda model: {name: tensor.data_ptr() for name, tensor in model.named_parameters()}
    )
    return dict(addresses)
