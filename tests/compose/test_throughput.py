"""Workers add up: where a group takes a second to reward, four of them do the work of four."""

import time
from pathlib import Path

import pytest

from tests.compose.stack import Stack, stack
from tests.compose.story import Story
from tests.processes import CONFIG, write_run

pytestmark = pytest.mark.e2e

# An environment that is slow and costs nothing, as a sandbox elsewhere would.
SLOW_REWARDS = """
import asyncio

async def variety(prompts, completions, **columns):
    await asyncio.sleep(1.0)
    return [float(len(set(text))) for text in completions]
"""

# So many places that no worker waits for another's share of the work.
ENDLESS_CONFIG = (
    CONFIG.replace("steps = 3", "steps = 100000")
    .replace("groups_per_step = 4", "groups_per_step = 8")
    .replace("learning_rate = 1e-3", "learning_rate = 1e-6")
    .replace("lease_s = 2.0", "max_staleness = 5")
)
NUM_GENERATIONS = 4
STEPS_PER_WORKER = 2
"""Taken twice: until little is left of what one worker had leased for itself, and to measure."""
LEAST_RATIO = 2.5


def test_four_workers_bring_more_than_twice_the_samples_of_one(project, tmp_path: Path, story):
    folder = tmp_path / "project"
    folder.mkdir()
    write_run(folder, ENDLESS_CONFIG, SLOW_REWARDS)
    # Weights are written for their owner alone, and the containers have a user of their own.
    (folder / "model" / "model.safetensors").chmod(0o644)
    options = f"--max-num-seqs {NUM_GENERATIONS}"
    with stack(project, VOLLEY_PROJECT=str(folder), VOLLEY_ROLLOUT_OPTIONS=options) as slow:
        one, four = (samples_per_s(slow, story, num_workers) for num_workers in (1, 4))
    story.tell(f"a second per group: 4 workers / 1 worker = {four / one:.2f}")
    assert four > LEAST_RATIO * one


def samples_per_s(stack: Stack, story: Story, num_workers: int) -> float:
    """Of that many workers, all of them busy."""
    stack.compose("up", "--detach", "--no-build", "--scale", f"rollout={num_workers}")
    stack.wait_for_workers(lambda workers: len(workers) == num_workers)
    num_steps = STEPS_PER_WORKER * num_workers
    before, started = stack.wait_for_steps(num_steps), time.monotonic()
    after = stack.wait_for_steps(num_steps)
    seconds = time.monotonic() - started
    rate = (after.num_samples - before.num_samples) / seconds
    steps = before.version.step, after.version.step
    story.tell(f"a second per group: {rate:.1f} samples/s", seconds, *steps, num_workers)
    return rate
