"""What the worker asks of an engine: prompt ids in, sampled groups out, weights between steps."""

import itertools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Protocol

from volley.rollout.stop_strings import StopStrings
from volley.schemas.groups import StopReason, Version, VersionSpan
from volley.schemas.run_spec import SamplingSpec

if TYPE_CHECKING:
    import torch


class Unservable(ValueError):
    """This prompt can never be sampled from by this engine; the text says why."""


class InvalidWeights(ValueError):
    """These tensors are not the model's; nothing was loaded."""


class LoadFailed(RuntimeError):
    """The tensors are the model's, but only some were loaded; the text says why."""


@dataclass(frozen=True, slots=True)
class SampleRequest:
    """One prompt to be answered `sampling.num_generations` times."""

    id: str
    prompt_ids: tuple[int, ...]
    seed: int
    """Decides the samples, up to float rounding, whoever shares the batch."""
    sampling: SamplingSpec
    """Temperature 0 is greedy, with log-probs at temperature 1."""
    stop_strings: StopStrings | None = None
    """Text that ends a completion, beside `sampling.stop_token_ids`."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One completion of T tokens; the stop token is among them."""

    token_ids: tuple[int, ...]
    logprobs: tuple[float, ...]
    """T nats at the sampling temperature."""
    version_spans: tuple[VersionSpan, ...]
    stop_reason: StopReason


@dataclass(frozen=True, slots=True)
class SampledGroup:
    """A finished request: G completions."""

    request_id: str
    samples: tuple[Sample, ...]


@dataclass(frozen=True, slots=True)
class StepResult:
    """What one engine step brought."""

    finished: tuple[SampledGroup, ...]
    num_tokens: Mapping[str, int]
    """Tokens sampled in this step, by request id; requests without progress are absent."""


class Engine(Protocol):
    """Samples groups, a step at a time; used from one thread.

    Order: requests start in the order of `add` and finish in any order, each exactly once.
    Nothing is sampled before the first `load`, nor after LoadFailed before another one succeeds.
    After any other exception than those named here the engine is of no more use.
    """

    @property
    def num_free_seqs(self) -> int:
        """Sequences that would start at the next step if they were added now."""
        ...

    def add(self, request: SampleRequest) -> None:
        """Take a request in; raises Unservable, and then the request is not taken."""
        ...

    def step(self) -> StepResult:
        """Advance what is running, and start what waits where there is room; never blocks."""
        ...

    def abort(self, request_id: str) -> None:
        """Forget a request; it will not finish. Unknown ids are ignored."""
        ...

    def load(self, tensors: Mapping[str, "torch.Tensor"], version: Version) -> None:
        """Sample from these weights from the next step on; raises InvalidWeights, LoadFailed.

        Running requests go on, after LoadFailed too: what they have is recomputed with the new
        weights, and every token is tagged with the version that sampled it. The tensors are not
        kept.
        """
        ...

    def close(self) -> None:
        """Give memory and processes back; requests in hand are lost."""
        ...


def check_servable(request: SampleRequest, max_context_length: int, vocab_size: int) -> None:
    """Return if the prompt fits the context and the vocabulary; raises Unservable."""
    num_prompt_tokens = len(request.prompt_ids)
    max_completion_length = request.sampling.max_completion_length
    if not num_prompt_tokens:
        raise Unservable("the prompt has no tokens")
    if num_prompt_tokens + max_completion_length > max_context_length:
        raise Unservable(
            f"{num_prompt_tokens} prompt tokens and max_completion_length {max_completion_length} "
            f"exceed the context of {max_context_length} tokens"
        )
    if not all(0 <= token < vocab_size for token in request.prompt_ids):
        raise Unservable(f"a prompt token is outside the vocabulary of {vocab_size}")


def spans_of(versions_T: Sequence[Version]) -> tuple[VersionSpan, ...]:
    """The versions of T tokens, run by run."""
    return tuple(
        VersionSpan(len(tuple(run)), version) for version, run in itertools.groupby(versions_T)
    )
