"""A cold start: supervised fine-tuning that gives GRPO something to reward.

GRPO learns from differences between answers, so a model that never succeeds has to see a few
successes first. Killed at any point it goes on from its last checkpoint, and ends with the same
weights as if nothing had happened.
"""

import gc
import logging
import math
import threading
from collections.abc import Callable, Sequence
from contextlib import closing
from pathlib import Path

import torch

from volley.learner.checkpoint import START, Checkpoints, CheckpointState
from volley.learner.cold_start_folder import ANOTHER, ColdStartFolder, ColdStartLine
from volley.learner.cold_start_settings import ColdStartSettings
from volley.learner.demonstrations import read_demonstrations
from volley.learner.ledger import LedgerState
from volley.learner.policy import Policy, Schema
from volley.learner.settings import Settings
from volley.learner.supervised import FineTuning, FineTuningRules
from volley.learner.weight_store import root_of_tensors
from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.telemetry.failpoints import reach
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes

logger = logging.getLogger(__name__)

MAY_CHANGE = {"data", "save_steps"}
"""Keys of [cold_start] that its outcome does not depend on; what the data holds is hashed."""

Tell = Callable[[ColdStartLine, int], None]
"""Hears of every step, and of how many there are to be."""


def start_cold(
    settings: Settings,
    path: Path,
    stopping: threading.Event,
    tell: Tell,
    tools: Sequence[Schema] = (),
) -> bool:
    """Take the steps that are left of the cold start in this folder, which ends with the model.

    Chats show it the `tools`. False when told to stop before the end. Raises Stop.
    """
    folder = ColdStartFolder(path)
    with closing(folder), folder.naming_what_fails():
        folder.check(_frozen(settings))
        if not folder.is_done and not _train(settings, folder, stopping, tell, tools):
            return False
        folder.forget_checkpoints()
    # Model and optimiser hang in reference cycles, and what comes next needs their memory.
    gc.collect()
    return True


def _train(
    settings: Settings,
    folder: ColdStartFolder,
    stopping: threading.Event,
    tell: Tell,
    tools: Sequence[Schema],
) -> bool:
    section = _section_of(settings)
    torch.set_num_threads(settings.devices.threads)
    policy = Policy.load(settings.model, settings.devices.learner, tools)
    demonstrations = read_demonstrations(section.data, policy)
    folder.begin(
        {
            **_frozen(settings),
            "the hash of cold_start.data": hash_bytes(section.data.read_bytes()),
            "the root of model.path": root_of_tensors(policy.published_tensors()),
        }
    )
    num_steps = section.num_steps(len(demonstrations))
    tuning = FineTuning(policy, demonstrations, _rules_of(settings, num_steps))
    checkpoints = folder.checkpoints()
    first = _restore(tuning, checkpoints)
    folder.go_on_from(first)
    for step in range(first, num_steps):
        if stopping.is_set():
            _save(tuning, step, checkpoints)
            return False
        line = _step(tuning, step)
        folder.append(line)
        tell(line, num_steps)
        reach("after-cold-start-step")
        if line.step % section.save_steps == 0:
            _save(tuning, line.step, checkpoints)
    folder.finish(policy.save_pretrained)
    return True


def _section_of(settings: Settings) -> ColdStartSettings:
    if settings.cold_start is None:
        raise Stop(
            ExitCode.CONFIG,
            "the config has no [cold_start]: give it one, with data = 'demonstrations.jsonl'",
        )
    return settings.cold_start


def _frozen(settings: Settings) -> dict[str, object]:
    """The settings that the outcome depends on, by key, as JSON has them."""
    section = _section_of(settings).model_dump(mode="json", exclude=MAY_CHANGE)
    return {
        **{f"cold_start.{key}": value for key, value in section.items()},
        "model.dtype": settings.model.dtype,
        "run.seed": settings.run.seed,
    }


def _rules_of(settings: Settings, num_steps: int) -> FineTuningRules:
    section = _section_of(settings)
    return FineTuningRules(
        num_steps=num_steps,
        learning_rate=section.learning_rate,
        batch_size=section.batch_size,
        warmup_steps=section.warmup_steps,
        seed=settings.run.seed,
        weight_decay=section.weight_decay,
        max_grad_norm=section.max_grad_norm,
        micro_batch_tokens=settings.optim.micro_batch_tokens,
    )


def _step(tuning: FineTuning, step: int) -> ColdStartLine:
    """Take step 0, 1, ...; raises Stop if it has spoilt the weights."""
    result = tuning.step(step)
    if not (math.isfinite(result.loss) and math.isfinite(result.grad_norm)):
        raise Stop(
            ExitCode.DIVERGED,
            f"loss or gradient was not finite in step {step + 1} of the cold start: lower "
            f"cold_start.learning_rate and {ANOTHER}",
        )
    return ColdStartLine(
        step + 1, result.loss, result.learning_rate, result.grad_norm, result.num_tokens
    )


def _restore(tuning: FineTuning, checkpoints: Checkpoints) -> int:
    """Be where the newest checkpoint was saved; returns how many steps had been taken by then."""
    checkpoint = next(checkpoints.valid(), None)
    if checkpoint is None:
        return 0
    tuning.restore(checkpoint.tensors())
    step = checkpoint.state.version.step
    logger.info("the cold start goes on", extra={"step": step})
    return step


def _save(tuning: FineTuning, step: int, checkpoints: Checkpoints) -> None:
    """Snapshot weights and optimiser after `step` steps."""
    state = CheckpointState(
        schema_version=SCHEMA_VERSION,
        run="cold start",
        version=Version(0, step),
        place=START,
        root="",
        ledger=LedgerState(),
        closed={},
        config_hash="",
        num_samples=0,
        num_tokens=0,
        rng_state=b"",
    )
    checkpoints.save(state, tuning.tensors())
    checkpoints.prune()
