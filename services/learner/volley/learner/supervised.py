"""Supervised fine-tuning on demonstrations, with the parts of a GRPO step."""

import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from typing import TypeVar

from volley.learner.batching import TrainSequence, micro_batches
from volley.learner.masking import select
from volley.learner.masters import AdamWRules, Masters
from volley.learner.policy import Policy
from volley.learner.schedule import ScheduleRules, learning_rate_at

MICRO_BATCH_TOKENS = 16384
ADAMW = AdamWRules(beta1=0.9, beta2=0.95, epsilon=1e-8, weight_decay=0.01, max_grad_norm=1.0)

_Item = TypeVar("_Item")


@dataclass(frozen=True, slots=True)
class FineTuningRules:
    num_steps: int
    learning_rate: float
    batch_size: int
    warmup_steps: int
    seed: int


def fine_tune(
    policy: Policy, demonstrations: Sequence[TrainSequence], rules: FineTuningRules
) -> Iterator[float]:
    """Train the policy, one step per value drawn; the values are losses in nats per token."""
    masters = Masters(policy.parameters(), ADAMW)
    schedule = ScheduleRules(
        learning_rate=rules.learning_rate,
        shape="constant",
        warmup_steps=rules.warmup_steps,
        num_steps=rules.num_steps,
        min_lr_rate=1.0,
    )
    shuffled = _shuffled_for_ever(demonstrations, rules.seed)
    for step in range(rules.num_steps):
        loss = _accumulate(policy, masters, list(islice(shuffled, rules.batch_size)))
        masters.clip_gradients()
        masters.step(learning_rate_at(step, schedule))
        yield loss


def _accumulate(policy: Policy, masters: Masters, batch: Sequence[TrainSequence]) -> float:
    """The mean loss over the batch's completion tokens, its gradient left on the masters."""
    num_tokens = sum(one.num_trained_tokens for one in batch)
    total = 0.0
    for padded in micro_batches(batch, MICRO_BATCH_TOKENS):
        micro_batch = padded.to(policy.device)
        logprobs_BT = policy.recompute_log_probs(micro_batch, temperature=1.0).policy_logprobs_BT
        loss = -select(logprobs_BT, micro_batch.mask_BT).sum() / num_tokens
        loss.backward()
        masters.add_gradients()
        total += loss.item()
    return total


def _shuffled_for_ever(items: Sequence[_Item], seed: int) -> Iterator[_Item]:
    """Pass after pass over the items, each in an order of its own."""
    for data_pass in count():
        yield from random.Random(f"{seed}/{data_pass}").sample(items, len(items))
