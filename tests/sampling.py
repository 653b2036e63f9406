"""Requests to an engine, and what a plain forward of the same model says of its answers."""

import random
from collections.abc import Mapping
from dataclasses import replace

import torch
from transformers import PreTrainedModel

from tests.tiny_models import VOCAB
from volley.rollout.engine import Engine, Sample, SampleRequest
from volley.rollout.stop_strings import StopStrings
from volley.schemas.groups import StopReason, Version
from volley.schemas.run_spec import SamplingSpec

FIRST, SECOND = Version(1, 0), Version(1, 1)
NO_STOP = SamplingSpec(4, 0.7, 8, ())


def published(model: PreTrainedModel, scale: float = 1.0) -> dict[str, torch.Tensor]:
    """The tensors as the learner publishes them, tied ones once; `scale` makes others of them."""
    return {
        name: tensor * scale
        for name, tensor in model.state_dict().items()
        if name not in model.all_tied_weights_keys
    }


def reloaded(model: PreTrainedModel, tensors: Mapping[str, torch.Tensor]) -> PreTrainedModel:
    """Another model of the same shape, with these tensors."""
    other: PreTrainedModel = type(model)(model.config).eval()
    other.load_state_dict(tensors, strict=False)
    other.tie_weights()
    return other


def make_request(index: int, num_tokens: int, sampling: SamplingSpec = NO_STOP) -> SampleRequest:
    token_ids = random.Random(index).choices(range(3, len(VOCAB)), k=num_tokens)
    return SampleRequest(f"task-{index}", tuple(token_ids), 100 + index, sampling)


def run(engine: Engine, *requests: SampleRequest) -> dict[str, tuple[Sample, ...]]:
    for request in requests:
        engine.add(request)
    samples: dict[str, tuple[Sample, ...]] = {}
    while len(samples) < len(requests):
        samples |= {group.request_id: group.samples for group in engine.step().finished}
    return samples


def recomputed_logprobs(
    model: torch.nn.Module, request: SampleRequest, sample: Sample
) -> torch.Tensor:
    """Log-probs of the completion's T tokens in one forward without a cache or padding."""
    with torch.no_grad():
        logits_TV = model(torch.tensor([request.prompt_ids + sample.token_ids])).logits[0]
    logprobs_TV = torch.log_softmax(logits_TV.float() / request.sampling.temperature, dim=-1)
    targets_T = torch.tensor(sample.token_ids)
    return logprobs_TV[len(request.prompt_ids) - 1 : -1].gather(-1, targets_T[:, None])[:, 0]


def assert_logprobs_agree(model: torch.nn.Module, request: SampleRequest, sample: Sample) -> None:
    expected_T = recomputed_logprobs(model, request, sample)
    torch.testing.assert_close(torch.tensor(sample.logprobs), expected_T, atol=1e-4, rtol=0)


def assert_each_version_agrees(
    models: Mapping[Version, PreTrainedModel], request: SampleRequest, sample: Sample
) -> None:
    """Every token has the log-prob that the version it is tagged with gives it."""
    start = 0
    for span in sample.version_spans:
        tokens = slice(start, start + span.num_tokens)
        expected_T = recomputed_logprobs(models[span.version], request, sample)[tokens]
        actual_T = torch.tensor(sample.logprobs)[tokens]
        torch.testing.assert_close(actual_T, expected_T, atol=1e-4, rtol=0)
        start = tokens.stop
    assert start == len(sample.token_ids)


def assert_stop_strings_end_samples(engine: Engine, model: PreTrainedModel) -> None:
    """A sample ends with the token that completes a stop string, and others are not disturbed."""
    texts_V, strings = list(VOCAB), list("bcfghijlm")
    letters = [texts_V.index(letter) for letter in strings]
    stops = StopStrings(strings, lambda ids: "".join(texts_V[i] for i in ids), len(VOCAB))
    free = make_request(0, 5, SamplingSpec(8, 1.0, 12, ()))
    stopping = replace(free, id="stopping", stop_strings=stops)
    engine.load(published(model), FIRST)
    groups = run(engine, free, stopping)
    lengths = {len(sample.token_ids) for sample in groups[stopping.id]}
    assert len(lengths) > 1, "the seed gives completions of uneven length"
    for whole, sample in zip(groups[free.id], groups[stopping.id], strict=True):
        stopped = sample.token_ids[-1] in letters
        assert not set(sample.token_ids[:-1]) & set(letters)
        assert sample.token_ids == whole.token_ids[: len(sample.token_ids)]
        assert sample.stop_reason is (StopReason.STOP if stopped else StopReason.LENGTH)
        assert sum(span.num_tokens for span in sample.version_spans) == len(sample.token_ids)
        assert_logprobs_agree(model, stopping, sample)
    assert engine.num_free_seqs >= 16
    assert engine.step().num_tokens == {}
