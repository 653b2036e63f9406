"""Supervised fine-tuning on demonstrations, with the parts of a GRPO step.

A step depends on the weights, the seed and its number alone: the n-th one is the same whether the
steps before it were taken by this process or by one that was killed.
"""

import random
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from torch import Tensor

from volley.learner.batching import TrainSequence, micro_batches
from volley.learner.masking import select
from volley.learner.masters import AdamWRules, Masters
from volley.learner.policy import Policy
from volley.learner.schedule import ScheduleRules, learning_rate_at


@dataclass(frozen=True, slots=True)
class FineTuningRules:
    num_steps: int
    learning_rate: float
    batch_size: int
    """Demonstrations in a step."""
    warmup_steps: int
    seed: int
    """Of the order of the demonstrations."""
    weight_decay: float = 0.01
    max_grad_norm: float = 1.0
    micro_batch_tokens: int = 16384


@dataclass(frozen=True, slots=True)
class FineTuningResult:
    """What a step says about itself."""

    loss: float
    """Nats per trained token, before the step."""
    learning_rate: float
    grad_norm: float
    num_tokens: int
    """Trained ones."""


class FineTuning:
    """A policy and its optimiser on their way through demonstrations."""

    def __init__(
        self, policy: Policy, demonstrations: Sequence[TrainSequence], rules: FineTuningRules
    ) -> None:
        self._policy = policy
        self._demonstrations = demonstrations
        self._rules = rules
        self._masters = Masters(
            policy.parameters(),
            AdamWRules(0.9, 0.95, 1e-8, rules.weight_decay, rules.max_grad_norm),
        )
        self._schedule = ScheduleRules(
            learning_rate=rules.learning_rate,
            shape="constant",
            warmup_steps=rules.warmup_steps,
            num_steps=rules.num_steps,
            min_lr_rate=1.0,
        )
        # A step spans two passes as a rule.
        self._order = lru_cache(maxsize=2)(self._order_of)

    def step(self, step: int) -> FineTuningResult:
        """Take step 0, 1, ..."""
        batch = self._batch(step)
        num_tokens = sum(one.num_trained_tokens for one in batch)
        loss = self._accumulate(batch, num_tokens)
        grad_norm = self._masters.clip_gradients().item()
        learning_rate = learning_rate_at(step, self._schedule)
        self._masters.step(learning_rate)
        return FineTuningResult(loss, learning_rate, grad_norm, num_tokens)

    def tensors(self) -> dict[str, Tensor]:
        """Masters and optimiser state, for a checkpoint."""
        return self._masters.tensors()

    def restore(self, tensors: Mapping[str, Tensor]) -> None:
        """Be where the checkpoint was saved; raises ValueError if it is of another model."""
        self._masters.restore(tensors)

    def _batch(self, step: int) -> list[TrainSequence]:
        """Pass after pass over the demonstrations, each in an order of its own."""
        first = step * self._rules.batch_size
        batch = []
        for place in range(first, first + self._rules.batch_size):
            data_pass, position = divmod(place, len(self._demonstrations))
            batch.append(self._demonstrations[self._order(data_pass)[position]])
        return batch

    def _order_of(self, data_pass: int) -> list[int]:
        rows = range(len(self._demonstrations))
        return random.Random(f"{self._rules.seed}/{data_pass}").sample(rows, len(rows))

    def _accumulate(self, batch: Sequence[TrainSequence], num_tokens: int) -> float:
        """The mean loss over the trained tokens, its gradient left on the masters."""
        total = 0.0
        for padded in micro_batches(batch, self._rules.micro_batch_tokens):
            micro_batch = padded.to(self._policy.device)
            logprobs = self._policy.recompute_log_probs(micro_batch, temperature=1.0)
            chosen_BT = select(logprobs.policy_logprobs_BT, micro_batch.mask_BT)
            loss = -chosen_BT.sum() / num_tokens
            loss.backward()
            self._masters.add_gradients()
            total += loss.item()
        return total


def fine_tune(
    policy: Policy, demonstrations: Sequence[TrainSequence], rules: FineTuningRules
) -> Iterator[float]:
    """Train the policy, one step per value drawn; the values are losses in nats per token."""
    tuning = FineTuning(policy, demonstrations, rules)
    for step in range(rules.num_steps):
        yield tuning.step(step).loss
