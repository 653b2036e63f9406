"""The rows of one wave: requests that started together and take every step together.

Axes: P requests (prompts), R all rows of the wave (each request's G rows side by side), B the
rows still in the batch, T tokens. A row that ends stays in the batch until `drop_finished`.
"""

from collections.abc import Collection, Sequence
from dataclasses import dataclass

import torch

from volley.rollout.engine import Sample, SampledGroup, SampleRequest, StepResult, spans_of
from volley.rollout.stop_strings import StopStrings
from volley.schemas.groups import StopReason, Version

# Selecting rows copies the cache; below a quarter of idle rows that costs more than it saves.
WORTH_DROPPING = 0.25


@dataclass(frozen=True, slots=True)
class Prompts:
    """The prompts of a wave, padded on the left so that all end at the same place."""

    ids_PT: torch.Tensor
    mask_PT: torch.Tensor
    """1 for a token, 0 for padding."""
    lengths_P: torch.Tensor

    @classmethod
    def padded(cls, prompts: Sequence[tuple[int, ...]], device: torch.device) -> "Prompts":
        width = max(map(len, prompts))
        ids_PT = torch.tensor([(0,) * (width - len(ids)) + ids for ids in prompts], device=device)
        lengths_P = torch.tensor([len(ids) for ids in prompts], device=device)
        first_P1 = (width - lengths_P)[:, None]
        mask_PT = (torch.arange(width, device=device) >= first_P1).long()
        return cls(ids_PT, mask_PT, lengths_P)

    @property
    def width(self) -> int:
        return self.ids_PT.shape[1]


class Wave:
    """What has been sampled for the requests of a wave, and which rows go on."""

    def __init__(self, requests: Sequence[SampleRequest], device: torch.device) -> None:
        samplings = [request.sampling for request in requests]
        num_rows_P = torch.tensor([sampling.num_generations for sampling in samplings])
        width = max(sampling.max_completion_length for sampling in samplings)
        self.prompts = Prompts.padded([request.prompt_ids for request in requests], device)
        self._requests: list[SampleRequest | None] = list(requests)
        """None once finished or aborted."""
        self._request_R = torch.arange(len(requests)).repeat_interleave(num_rows_P).to(device)
        self._uniforms_RT = _draw_uniforms(requests, width).to(device)
        self._temperatures_R = self._spread([sampling.temperature for sampling in samplings])
        self._max_tokens_R = self._spread([s.max_completion_length for s in samplings])
        self._stop_ids_RS = self._spread(_pad([s.stop_token_ids for s in samplings]))
        self._ending_V = _union({r.stop_strings for r in requests if r.stop_strings}, device)
        num_rows = len(self._request_R)
        self._tokens_RT = torch.zeros(num_rows, width, dtype=torch.long, device=device)
        self._logprobs_RT = torch.zeros(num_rows, width, device=device)
        self._num_tokens_R = torch.zeros(num_rows, dtype=torch.long, device=device)
        self._ended_R = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._stopped_R = torch.zeros(num_rows, dtype=torch.bool, device=device)
        self._rows_B = torch.arange(num_rows, device=device)
        self._versions_T: list[Version] = []

    @property
    def is_over(self) -> bool:
        return not any(self._requests)

    @property
    def num_steps(self) -> int:
        """Tokens that every row of the batch has."""
        return len(self._versions_T)

    @property
    def request_B(self) -> torch.Tensor:
        """Which request each row of the batch belongs to."""
        return self._request_R[self._rows_B]

    @property
    def temperatures_B(self) -> torch.Tensor:
        return self._temperatures_R[self._rows_B]

    @property
    def uniforms_B(self) -> torch.Tensor:
        """The numbers that pick the next tokens."""
        return self._uniforms_RT[self._rows_B, self.num_steps]

    def tokens_BT(self, start: int) -> torch.Tensor:
        """The batch's sampled tokens from `start` on."""
        return self._tokens_RT[self._rows_B, start : self.num_steps]

    def append(
        self, tokens_B: torch.Tensor, logprobs_B: torch.Tensor, version: Version
    ) -> StepResult:
        """Add the next token of every row in the batch."""
        step, rows_B = self.num_steps, self._rows_B
        running_B = ~self._ended_R[rows_B]
        self._tokens_RT[rows_B, step] = tokens_B
        self._logprobs_RT[rows_B, step] = logprobs_B
        self._num_tokens_R[rows_B] += running_B.long()
        self._versions_T.append(version)
        stops_B = running_B & (tokens_B[:, None] == self._stop_ids_RS[rows_B]).any(dim=-1)
        stops_B |= self._hit_stop_strings(tokens_B, running_B & ~stops_B)
        self._stopped_R[rows_B] |= stops_B
        self._ended_R[rows_B] |= stops_B | (self._max_tokens_R[rows_B] <= step + 1)
        num_running_P = self._count_by_request(running_B)
        num_left_P = self._count_by_request(~self._ended_R[rows_B])
        advanced = {
            request.id: num_running
            for request, num_running in zip(self._requests, num_running_P, strict=True)
            if request is not None and num_running
        }
        return StepResult(self._take_finished(num_left_P), advanced)

    def abort(self, request_id: str) -> None:
        """Take no further interest in a request."""
        for index, request in enumerate(self._requests):
            if request is not None and request.id == request_id:
                self._requests[index] = None
                self._ended_R[self._request_R == index] = True

    def drop_finished(self) -> torch.Tensor | None:
        """Places in the batch to keep, where dropping the others is worth a copy; else None."""
        keep_B = (~self._ended_R[self._rows_B]).nonzero()[:, 0]
        if not 0 < len(keep_B) <= (1 - WORTH_DROPPING) * len(self._rows_B):
            return None
        self._rows_B = self._rows_B[keep_B]
        return keep_B

    def _take_finished(self, num_left_P: list[int]) -> tuple[SampledGroup, ...]:
        finished = []
        for index, request in enumerate(self._requests):
            if request is not None and not num_left_P[index]:
                finished.append(self._group_of(index, request))
                self._requests[index] = None
        return tuple(finished)

    def _group_of(self, index: int, request: SampleRequest) -> SampledGroup:
        rows = (self._request_R == index).nonzero()[:, 0]
        columns = zip(
            self._tokens_RT[rows, : self.num_steps].tolist(),
            self._logprobs_RT[rows, : self.num_steps].tolist(),
            self._num_tokens_R[rows].tolist(),
            self._stopped_R[rows].tolist(),
            strict=True,
        )
        return SampledGroup(
            request.id,
            tuple(
                Sample(
                    tuple(token_ids[:num_tokens]),
                    tuple(logprobs[:num_tokens]),
                    spans_of(self._versions_T[:num_tokens]),
                    StopReason.STOP if stopped else StopReason.LENGTH,
                )
                for token_ids, logprobs, num_tokens, stopped in columns
            ),
        )

    def _hit_stop_strings(self, tokens_B: torch.Tensor, running_B: torch.Tensor) -> torch.Tensor:
        """Rows of the batch whose text holds a stop string since the token they have just got."""
        hit_B = torch.zeros_like(running_B)
        if self._ending_V is None:
            return hit_B
        for place in (running_B & self._ending_V[tokens_B]).nonzero()[:, 0].tolist():
            request = self._requests[self.request_B[place]]
            token_ids = self._tokens_RT[self._rows_B[place], : self.num_steps].tolist()
            if request is not None and request.stop_strings is not None:
                hit_B[place] = request.stop_strings.is_hit(token_ids)
        return hit_B

    def _count_by_request(self, which_B: torch.Tensor) -> list[int]:
        counts_P = torch.bincount(self.request_B[which_B], minlength=len(self._requests))
        return [int(count) for count in counts_P.tolist()]

    def _spread(self, values_P: Sequence[float] | list[list[int]]) -> torch.Tensor:
        """One value (or list) per request, repeated for its rows."""
        return torch.tensor(values_P, device=self._request_R.device)[self._request_R]


def _draw_uniforms(requests: Sequence[SampleRequest], width: int) -> torch.Tensor:
    """Uniform numbers R x T, on the CPU so that a seed means the same on every device."""
    return torch.cat(
        [
            torch.nn.functional.pad(
                torch.rand(
                    request.sampling.num_generations,
                    request.sampling.max_completion_length,
                    generator=torch.Generator().manual_seed(request.seed),
                    dtype=torch.float64,
                ),
                (0, width - request.sampling.max_completion_length),
            )
            for request in requests
        ]
    )


def _union(stop_strings: Collection[StopStrings], device: torch.device) -> torch.Tensor | None:
    """Mask over the vocabulary of what may end any of them; None where there are none."""
    if not stop_strings:
        return None
    return torch.stack([strings.ending_V for strings in stop_strings]).any(dim=0).to(device)


def _pad(stop_ids: Sequence[tuple[int, ...]]) -> list[list[int]]:
    """Rows of equal length, filled with an id that no token has."""
    width = max(1, *map(len, stop_ids))
    return [[*ids, *[-1] * (width - len(ids))] for ids in stop_ids]
