"""The [tracking] section: where a run's figures go beside metrics.jsonl."""

from typing import Annotated, Literal

from pydantic import BeforeValidator

from volley.learner.section import Section

TrackerName = Literal["tensorboard", "wandb", "trackio"]


def _listed(value: object) -> object:
    """One name alone is a list of one, as TRL has it."""
    return (value,) if isinstance(value, str) else value


class TrackingSettings(Section):
    report_to: Annotated[tuple[TrackerName, ...], BeforeValidator(_listed)] = ()
    """Trackers that are told of each step and evaluation: tensorboard, wandb, trackio."""
    project: str = "volley"
    """Of wandb and trackio, where the run is shown beside others."""
    run_name: str | None = None
    """As wandb and trackio show it; left out: the run's id, which is its folder's name."""
