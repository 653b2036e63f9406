"""The learner's part of a run that is over: its steps and publishes, and nothing to wait for."""

import json
import tempfile
import time
from pathlib import Path

import torch
from measuring.recorded_groups import steps_of

from volley.learner.policy import Policy
from volley.learner.settings import Settings, load_settings
from volley.learner.update import Update
from volley.learner.weight_store import WeightStore
from volley.schemas.codec import GroupLimits
from volley.schemas.groups import Group, Version


def repeat_steps(config: Path, run_folder: Path) -> float:
    """Samples a second of training again on the groups of a run; the weights come out the same."""
    torch.set_num_threads(1)
    settings = load_settings(config)
    policy = Policy.load(settings.model, "cpu")
    steps = steps_of(run_folder / "redis", settings, _limits(settings, policy, run_folder.name))
    with tempfile.TemporaryDirectory() as weights:
        store = WeightStore(Path(weights), run_folder.name, settings.weights.keep)
        samples_per_s = _train(steps, Update(policy, settings), policy, store)
    assert store.head is not None
    summary = json.loads((run_folder / "summary.json").read_text(encoding="utf-8"))
    assert store.head.root == summary["final_root"], "these are not the groups of that run"
    return samples_per_s


def _train(steps: list[list[Group]], update: Update, policy: Policy, store: WeightStore) -> float:
    start_s = time.perf_counter()
    for step, groups in enumerate(steps):
        update.step(groups, Version(1, step))
        store.publish(policy.published_tensors(), Version(1, step + 1))
    num_samples = sum(len(group.trajectories) for groups in steps for group in groups)
    return num_samples / (time.perf_counter() - start_s)


def _limits(settings: Settings, policy: Policy, run: str) -> GroupLimits:
    return GroupLimits(
        run=run,
        num_generations=settings.sampling.num_generations,
        max_completion_length=settings.sampling.max_completion_length,
        num_rewards=len(settings.reward.functions),
        vocab_size=policy.vocab_size,
        max_body_bytes=settings.queue.max_body_bytes,
    )
