"""Supervised fine-tuning on demonstrations: only the completion is trained, its end included.

The data is JSONL with `prompt` (text or chat messages) and `completion` (text). The same prompt
leads to the same tokens here and in GRPO.
"""

import json
import random
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import count, islice
from pathlib import Path
from typing import TypeVar

from volley.learner.batching import TrainSequence, micro_batches
from volley.learner.masking import select
from volley.learner.masters import AdamWRules, Masters
from volley.learner.policy import Message, Policy
from volley.learner.schedule import ScheduleRules, learning_rate_at
from volley.telemetry.stops import ExitCode, Stop

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


def read_demonstrations(data: Path, policy: Policy) -> list[TrainSequence]:
    """The demonstrations of a JSONL file; raises Stop naming the line of what is wrong."""
    try:
        lines = data.read_text(encoding="utf-8").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(ExitCode.CONFIG, f"cannot read {data}: {error}") from error
    demonstrations = [
        _read_demonstration(f"{data}:{index}", line, policy)
        for index, line in enumerate(lines, start=1)
        if line.strip()
    ]
    if not demonstrations:
        raise Stop(ExitCode.CONFIG, f"{data} is empty: give one JSON object a line")
    return demonstrations


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


def _read_demonstration(place: str, line: str, policy: Policy) -> TrainSequence:
    prompt, completion = _read_row(place, line)
    [prompt_ids] = policy.tokenise([prompt])
    completion_ids = policy.tokenise_answer(completion)
    num_tokens = len(prompt_ids) + len(completion_ids)
    if not prompt_ids:
        raise Stop(ExitCode.CONFIG, f"{place}: the prompt has no tokens")
    if num_tokens > policy.context_length:
        raise Stop(
            ExitCode.CONFIG,
            f"{place}: prompt and completion have {num_tokens} tokens, the model's context has "
            f"{policy.context_length}: shorten the row or leave it out",
        )
    return TrainSequence(
        prompt_ids=tuple(prompt_ids),
        completion_ids=tuple(completion_ids),
        trained=(True,) * len(completion_ids),
        # Nobody sampled a demonstration, and all of them weigh the same.
        sampler_logprobs=(0.0,) * len(completion_ids),
        advantage=1.0,
    )


def _read_row(place: str, line: str) -> tuple[str | list[Message], str]:
    try:
        row = json.loads(line)
    except ValueError as error:
        raise Stop(ExitCode.CONFIG, f"{place}: not JSON: {error}") from error
    if not isinstance(row, dict):
        raise Stop(ExitCode.CONFIG, f"{place}: not an object: write {{'prompt': ...}}")
    for column in ("prompt", "completion"):
        if column not in row:
            found = ", ".join(row) or "none"
            raise Stop(
                ExitCode.CONFIG, f"{place}: column {column!r} is missing (columns here: {found})"
            )
    if not isinstance(row["prompt"], str | list) or not isinstance(row["completion"], str):
        raise Stop(
            ExitCode.CONFIG,
            f"{place}: 'prompt' must be text or chat messages, and 'completion' text",
        )
    return row["prompt"], row["completion"]
