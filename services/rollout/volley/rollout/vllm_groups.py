"""What vLLM is asked for a group, and its answers put together.

Axes: G completions of the group, T tokens of one.
"""

from dataclasses import dataclass, field

from vllm import SamplingParams
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind

from volley.rollout.engine import Sample, SampledGroup, SampleRequest, spans_of
from volley.schemas.groups import StopReason, Version


def sampling_params(request: SampleRequest, index: int) -> SamplingParams:
    """One of the request's G samples in vLLM's words, with nothing that shapes it left out."""
    spec = request.sampling
    return SamplingParams(
        n=1,
        seed=request.seed + index,
        temperature=spec.temperature,
        max_tokens=spec.max_completion_length,
        min_tokens=0,
        stop_token_ids=list(spec.stop_token_ids),
        top_p=spec.top_p,
        top_k=spec.top_k,
        min_p=spec.min_p,
        repetition_penalty=spec.repetition_penalty,
        presence_penalty=spec.presence_penalty,
        frequency_penalty=spec.frequency_penalty,
        watermarking=False,
        # The learner has resolved the stop ids; vLLM is to add none of its own.
        ignore_eos=True,
        # The log-prob of the sampled token alone.
        logprobs=0,
        detokenize=False,
        # What is new in every step: progress, and places that become free one by one.
        output_kind=RequestOutputKind.DELTA,
    )


class UnfinishedGroup:
    """The completions of one request as they grow, each a request of vLLM's own.

    vLLM would make as many of one that asks for G, but could not end them one by one.
    """

    def __init__(self, request: SampleRequest) -> None:
        self.id = request.id
        self.row_ids = [f"{request.id}/{g}" for g in range(request.sampling.num_generations)]
        self._stop_strings = request.stop_strings
        self._rows = {row_id: _Row() for row_id in self.row_ids}
        self._samples: dict[str, Sample] = {}

    @property
    def num_unfinished(self) -> int:
        """Completions that still grow."""
        return len(self._rows) - len(self._samples)

    def append(self, row_id: str, completion: CompletionOutput, version: Version) -> bool:
        """Take in what a completion has got since the last time; whether vLLM is to end it."""
        row = self._rows[row_id]
        row.token_ids_T += completion.token_ids
        row.logprobs_T += [
            logprobs[token].logprob
            for token, logprobs in zip(completion.token_ids, completion.logprobs, strict=True)
        ]
        row.versions_T += [version] * len(completion.token_ids)
        if completion.finish_reason is not None:
            self._samples[row_id] = row.sample(StopReason(completion.finish_reason))
            return False
        has_stopped = self._stop_strings is not None and self._stop_strings.is_hit(row.token_ids_T)
        if has_stopped:
            self._samples[row_id] = row.sample(StopReason.STOP)
        return has_stopped

    def finished(self) -> SampledGroup:
        """The group, once nothing of it grows."""
        return SampledGroup(self.id, tuple(self._samples[row_id] for row_id in self.row_ids))


@dataclass(slots=True)
class _Row:
    token_ids_T: list[int] = field(default_factory=list)
    logprobs_T: list[float] = field(default_factory=list)
    versions_T: list[Version] = field(default_factory=list)

    def sample(self, stop_reason: StopReason) -> Sample:
        return Sample(
            tuple(self.token_ids_T),
            tuple(self.logprobs_T),
            spans_of(self.versions_T),
            stop_reason,
        )
