"""A run folder that nobody works on, opened to be looked at and replayed."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import torch

from volley.learner.checkpoint import Checkpoint, Checkpoints
from volley.learner.history import FIRST_PLACE
from volley.learner.policy import Policy
from volley.learner.replay import Replay
from volley.learner.run_folder import RunFolder, after_cold_start
from volley.learner.run_spec import group_limits
from volley.learner.settings import Settings, load_settings
from volley.learner.step_log import Place, StepLog
from volley.learner.update import Update
from volley.telemetry.stops import ExitCode, Stop


class PastRun:
    """What a run has left, and a policy to take its steps on again."""

    def __init__(self, folder: RunFolder) -> None:
        self.folder = folder
        self.log = StepLog(folder.trajectories)
        self._settings = self.settings_of("")
        self.checkpoints = [
            *Checkpoints(folder.checkpoints, self._settings.checkpoint.keep).valid()
        ]
        """Whole ones, the newest first."""

    def settings_of(self, config_hash: str, overrides: Sequence[str] = ()) -> Settings:
        """The settings that had this hash (those of the last start, if empty), and overrides."""
        name = self.folder.config(config_hash) if config_hash else self.folder.path / "config.toml"
        return after_cold_start(load_settings(name, overrides, environment={}), self.folder.path)

    def replay(self) -> Replay:
        """A policy at the run's very start, for its steps."""
        torch.set_num_threads(self._settings.devices.threads)
        policy = Policy.load(self._settings.model, self._settings.devices.learner)
        limits = group_limits(self._settings, policy.vocab_size, self.folder.run)
        return Replay(policy, Update(policy, self._settings), limits, self.settings_of)

    def snapshot_before(self, step: int) -> Checkpoint | None:
        """The newest checkpoint at or before `step`; None for the model that the run began with.

        Raises Stop where the steps between the two are gone.
        """
        for checkpoint in self.checkpoints:
            if checkpoint.state.version.step <= step:
                return checkpoint
        if FIRST_PLACE in self.log.places():
            return None
        raise Stop(
            ExitCode.CONFIG,
            f"the steps of {self.folder.path} up to {self.oldest_step} are gone: begin at step "
            f"{self.oldest_step + 1}, or keep all of the next run with "
            "checkpoint.keep_all_steps = true",
        )

    @property
    def oldest_step(self) -> int:
        """From which on everything can be replayed."""
        if FIRST_PLACE in self.log.places() or not self.checkpoints:
            return 0
        return self.checkpoints[-1].state.version.step

    def oldest_kept(self, *, from_start: bool = False) -> Checkpoint | None:
        """Where a replay of all that can be replayed begins; None for the run's very start."""
        if from_start:
            return self.snapshot_before(0)
        return self.checkpoints[-1] if self.checkpoints else None

    def places(self, start: Checkpoint | None, to_step: int | None) -> list[Place]:
        """Of the logged steps from a snapshot on, up to version step `to_step`."""
        first = FIRST_PLACE if start is None else start.state.place
        return [
            place
            for place in self.log.places()
            if place >= first and (to_step is None or place.step <= to_step)
        ]


@contextmanager
def open_run(path: Path) -> Iterator[PastRun]:
    """The run of a folder, which no learner can begin to work on while inside; raises Stop."""
    if not (path / "run.json").exists():
        raise Stop(
            ExitCode.CONFIG, f"RUN_DIR {path} holds no run: give a folder like runs/<name>-<time>"
        )
    folder = RunFolder(path)
    try:
        yield PastRun(folder)
    finally:
        folder.close()
