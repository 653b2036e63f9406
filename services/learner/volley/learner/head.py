"""Log-probs through a model's head, without ever keeping its logits.

Axes: N tokens, H hidden units, V vocabulary, C of its rows at a time. Nats, at least in float32.

Forward and backward both go over the head's rows a few at a time, for all tokens at once; the
backward computes the logits again. Rows rather than tokens, for then the gradient of a row is one
product over all tokens: added up in float32 inside it, and written once.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Protocol, cast

import torch
from torch import Tensor

from volley.learner.log_probs import LOGITS_AT_ONCE, widened

# Matrix units work in tiles.
ROWS_MULTIPLE = 128


@dataclass(frozen=True, slots=True, eq=False)
class Head:
    """What makes logits of the last hidden states: a linear map and, in some models, a cap."""

    weight_VH: Tensor
    bias_V: Tensor | None = None
    softcap: float | None = None
    """Logits are cap * tanh(logits / cap)."""

    def logits(self, hidden_NH: Tensor, rows: slice = slice(None)) -> Tensor:
        """Those of some of the vocabulary's rows, in the model's dtype as the model makes them."""
        bias = None if self.bias_V is None else self.bias_V[rows]
        logits_NC = torch.nn.functional.linear(hidden_NH, self.weight_VH[rows], bias)
        if self.softcap is None:
            return logits_NC
        return torch.tanh(logits_NC / self.softcap) * self.softcap


def log_probs_of_hidden(
    targets_N: Tensor,
    hidden_NH: Tensor,
    head: Head,
    temperature: float,
    logits_at_once: int = LOGITS_AT_ONCE,
) -> tuple[Tensor, Tensor]:
    """Log-probs at the targets, and entropies, of softmax(logits / temperature).

    Of bfloat16 weights they are those of their bfloat16 logits, normalised in float32.
    """
    rules = _Rules(head.softcap, temperature, logits_at_once)
    found = _ChunkedLogProbs.apply(  # type: ignore[no-untyped-call]  # torch annotates no apply
        *(hidden_NH, head.weight_VH, head.bias_V, targets_N, rules)
    )
    return cast("tuple[Tensor, Tensor]", found)


@dataclass(frozen=True, slots=True)
class _Rules:
    softcap: float | None
    temperature: float
    logits_at_once: int


@dataclass(frozen=True, slots=True, eq=False)
class _Chunk:
    """Some rows of the vocabulary: their scores, and which targets are among them."""

    logits_NC: Tensor
    scores_NC: Tensor
    """Logits over temperature, at least in float32."""
    has_target_N1: Tensor
    target_N1: Tensor
    """Its row within the chunk; 0 where it is in another one."""


class _Context(Protocol):
    """What torch hands from a forward to its backward."""

    rules: _Rules
    saved_tensors: tuple[Tensor, ...]
    needs_input_grad: tuple[bool, ...]

    def save_for_backward(self, *tensors: Tensor | None) -> None: ...

    def set_materialize_grads(self, value: bool) -> None: ...


class _ChunkedLogProbs(torch.autograd.Function):
    """Log-probs and entropies from running sums over chunks of rows."""

    @staticmethod
    def forward(
        ctx: _Context,
        hidden_NH: Tensor,
        weight_VH: Tensor,
        bias_V: Tensor | None,
        targets_N: Tensor,
        rules: _Rules,
    ) -> tuple[Tensor, Tensor]:
        running, head = _RunningSums(hidden_NH), Head(weight_VH, bias_V, rules.softcap)
        for rows in _rows_at_a_time(weight_VH, targets_N, rules):
            running.add(_chunk(rows, hidden_NH, head, targets_N, rules))
        log_sum_N = running.max_N + running.sum_N.log()
        entropy_N = running.sum_N.log() - running.weighted_N / running.sum_N
        ctx.save_for_backward(hidden_NH, weight_VH, bias_V, targets_N, log_sum_N, entropy_N)
        ctx.set_materialize_grads(False)
        ctx.rules = rules
        return running.target_N - log_sum_N, entropy_N

    @staticmethod
    def backward(
        ctx: _Context, grad_logprobs_N: Tensor | None, grad_entropy_N: Tensor | None
    ) -> tuple[Tensor | None, ...]:
        hidden_NH, weight_VH, bias_V, targets_N, log_sum_N, entropy_N = ctx.saved_tensors
        rules = ctx.rules
        head = Head(weight_VH, bias_V, rules.softcap)
        needs_weight, needs_bias = ctx.needs_input_grad[1:3]
        grad_hidden_NH = hidden_NH.new_zeros(hidden_NH.shape, dtype=log_sum_N.dtype)
        grad_weight_VH = torch.empty_like(weight_VH) if needs_weight else None
        grad_bias_V = torch.empty_like(bias_V) if needs_bias else None
        for rows in _rows_at_a_time(weight_VH, targets_N, rules):
            grad_NC = _grad_of_logits(
                _chunk(rows, hidden_NH, head, targets_N, rules),
                *(log_sum_N, entropy_N, grad_logprobs_N, grad_entropy_N, rules),
            ).to(hidden_NH.dtype)
            grad_hidden_NH += grad_NC @ weight_VH[rows]
            if grad_weight_VH is not None:
                torch.mm(grad_NC.T, hidden_NH, out=grad_weight_VH[rows])
            if grad_bias_V is not None:
                grad_bias_V[rows] = grad_NC.sum(0)
            del grad_NC  # before the next chunk is made
        return grad_hidden_NH.to(hidden_NH.dtype), grad_weight_VH, grad_bias_V, None, None


class _RunningSums:
    """Over the chunks seen so far, relative to the largest score among them."""

    def __init__(self, hidden_NH: Tensor) -> None:
        zeros_N = widened(hidden_NH.new_zeros(hidden_NH.shape[0]))
        # Finite, so that the first chunk's shift is no NaN.
        self.max_N = torch.full_like(zeros_N, torch.finfo(zeros_N.dtype).min)
        self.sum_N = zeros_N
        """Of exp(score - max)."""
        self.weighted_N = zeros_N
        """Of exp(score - max) * (score - max)."""
        self.target_N = zeros_N
        """The targets' scores."""

    def add(self, chunk: _Chunk) -> None:
        """Take in a chunk; its scores are used up."""
        target_N1 = chunk.scores_NC.gather(1, chunk.target_N1)
        self.target_N = torch.where(chunk.has_target_N1, target_N1, self.target_N[:, None])[:, 0]
        max_N = torch.maximum(self.max_N, chunk.scores_NC.amax(1))
        shift_N = self.max_N - max_N
        scale_N = shift_N.exp()
        scores_NC = chunk.scores_NC.sub_(max_N[:, None])
        exp_NC = scores_NC.exp()
        self.weighted_N = scale_N * (self.weighted_N + shift_N * self.sum_N)
        self.weighted_N += torch.linalg.vecdot(exp_NC, scores_NC)
        self.sum_N = scale_N * self.sum_N + exp_NC.sum(1)
        self.max_N = max_N


def _rows_at_a_time(weight_VH: Tensor, targets_N: Tensor, rules: _Rules) -> Iterator[slice]:
    """All rows of the vocabulary, as many at once as their logits may take."""
    num_tokens, vocab_size = targets_N.shape[0], weight_VH.shape[0]
    num_tiles = rules.logits_at_once // (ROWS_MULTIPLE * max(1, num_tokens))
    num_rows = ROWS_MULTIPLE * max(1, num_tiles)
    for start in range(0, vocab_size, num_rows):
        yield slice(start, min(start + num_rows, vocab_size))


def _chunk(rows: slice, hidden_NH: Tensor, head: Head, targets_N: Tensor, rules: _Rules) -> _Chunk:
    logits_NC = head.logits(hidden_NH, rows)
    has_target_N1 = ((targets_N >= rows.start) & (targets_N < rows.stop))[:, None]
    target_N1 = torch.where(has_target_N1, targets_N[:, None] - rows.start, 0)
    # A copy that may be written to, whatever the dtype.
    scores_NC = widened(logits_NC) / rules.temperature
    return _Chunk(logits_NC, scores_NC, has_target_N1, target_N1)


def _grad_of_logits(
    chunk: _Chunk,
    log_sum_N: Tensor,
    entropy_N: Tensor,
    grad_logprobs_N: Tensor | None,
    grad_entropy_N: Tensor | None,
    rules: _Rules,
) -> Tensor:
    """At the head's linear map, before the cap."""
    grad_NC = _grad_of_scores(chunk, log_sum_N, entropy_N, grad_logprobs_N, grad_entropy_N)
    grad_NC /= rules.temperature
    if rules.softcap is not None:
        grad_NC *= 1 - (chunk.logits_NC / rules.softcap).square()
    return grad_NC


def _grad_of_scores(
    chunk: _Chunk,
    log_sum_N: Tensor,
    entropy_N: Tensor,
    grad_logprobs_N: Tensor | None,
    grad_entropy_N: Tensor | None,
) -> Tensor:
    """d logprob = 1 at the target - probs; d entropy = -probs * (log probs + entropy)."""
    logprobs_NC = chunk.scores_NC.sub_(log_sum_N[:, None])
    probs_NC = logprobs_NC.exp()
    pull_N1 = torch.zeros_like(log_sum_N)[:, None]
    if grad_logprobs_N is not None:
        pull_N1 = grad_logprobs_N[:, None]
    if grad_entropy_N is None:
        grad_NC = probs_NC.mul_(-pull_N1)
    else:
        surprise_NC = logprobs_NC.add_(entropy_N[:, None]).mul_(grad_entropy_N[:, None])
        grad_NC = probs_NC.mul_(-(surprise_NC + pull_N1))
    return grad_NC.scatter_add_(1, chunk.target_N1, torch.where(chunk.has_target_N1, pull_N1, 0.0))
