"""How fast the engines sample, and what a swap of weights under way costs them.

    python bench/rollout.py [--json]

The sort demo's model and shape on one thread, 256 sequences at once: groups of 8 answers of 9
tokens each to a prompt of 14. Weights are swapped once per 256 samples, when what is running is
half done, which is where a swap falls on the average. Each engine has a process of its own, as
vLLM's settings belong to the process; the figure to compare across machines is the ratio to
transformers without swaps.
"""

import importlib.util
import os
import random
import sys
import tempfile
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import asdict, dataclass
from itertools import count, cycle
from multiprocessing import get_context
from pathlib import Path
from statistics import median

import torch
from measuring.report import report
from measuring.table import Comparison
from safetensors.torch import load_file

from volley.learner.tiny_model import CONTEXT_LENGTH, save_model
from volley.rollout.engine import Engine, SampleRequest
from volley.rollout.engine_transformers import TransformersEngine
from volley.rollout.settings import KvPolicy, VllmSettings
from volley.rollout.vllm_environment import set_process_variables
from volley.schemas.groups import Version
from volley.schemas.run_spec import SamplingSpec

NUM_GENERATIONS, NUM_PROMPT_TOKENS, NUM_COMPLETION_TOKENS = 8, 14, 9
# Without a stop token every answer has the length that nearly all have in the demo.
SAMPLING = SamplingSpec(NUM_GENERATIONS, 1.0, NUM_COMPLETION_TOKENS, ())
NUM_SEQS = 256
NUM_SWAPS = 6
NUM_SAMPLES = NUM_SWAPS * NUM_SEQS
TOKENS_PER_SWAP = NUM_SEQS * NUM_COMPLETION_TOKENS
NUM_TURNS, NUM_WARM_UP_TURNS = 5, 1

Weights = dict[str, torch.Tensor]


@dataclass(frozen=True, slots=True)
class Speed:
    """Medians over the turns of one engine, with or without swaps."""

    engine: str
    kv_policy: str | None
    swaps: bool
    samples_per_s: float
    tokens_per_s: float
    spread: float
    """(fastest - slowest turn) / median."""
    pause_ms: float | None
    """How long the engine stands still in a swap; what it recomputes afterwards comes on top."""


class Sampling:
    """An engine at work, kept as full as a worker keeps it."""

    def __init__(self, engine: Engine, model_folder: Path) -> None:
        self._engine = engine
        self._requests = random_requests()
        published = load_file(model_folder / "model.safetensors")
        other = {name: 1.01 * tensor for name, tensor in published.items()}
        self._weights = cycle((published, other))
        self._steps = count()
        self.swap()

    def swap(self) -> float:
        """The seconds that it took to load other weights."""
        start_s = time.perf_counter()
        self._engine.load(next(self._weights), Version(1, next(self._steps)))
        return time.perf_counter() - start_s

    def turn(self, *, swaps: bool) -> tuple[float, list[float]]:
        """The seconds that NUM_SAMPLES took, and those of each swap."""
        start_s = time.perf_counter()
        num_added = num_finished = num_tokens = 0
        pauses_s: list[float] = []
        while num_finished < NUM_SAMPLES:
            while num_added < NUM_SAMPLES and self._engine.num_free_seqs >= NUM_GENERATIONS:
                self._engine.add(next(self._requests))
                num_added += NUM_GENERATIONS
            result = self._engine.step()
            num_finished += NUM_GENERATIONS * len(result.finished)
            num_tokens += sum(result.num_tokens.values())
            if swaps and num_tokens > (len(pauses_s) + 0.5) * TOKENS_PER_SWAP:
                pauses_s.append(self.swap())
        assert num_tokens == NUM_SAMPLES * NUM_COMPLETION_TOKENS
        return time.perf_counter() - start_s, pauses_s


def random_requests() -> Iterator[SampleRequest]:
    """Different prompts for ever."""
    randomness = random.Random(0)
    for number in count():
        prompt_ids = tuple(randomness.randrange(3, 64) for _ in range(NUM_PROMPT_TOKENS))
        yield SampleRequest(str(number), prompt_ids, number, SAMPLING)


def make_engine(name: str, kv_policy: KvPolicy | None, model_folder: Path) -> Engine:
    """The engine, without weights."""
    if kv_policy is None:
        return TransformersEngine(model_folder, "float32", "cpu", NUM_SEQS, CONTEXT_LENGTH)
    set_process_variables("cpu", num_threads=1, tensor_parallel_size=1)
    # Here, as vLLM reads the variables when it is imported.
    from volley.rollout.engine_vllm import VllmEngine

    settings = VllmSettings(kv_policy=kv_policy)
    return VllmEngine(model_folder, "float32", "cpu", NUM_SEQS, CONTEXT_LENGTH, settings)


def measure(name: str, kv_policy: KvPolicy | None, model_folder: Path) -> list[Speed]:
    """One engine's speeds without swaps and with them, taken in turns."""
    torch.set_num_threads(1)
    engine = make_engine(name, kv_policy, model_folder)
    sampling = Sampling(engine, model_folder)
    turns = [
        (sampling.turn(swaps=False), sampling.turn(swaps=True))
        for _ in range(NUM_WARM_UP_TURNS + NUM_TURNS)
    ]
    engine.close()
    return [
        speed_of(name, kv_policy, timings)
        for timings in zip(*turns[NUM_WARM_UP_TURNS:], strict=True)
    ]


def speed_of(
    name: str, kv_policy: KvPolicy | None, timings: tuple[tuple[float, list[float]], ...]
) -> Speed:
    """The speed that the turns amount to."""
    seconds = [turn_s for turn_s, _ in timings]
    pauses_s = [pause_s for _, pauses_s in timings for pause_s in pauses_s]
    turn_s = median(seconds)
    return Speed(
        engine=name,
        kv_policy=kv_policy,
        swaps=bool(pauses_s),
        samples_per_s=NUM_SAMPLES / turn_s,
        tokens_per_s=NUM_SAMPLES * NUM_COMPLETION_TOKENS / turn_s,
        spread=(max(seconds) - min(seconds)) / turn_s,
        pause_ms=1e3 * median(pauses_s) if pauses_s else None,
    )


def measure_alone(name: str, kv_policy: KvPolicy | None, model_folder: Path) -> list[Speed]:
    """`measure`, in a process of its own."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as process:
        return process.submit(measure, name, kv_policy, model_folder).result()


def main() -> None:
    os.environ["OMP_NUM_THREADS"] = "1"
    kinds: list[tuple[str, KvPolicy | None]] = [("transformers", None)]
    if importlib.util.find_spec("vllm"):
        kinds += [("vllm", policy) for policy in KvPolicy]
    else:
        sys.stdout.write("vLLM is not installed: transformers is measured alone\n")
    with tempfile.TemporaryDirectory() as name:
        model_folder = Path(name)
        save_model(model_folder, seed=0)
        speeds = [speed for kind in kinds for speed in measure_alone(*kind, model_folder)]
    reference = speeds[0]
    report(
        [
            Comparison(
                name_of(speed),
                "samples/s",
                speed.samples_per_s,
                name_of(reference),
                reference.samples_per_s,
            )
            for speed in speeds[1:]
        ],
        {"speeds": [asdict(speed) for speed in speeds]},
    )


def name_of(speed: Speed) -> str:
    """Of the engine and how its weights change, in the table."""
    keys = f", {speed.kv_policy} keys" if speed.kv_policy else ""
    if speed.pause_ms is None:
        return f"{speed.engine}{keys}, no swaps"
    return f"{speed.engine}{keys}, a swap per {NUM_SEQS} ({speed.pause_ms:.1f} ms)"


if __name__ == "__main__":
    main()
