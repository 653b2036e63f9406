"""How fast the learner takes a step, against a bare forward, backward and AdamW of the same tokens.

    python bench/learner.py [--json]

The sort demo's model and shape: 32 groups of 8, 14 + 9 tokens. Both sides are measured in turns on
the same machine, each with a model of its own; the figure to compare across machines is the ratio.
"""

import random
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from statistics import median

import torch
from measuring.report import report
from transformers import AutoModelForCausalLM

from volley.learner.policy import Policy
from volley.learner.settings import Settings
from volley.learner.sort_task import save_model
from volley.learner.update import Update
from volley.schemas.groups import (
    SCHEMA_VERSION,
    Group,
    StopReason,
    Trajectory,
    Version,
    VersionSpan,
    pack_logprobs,
    pack_token_ids,
)

NUM_GROUPS, NUM_GENERATIONS = 32, 8
NUM_PROMPT_TOKENS, NUM_COMPLETION_TOKENS = 14, 9
NUM_SAMPLES = NUM_GROUPS * NUM_GENERATIONS
NUM_TOKENS = NUM_SAMPLES * (NUM_PROMPT_TOKENS + NUM_COMPLETION_TOKENS)
NUM_TURNS, NUM_WARM_UP_TURNS = 20, 3
LEARNING_RATE = 1e-5
HEAD = Version(1, 0)


def make_step(folder: Path, groups: list[Group]) -> Callable[[], None]:
    """The learner's step on `groups`."""
    settings = Settings.model_validate(
        {
            "model": {"path": str(folder), "dtype": "float32"},
            "data": {"train": "not-read.jsonl"},
            "sampling": {"num_generations": NUM_GENERATIONS},
            "optim": {"learning_rate": LEARNING_RATE},
        }
    )
    update = Update(Policy.load(settings.model, "cpu"), settings)

    def step() -> None:
        result = update.step(groups, HEAD)
        assert result.metrics["num_sequences"] == NUM_SAMPLES

    return step


def make_bare_step(folder: Path, groups: list[Group]) -> Callable[[], None]:
    """What transformers and torch do without any of our code: all tokens, no mask, one batch."""
    model = AutoModelForCausalLM.from_pretrained(folder)
    optimizer = torch.optim.AdamW(model.parameters(), lr=LEARNING_RATE, fused=True)
    input_ids = torch.tensor(
        [group.prompt_ids + one.token_ids for group in groups for one in group.trajectories]
    )

    def step() -> None:
        model(input_ids=input_ids, labels=input_ids, use_cache=False).loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
        optimizer.zero_grad()

    return step


def random_groups(vocab_size: int) -> list[Group]:
    """Groups that all have a signal."""
    randomness = random.Random(0)

    def token_ids(num_tokens: int) -> list[int]:
        return [randomness.randrange(3, vocab_size) for _ in range(num_tokens)]

    def trajectory(reward: float) -> Trajectory:
        return Trajectory(
            token_bytes=pack_token_ids(token_ids(NUM_COMPLETION_TOKENS)),
            logprob_bytes=pack_logprobs([-4.0] * NUM_COMPLETION_TOKENS),
            version_spans=(VersionSpan(NUM_COMPLETION_TOKENS, HEAD),),
            inserted_spans=(),
            stop_reason=StopReason.STOP,
            text="",
            rewards=(reward,),
        )

    return [
        Group(
            schema_version=SCHEMA_VERSION,
            run="bench",
            number=number,
            attempt=0,
            worker="bench",
            prompt_ids=tuple(token_ids(NUM_PROMPT_TOKENS)),
            trajectories=tuple(trajectory(float(index % 2)) for index in range(NUM_GENERATIONS)),
        )
        for number in range(NUM_GROUPS)
    ]


def seconds_of(step: Callable[[], None]) -> float:
    """How long one step takes."""
    start_s = time.perf_counter()
    step()
    return time.perf_counter() - start_s


def measure() -> dict[str, float]:
    """Both speeds in samples per second, ours in tokens per second, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder, seed=0)
        groups = random_groups(vocab_size=64)
        steps = (make_step(folder, groups), make_bare_step(folder, groups))
    turns = [tuple(map(seconds_of, steps)) for _ in range(NUM_WARM_UP_TURNS + NUM_TURNS)]
    ours_s, bare_s = map(median, zip(*turns[NUM_WARM_UP_TURNS:], strict=True))
    return {
        "samples_per_s": NUM_SAMPLES / ours_s,
        "tokens_per_s": NUM_TOKENS / ours_s,
        "bare_samples_per_s": NUM_SAMPLES / bare_s,
        "ratio": bare_s / ours_s,
        "threads": torch.get_num_threads(),
    }


def main() -> None:
    figures = measure()
    report(
        f"learner's step           {figures['samples_per_s']:8.0f} samples/s "
        f"{figures['tokens_per_s']:8.0f} tokens/s\n"
        f"bare forward and backward{figures['bare_samples_per_s']:8.0f} samples/s\n"
        f"ratio                    {figures['ratio']:8.2f}\n",
        figures,
    )


if __name__ == "__main__":
    main()
