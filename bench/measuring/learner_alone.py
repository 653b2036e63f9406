"""The learner's part of a run that is over: its steps and publishes, and nothing to wait for."""

import json
import tempfile
import time
from pathlib import Path

import torch
from measuring.recorded_groups import steps_of

from volley.learner.past_run import open_run
from volley.learner.policy import Policy
from volley.learner.run_spec import group_limits
from volley.learner.settings import load_settings
from volley.learner.update import Update
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import Group, Version


def repeat_steps(config: Path, run_folder: Path) -> float:
    """Samples a second of training again on the groups of a run; the weights come out the same."""
    torch.set_num_threads(1)
    settings = load_settings(config)
    policy = Policy.load(settings.model, "cpu")
    with open_run(run_folder) as run:
        steps = steps_of(run, group_limits(settings, policy.vocab_size, run.folder.run))
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
