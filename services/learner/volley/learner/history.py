"""What a run has done, on the learner's disk, in the order in which it may be believed.

    log (groups, fsynced) -> drop from Redis -> train -> conclude (outcome, fsynced) -> announce

A group that is logged needs Redis no more; a step that is concluded is never trained anew under
other weights. A checkpoint is a snapshot between two steps, from which the log goes on.
"""

import logging
import time
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import torch

from volley.learner.checkpoint import Checkpoints, CheckpointState
from volley.learner.identity import Fingerprints
from volley.learner.keeping_settings import CheckpointSettings
from volley.learner.ledger import Changes, Disposition, Ledger, LedgerState
from volley.learner.mark import Mark
from volley.learner.run_folder import RunFolder
from volley.learner.step_log import Outcome, Place, StepLog, StepRecord
from volley.learner.update import StepResult
from volley.schemas.codec import encode
from volley.schemas.groups import SCHEMA_VERSION, Group, Version

logger = logging.getLogger(__name__)

FIRST_PLACE = Place(1, 0)
NOTHING_ISSUED = LedgerState()


@dataclass(slots=True)
class Reached:
    """How far a run has come: what a checkpoint says, and the log carries on."""

    version: Version
    root: str
    place: Place = FIRST_PLACE
    ledger: LedgerState = NOTHING_ISSUED
    closed: dict[int, Disposition] = field(default_factory=dict)
    """Numbers that got their state after the last logged step."""
    reopened: frozenset[int] = frozenset()
    """Numbers that a person asked for, and that the last logged step opened again."""
    num_samples: int = 0
    num_tokens: int = 0

    def follow(self, record: StepRecord, outcome: Outcome, groups: Sequence[Group]) -> None:
        """Take in one more step."""
        ledger = Ledger.of(record.ledger)
        ledger.close(outcome.dispositions)
        self.ledger, self.closed = ledger.state(), {}
        self.reopened = frozenset(record.reopened)
        self.version, self.root = outcome.version, outcome.root
        self.place = record.place.after(outcome.applied)
        if outcome.applied:
            self.num_samples += sum(len(group.trajectories) for group in groups)
            self.num_tokens += sum(one.num_tokens for group in groups for one in group.trajectories)


class History:
    """Writes the step log and the checkpoints of one run, from one place of it on."""

    def __init__(
        self, folder: RunFolder, settings: CheckpointSettings, fingerprints: Fingerprints
    ) -> None:
        self.log = StepLog(folder.trajectories)
        self.checkpoints = Checkpoints(folder.checkpoints, settings.keep)
        self.mark = Mark(folder.trajectories / "training.json")
        self._run = folder.run
        self._settings = settings
        self._fingerprints = fingerprints
        self._place = self._saved_place = FIRST_PLACE
        self._saved_s = time.monotonic()

    @property
    def place(self) -> Place:
        """Where the next step is logged."""
        return self._place

    @property
    def has_unsaved(self) -> bool:
        """Steps were taken since the last checkpoint."""
        return self._place > self._saved_place

    def restored(self, place: Place) -> None:
        """A checkpoint was loaded, from which the log goes on at `place`."""
        self._place = self._saved_place = place

    def go_on_from(self, place: Place) -> None:
        """The next step is logged or concluded at `place`."""
        self._place = place

    def append(
        self,
        groups: Sequence[Group],
        head: Version,
        changes: Changes,
        ledger: LedgerState,
    ) -> None:
        """Put groups on the disk before they are trained; raises OSError, and nothing is there."""
        self.log.append(
            StepRecord(
                schema_version=SCHEMA_VERSION,
                run=self._run,
                place=self._place,
                head=head,
                config_hash=self._fingerprints.config,
                code_hash=self._fingerprints.code,
                data_hash=self._fingerprints.data,
                closed=changes.closed,
                reopened=changes.reopened,
                ledger=ledger,
                groups=tuple(map(encode, groups)),
            )
        )

    def conclude(self, result: StepResult, version: Version, root: str) -> Outcome:
        """Put on the disk what became of the step; raises OSError, and nothing is there."""
        outcome = Outcome(
            schema_version=SCHEMA_VERSION,
            applied=result.applied,
            reason="loss or gradient was not finite" if result.refused else None,
            version=version,
            root=root,
            dispositions=result.dispositions,
            set_aside=result.set_aside,
            metrics=result.metrics,
        )
        self.log.conclude(self._place, outcome)
        self._place = self._place.after(result.applied)
        self.mark.clear()
        return outcome

    def is_save_due(self) -> bool:
        """Whether enough steps or seconds have gone by since the last checkpoint."""
        num_steps = self._place.step - self._saved_place.step
        waited_s = time.monotonic() - self._saved_s
        return num_steps >= self._settings.every_steps or (
            self.has_unsaved and waited_s >= self._settings.every_s
        )

    def save(self, reached: Reached, tensors: Mapping[str, torch.Tensor]) -> None:
        """Write a checkpoint; where the disk is full, say so and keep the ones there are."""
        try:
            self.checkpoints.save(
                CheckpointState(
                    schema_version=SCHEMA_VERSION,
                    run=self._run,
                    version=reached.version,
                    place=reached.place,
                    root=reached.root,
                    ledger=reached.ledger,
                    closed=reached.closed,
                    config_hash=self._fingerprints.config,
                    num_samples=reached.num_samples,
                    num_tokens=reached.num_tokens,
                    rng_state=torch.get_rng_state().numpy().tobytes(),
                ),
                tensors,
            )
        except OSError as error:
            logger.warning("could not save a checkpoint: %s; the last one stays", error)
            return
        self._saved_place, self._saved_s = self._place, time.monotonic()
        oldest = self.checkpoints.prune()
        if not self._settings.keep_all_steps:
            self.log.prune(oldest)
