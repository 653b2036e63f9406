"""`volley learner`, except that nothing of what it does is on any disk: the price of durability.

    python bench/measuring/forgetful_learner.py CONFIG --run-folder FOLDER

No step log, no outcomes, no checkpoints, no mark of the micro-batch in training.
"""

from collections.abc import Collection, Mapping, Sequence

import torch
import typer

from volley.learner import assembly
from volley.learner.__main__ import learner
from volley.learner.history import History, Reached
from volley.learner.identity import Fingerprints
from volley.learner.keeping_settings import CheckpointSettings
from volley.learner.ledger import Changes, LedgerState
from volley.learner.mark import Mark
from volley.learner.run_folder import RunFolder
from volley.learner.step_log import Outcome, Place
from volley.learner.update import StepResult
from volley.schemas.groups import SCHEMA_VERSION, Group, Version


class NoMark(Mark):
    """Names nothing."""

    def name(self, place: Place, numbers: Collection[int]) -> None:
        pass


class Forgetful(History):
    """Goes from place to place without leaving a trace."""

    def __init__(
        self, folder: RunFolder, settings: CheckpointSettings, fingerprints: Fingerprints
    ) -> None:
        super().__init__(folder, settings, fingerprints)
        self.mark = NoMark(folder.trajectories / "never")

    def append(
        self, groups: Sequence[Group], head: Version, changes: Changes, ledger: LedgerState
    ) -> None:
        pass

    def conclude(self, result: StepResult, version: Version, root: str) -> Outcome:
        self.go_on_from(self.place.after(result.applied))
        return Outcome(
            SCHEMA_VERSION,
            *(result.applied, None, version, root),
            *(result.dispositions, result.set_aside, result.metrics),
        )

    def save(self, reached: Reached, tensors: Mapping[str, torch.Tensor]) -> None:
        self.restored(self.place)


if __name__ == "__main__":
    # Here rather than by a setting: nobody who trains should have it.
    assembly.History = Forgetful
    app = typer.Typer(add_completion=False)
    app.command()(learner)
    app()
