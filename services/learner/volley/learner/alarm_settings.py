"""The [alarms] section: from which values on a person is told."""

from typing import Annotated, Literal

from pydantic import Field

from volley.learner.section import PositiveInt, Section

AlarmName = Literal[
    "kl", "mismatch", "samples", "corrected", "entropy", "ratio", "no_signal", "reward"
]


class AlarmsSettings(Section):
    """What a run that goes wrong looks like; a limit of 0 turns its alarm off."""

    patience: PositiveInt = 10
    """Steps in a row that are over a limit before its alarm is raised, and raised again."""
    max_kl: Annotated[float, Field(ge=0)] = 0.2
    """Nats per token between the learner's policy and the one that sampled."""
    max_mismatch_kl: Annotated[float, Field(ge=0)] = 0.05
    """The same where both have the same weights, so that only engine and learner differ."""
    min_effective_sample_share: Annotated[float, Field(ge=0, lt=1)] = 0.1
    """Of a step's tokens, as many as their importance weights are worth."""
    max_corrected_share: Annotated[float, Field(ge=0, lt=1)] = 0.5
    """Share of a step's tokens that are truncated or masked for being off-policy."""
    min_entropy_share: Annotated[float, Field(ge=0, lt=1)] = 0.02
    """Of the first step's entropy."""
    max_ratio: Annotated[float, Field(ge=0)] = 100.0
    """Greatest ratio of any token in a step."""
    max_no_signal_share: Annotated[float, Field(ge=0, lt=1)] = 0.97
    """Share of a step's groups whose rewards are all equal."""
    max_reward_drop: Annotated[float, Field(ge=0)] = 0.5
    """Share of its best value that the reward, averaged over 20 steps, may lose."""
    stop_on: tuple[AlarmName, ...] = ("kl",)
    """Alarms that stop the run, of those in docs/operations.md; the others only warn."""
