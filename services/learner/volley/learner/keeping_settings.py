"""The [weights] and [checkpoint] sections: what a run keeps, and for how long."""

from typing import Annotated

from pydantic import Field

from volley.learner.section import PositiveFloat, PositiveInt, Section


class WeightsSettings(Section):
    keep: Annotated[int, Field(ge=2)] = 2
    """Published versions whose bytes stay on disk; more while they are being downloaded."""


class CheckpointSettings(Section):
    every_steps: PositiveInt = 50
    every_s: PositiveFloat = 600.0
    """Seconds after which a checkpoint is due, however few the steps since the last one."""
    keep: Annotated[int, Field(ge=2)] = 2
    """Newest checkpoints that stay, with the step log from the oldest of them on."""
    keep_all_steps: bool = False
    """Keep the whole step log, so that every group of the run can be looked at and replayed."""
    min_free_bytes: Annotated[int, Field(ge=0)] = 2**30
    """Free disk space below which no new prompts are issued."""
