"""How fast the learner takes a step and what memory it needs for it, against a plain step.

    python bench/learner.py [--json]

The plain step is what transformers and torch do with the same tokens as one padded batch: forward,
cross entropy of the completions, backward, clip, AdamW. Speed is measured in turns, each side with
a model of its own; memory as the peak of a process of its own that takes one step. The figures to
compare across machines are the ratios.
"""

import resource
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from measuring.report import report
from measuring.steps import Shape, make_plain_step, make_step, save_model
from measuring.table import Comparison

SPEED_SHAPES = (
    Shape("sort demo", 32, 14, 9, vocab_size=64, hidden_size=128, num_layers=2),
    Shape("short prompts", 4, 32, 224, vocab_size=4096, hidden_size=256, num_layers=4),
    Shape("prompts as long", 2, 128, 128, vocab_size=4096, hidden_size=256, num_layers=4),
    Shape("long prompts", 1, 448, 64, vocab_size=4096, hidden_size=256, num_layers=4),
)
# 4,096 tokens, half of them in completions.
MEMORY_SHAPE = Shape("large vocabulary", 1, 256, 256, 151_936, hidden_size=64, num_layers=1)
NUM_TURNS, NUM_WARM_UP_TURNS = 10, 2
KIB = 1024

Maker = Callable[[Shape, Path], Callable[[], None]]
SIDES: dict[str, Maker] = {"learner": make_step, "plain": make_plain_step}


def measure_speed(shape: Shape) -> Comparison:
    """Medians of both sides."""
    with tempfile.TemporaryDirectory() as name:
        save_model(shape, Path(name))
        steps = [make(shape, Path(name)) for make in SIDES.values()]
    turns = [tuple(map(seconds_of, steps)) for _ in range(NUM_WARM_UP_TURNS + NUM_TURNS)]
    learner_s, plain_s = map(median, zip(*turns[NUM_WARM_UP_TURNS:], strict=True))
    tokens_per_s, plain_tokens_per_s = shape.num_tokens / learner_s, shape.num_tokens / plain_s
    return Comparison(
        f"a step, {shape.name}", "tokens/s", tokens_per_s, "a plain step", plain_tokens_per_s
    )


def seconds_of(step: Callable[[], None]) -> float:
    """How long one step takes."""
    start_s = time.perf_counter()
    step()
    return time.perf_counter() - start_s


def measure_memory(shape: Shape) -> Comparison:
    """Peaks of both sides, interpreter and libraries included."""
    with tempfile.TemporaryDirectory() as name:
        save_model(shape, Path(name))
        peaks = {side: in_own_process(peak_bytes, side, shape, name) for side in SIDES}
    return Comparison(
        f"memory of a step, {shape.name}",
        "MB",
        peaks["learner"] / 1e6,
        "a plain step",
        peaks["plain"] / 1e6,
    )


def in_own_process(function: Callable[..., int], *arguments: object) -> int:
    """What the function returns in a process that has done nothing before."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(function, *arguments).result()


def peak_bytes(side: str, shape: Shape, folder: str) -> int:
    """The most memory that this process has needed for one step."""
    torch.set_num_threads(1)
    SIDES[side](shape, Path(folder))()
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * KIB


def main() -> None:
    torch.set_num_threads(1)
    # First, for a child's peak begins with what its parent has.
    memory = measure_memory(MEMORY_SHAPE)
    speeds = [measure_speed(shape) for shape in SPEED_SHAPES]
    report(
        [*speeds, memory],
        {"shapes": [asdict(shape) for shape in (*SPEED_SHAPES, MEMORY_SHAPE)]},
    )


if __name__ == "__main__":
    main()
