"""What vLLM is asked for a group, and its answers put together.

Axes: G completions of the group, T tokens of one.
"""

from dataclasses import dataclass, field

from vllm import SamplingParams
from vllm.outputs import CompletionOutput
from vllm.sampling_params import RequestOutputKind

from volley.rollout.engine import Sample, SampledGroup, SampleRequest
from volley.schemas.groups import StopReason, Version, VersionSpan


def sampling_params(request: SampleRequest) -> SamplingParams:
    """The request in vLLM's words, with nothing left to its defaults that shapes the samples."""
    spec = request.sampling
    return SamplingParams(
        n=spec.num_generations,
        seed=request.seed,
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
    """The completions of one request as they grow."""

    def __init__(self, request: SampleRequest) -> None:
        self.id = request.id
        self._rows_G = [_Row() for _ in range(request.sampling.num_generations)]
        self._samples: dict[int, Sample] = {}

    @property
    def num_unfinished(self) -> int:
        """Completions that still grow."""
        return len(self._rows_G) - len(self._samples)

    def append(self, completion: CompletionOutput) -> None:
        """Take in what one completion has got since the last time."""
        row = self._rows_G[completion.index]
        row.token_ids_T += completion.token_ids
        row.logprobs_T += [
            logprobs[token].logprob
            for token, logprobs in zip(completion.token_ids, completion.logprobs, strict=True)
        ]
        if completion.finish_reason is not None:
            self._samples[completion.index] = Sample(
                tuple(row.token_ids_T),
                tuple(row.logprobs_T),
                tuple(
                    VersionSpan(span.end - span.start, _version_of(span.version))
                    for span in completion.weight_versions
                ),
                StopReason(completion.finish_reason),
            )

    def finished(self) -> SampledGroup:
        """The group, once nothing of it grows."""
        return SampledGroup(self.id, tuple(self._samples[g] for g in range(len(self._rows_G))))


@dataclass(slots=True)
class _Row:
    token_ids_T: list[int] = field(default_factory=list)
    logprobs_T: list[float] = field(default_factory=list)


def _version_of(label: str) -> Version:
    """The inverse of str(version)."""
    epoch, step = label.split(".")
    return Version(int(epoch), int(step))
