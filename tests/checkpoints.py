"""Checkpoints for tests: the step says enough, the rest is filled in."""

import torch

from tests.builders import RUN
from volley.learner.checkpoint import CheckpointState
from volley.learner.ledger import Attempts, Disposition, LedgerState
from volley.learner.step_log import Place
from volley.schemas.groups import SCHEMA_VERSION, Version


def make_state(step: int, attempt: int = 0, epoch: int = 1) -> CheckpointState:
    """Of a run that has reached this step, and logs attempt `attempt` at the next one next."""
    return CheckpointState(
        schema_version=SCHEMA_VERSION,
        run=RUN,
        version=Version(epoch, step),
        place=Place(step + 1, attempt),
        root="f00d",
        ledger=LedgerState(next_number=3, open={2: Attempts(1, 1)}),
        closed={1: Disposition.SKIPPED},
        config_hash="c",
        num_samples=24,
        num_tokens=240,
        rng_state=torch.get_rng_state().numpy().tobytes(),
    )
