"""How fast the learner takes a step, against a bare forward, backward and AdamW of the same tokens.

    python bench/learner.py [--json]

Groups of 8 on the sort demo's model, in two shapes: the demo's own, 32 groups of 14 + 9 tokens,
and one whose prompts are as long as its completions, which go through the model once. Both sides
are measured in turns on the same machine, each with a model of its own; the figure to compare
across machines is the ratio. It is to be at least 1.5 for the second shape.

Then the peak memory of a process that takes one step on 4,096 tokens of a vocabulary of 151,936,
as large as Qwen3's: ours keeps no logits, and is to need a quarter of the bare one at most.
"""

import argparse
import random
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median

import torch
from measuring.report import report
from transformers import AutoModelForCausalLM, Qwen3Config, Qwen3ForCausalLM

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


@dataclass(frozen=True, slots=True)
class Shape:
    """Of a step: groups of 8, all of one length."""

    num_groups: int
    num_prompt_tokens: int
    num_completion_tokens: int

    @property
    def num_samples(self) -> int:
        return self.num_groups * NUM_GENERATIONS

    @property
    def num_tokens(self) -> int:
        """Of all samples, prompts counted for each."""
        return self.num_samples * (self.num_prompt_tokens + self.num_completion_tokens)


NUM_GENERATIONS = 8
SHAPES = {"sort demo": Shape(32, 14, 9), "long prompts": Shape(4, 128, 128)}
LARGE_VOCABULARY = 151_936
LARGE = Shape(2, 128, 128)
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
        assert result.metrics["num_sequences"] == len(groups) * NUM_GENERATIONS

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


def random_groups(shape: Shape, vocab_size: int) -> list[Group]:
    """Groups that all have a signal."""
    randomness = random.Random(0)

    def token_ids(num_tokens: int) -> list[int]:
        return [randomness.randrange(3, vocab_size) for _ in range(num_tokens)]

    def trajectory(reward: float) -> Trajectory:
        return Trajectory(
            token_bytes=pack_token_ids(token_ids(shape.num_completion_tokens)),
            logprob_bytes=pack_logprobs([-4.0] * shape.num_completion_tokens),
            version_spans=(VersionSpan(shape.num_completion_tokens, HEAD),),
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
            prompt_ids=tuple(token_ids(shape.num_prompt_tokens)),
            trajectories=tuple(trajectory(float(index % 2)) for index in range(NUM_GENERATIONS)),
        )
        for number in range(shape.num_groups)
    ]


def seconds_of(step: Callable[[], None]) -> float:
    """How long one step takes."""
    start_s = time.perf_counter()
    step()
    return time.perf_counter() - start_s


def measure_speed(shape: Shape) -> dict[str, float]:
    """Both speeds in samples per second, ours in tokens per second, and their ratio."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        save_model(folder, seed=0)
        groups = random_groups(shape, vocab_size=64)
        steps = (make_step(folder, groups), make_bare_step(folder, groups))
    turns = [tuple(map(seconds_of, steps)) for _ in range(NUM_WARM_UP_TURNS + NUM_TURNS)]
    ours_s, bare_s = map(median, zip(*turns[NUM_WARM_UP_TURNS:], strict=True))
    return {
        "samples_per_s": shape.num_samples / ours_s,
        "tokens_per_s": shape.num_tokens / ours_s,
        "bare_samples_per_s": shape.num_samples / bare_s,
        "ratio": bare_s / ours_s,
    }


def measure_peaks() -> dict[str, float]:
    """Largest resident bytes of a process that takes one step, ours and the bare one."""
    with tempfile.TemporaryDirectory() as name:
        save_large_model(Path(name))
        peaks = {
            side: int(
                subprocess.run(
                    [sys.executable, __file__, "--one-step", side, name],
                    check=True,
                    capture_output=True,
                    text=True,
                ).stdout.split()[-1]
            )
            for side in ONE_STEP
        }
    return {
        "peak_bytes": peaks["ours"],
        "bare_peak_bytes": peaks["bare"],
        "peak_share": peaks["ours"] / peaks["bare"],
    }


def save_large_model(folder: Path) -> None:
    """Small but for its vocabulary, so that the logits are what needs memory."""
    save_model(folder, seed=0)
    sizes = Qwen3Config.from_pretrained(folder).to_dict() | {"vocab_size": LARGE_VOCABULARY}
    Qwen3ForCausalLM(Qwen3Config.from_dict(sizes)).save_pretrained(folder)


ONE_STEP = {"ours": make_step, "bare": make_bare_step}


def take_one_step(side: str, folder: str) -> None:
    """Take a step in this process, and print the most that it needed."""
    ONE_STEP[side](Path(folder), random_groups(LARGE, LARGE_VOCABULARY))()
    sys.stdout.write(f"{resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024}\n")


def main() -> None:
    parser = argparse.ArgumentParser(description="Measure the learner's step.")
    parser.add_argument("--json", action="store_true", help="print one object, last")
    parser.add_argument("--one-step", nargs=2, metavar=("SIDE", "FOLDER"), help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.one_step:
        take_one_step(*arguments.one_step)
        return
    speeds = {name: measure_speed(shape) for name, shape in SHAPES.items()}
    memory = measure_peaks()
    lines = [
        f"{name:14}{one['samples_per_s']:8.0f} samples/s {one['tokens_per_s']:8.0f} tokens/s, "
        f"bare {one['bare_samples_per_s']:6.0f} samples/s, ratio {one['ratio']:.2f}"
        for name, one in speeds.items()
    ]
    lines.append(
        f"peak memory   {memory['peak_bytes'] / 2**30:8.2f} GiB, bare "
        f"{memory['bare_peak_bytes'] / 2**30:.2f} GiB, share {memory['peak_share']:.2f}"
    )
    report("\n".join(lines) + "\n", {**speeds, **memory, "threads": torch.get_num_threads()})


if __name__ == "__main__":
    main()
