"""The folder that a demo's run starts from.

untrained/              a tiny model that knows nothing
demonstrations.jsonl    prompt and completion, for the cold start
train.jsonl             prompt and answer, for GRPO
held_out.jsonl          prompt and answer, for the evaluations
start/                  the model after the cold start, which GRPO starts from
config.toml             of the GRPO run; written last, so where it is, all is
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Literal

from volley.learner.demonstrations import read_demonstrations
from volley.learner.policy import Policy
from volley.learner.settings import ModelSettings
from volley.learner.supervised import FineTuningRules, fine_tune
from volley.learner.tiny_model import save_model

Engine = Literal["auto", "transformers", "vllm"]

MICRO_BATCH_TOKENS = 1024
"""Of the cold start: short sequences are not padded to the length of long ones."""

CONFIG = """\
# The {name} demo's run; change it as you like, then `volley run` it.
[run]
name = "{name}"
steps = {steps}
seed = {seed}
[model]
path = "./start"              # after the cold start
dtype = "float32"
{task}\
[loss]
loss_type = "dapo"
beta = 0.0
epsilon = 0.2
epsilon_high = 0.28
[optim]
groups_per_step = 32
learning_rate = 5e-4
lr_scheduler_type = "linear"
min_lr_rate = 0.1
warmup_steps = 20
micro_batch_tokens = 2048     # small batches stay in a CPU's cache
[devices]
learner = "cpu"
rollout = ["cpu"]
engine = "{engine}"
[logging]
sample_every = 50
"""


def config_of(name: str, task: str, steps: int, engine: Engine, seed: int) -> str:
    """The run's TOML; `task` are the sections that another task has otherwise."""
    return CONFIG.format(name=name, task=task, steps=steps, engine=engine, seed=seed)


def write_rows(folder: Path, files: Mapping[str, Iterable[object]]) -> None:
    """Write data files by their names without `.jsonl`, one JSON object a line."""
    folder.mkdir(parents=True, exist_ok=True)
    for name, rows in files.items():
        lines = "".join(json.dumps(row) + "\n" for row in rows)
        (folder / f"{name}.jsonl").write_text(lines, encoding="utf-8")


def write_task(folder: Path, config: str, cold_start_steps: int, seed: int) -> None:
    """Beside the data, write the models before and after the cold start, and the config."""
    save_model(folder / "untrained", seed)
    policy = Policy.load(ModelSettings(path=str(folder / "untrained"), dtype="float32"), "cpu")
    demonstrations = read_demonstrations(folder / "demonstrations.jsonl", policy)
    rules = FineTuningRules(
        num_steps=cold_start_steps,
        learning_rate=1e-3,
        batch_size=64,
        warmup_steps=50,
        seed=seed,
        micro_batch_tokens=MICRO_BATCH_TOKENS,
    )
    for _ in fine_tune(policy, demonstrations, rules):
        pass
    policy.save_pretrained(folder / "start")
    (folder / "config.toml").write_text(config, encoding="utf-8")
