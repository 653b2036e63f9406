"""Logged steps taken again: the same groups on the same weights lead to the same weights.

Every step is taken under the settings that it was logged with, or under those that the caller
puts in their place.
"""

from collections.abc import Callable, Collection, Sequence
from pathlib import Path

import torch

from volley.learner.checkpoint import Checkpoint
from volley.learner.policy import Policy
from volley.learner.settings import Settings, load_settings
from volley.learner.step_log import StepRecord
from volley.learner.update import StepResult, Update, unnoted
from volley.learner.weight_store import root_of_tensors
from volley.schemas.codec import GroupLimits, decode_result
from volley.schemas.groups import Group
from volley.telemetry.stops import ExitCode, Stop


class Replay:
    """A policy with its optimiser, on which logged steps are taken."""

    def __init__(
        self,
        policy: Policy,
        update: Update,
        limits: GroupLimits,
        settings_of: Callable[[str], Settings],
    ) -> None:
        self._policy = policy
        self._update = update
        self._limits = limits
        self._settings_of = settings_of
        self._config_hash = ""
        self._has_other_settings = False

    def restore(self, checkpoint: Checkpoint) -> None:
        """Be where the checkpoint was saved; raises Stop if it belongs to another model."""
        try:
            self._update.restore(checkpoint.tensors())
        except ValueError as error:
            raise Stop(
                ExitCode.CONFIG,
                f"model.path: checkpoint {checkpoint.path} belongs to another model: {error}",
            ) from error
        state = torch.frombuffer(bytearray(checkpoint.state.rng_state), dtype=torch.uint8)
        torch.set_rng_state(state)

    def groups(self, record: StepRecord) -> list[Group]:
        """What was collected for a step."""
        results = [decode_result(body, self._limits) for body in record.groups]
        return [result for result in results if isinstance(result, Group)]

    def take(
        self,
        record: StepRecord,
        groups: Sequence[Group],
        set_aside: Collection[int],
        before_batch: Callable[[Collection[int]], None] = unnoted,
    ) -> StepResult:
        """Train on the groups of a record; see Update.step."""
        if record.config_hash != self._config_hash and not self._has_other_settings:
            self._update.adopt(self._settings_of(record.config_hash))
            self._config_hash = record.config_hash
        return self._update.step(groups, record.head, set_aside, before_batch)

    def adopt(self, settings: Settings) -> None:
        """Take the next steps under these settings instead of the recorded ones."""
        self._update.adopt(settings)
        self._has_other_settings = True

    def root(self) -> str:
        """Of the weights at hand."""
        return root_of_tensors(self._policy.published_tensors())


def recorded_settings(config: Path, here: Settings) -> Settings:
    """The settings in a config that a run has kept, with the model where it lies now."""
    # Of the environment nothing counts: this is about what was, not about what is wanted.
    recorded = load_settings(config, environment={})
    return recorded.model_copy(update={"model": here.model})
