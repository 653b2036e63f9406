"""What people see of a run's past: its steps, its evaluations, and the groups of a step."""

from dataclasses import dataclass
from enum import StrEnum

from volley.schemas.documented import Documented
from volley.schemas.groups import StopReason


@dataclass(frozen=True, slots=True)
class MetricsReport(Documented):
    """One line of metrics.jsonl or evaluations.jsonl."""

    epoch: int
    step: int
    """Of the version that the step led to, or that was evaluated."""
    root: str
    """BLAKE3 over that version's tensors."""
    metrics: dict[str, float | None]


@dataclass(frozen=True, slots=True)
class StepsPage(Documented):
    """Steps that were applied, oldest first."""

    steps: tuple[MetricsReport, ...]
    next: int | None
    """To be given as `after` for the page behind this one; None on the last page."""


@dataclass(frozen=True, slots=True)
class EvaluationsPage(Documented):
    """Versions that were evaluated, oldest first."""

    evaluations: tuple[MetricsReport, ...]
    next: int | None
    """To be given as `after` for the page behind this one; None on the last page."""


@dataclass(frozen=True, slots=True)
class GroupReport(Documented):
    """All answers to one prompt, in figures; one element per trajectory where there are several."""

    number: int
    """Of the prompt."""
    attempt: int
    """Records for this step before this one; none of them was applied."""
    worker: str
    disposition: str | None
    """What became of it: trained, filtered, refused; None before the step's end."""
    rewards: tuple[float | None, ...]
    """The weighted sum of all reward functions; None where no function gave one."""
    advantages: tuple[float | None, ...]
    """None where there is none, or where more than the step log is needed to compute it."""
    num_tokens: tuple[int, ...]
    """Of the completion, with what was inserted."""


@dataclass(frozen=True, slots=True)
class GroupsPage(Documented):
    """The groups of one step."""

    step: int
    """Of the version that the step leads to, if it is applied."""
    groups: tuple[GroupReport, ...]


class Source(StrEnum):
    """Where a token comes from."""

    PROMPT = "prompt"
    GENERATED = "generated"
    INSERTED = "inserted"
    """By the environment; never trained."""


@dataclass(frozen=True, slots=True)
class Segment(Documented):
    """Neighbouring tokens from one source."""

    kind: Source
    text: str
    """With special tokens."""
    num_tokens: int


@dataclass(frozen=True, slots=True)
class TrajectoryReport(Documented):
    """One answer to the prompt, from its first token to its last."""

    segments: tuple[Segment, ...]
    rewards: dict[str, float | None]
    """By reward function; None where it does not apply or has failed."""
    reward: float | None
    """Their weighted sum; None where no function gave one."""
    advantage: float | None
    """None where there is none, or where more than the step log is needed to compute it."""
    versions: tuple[str, ...]
    """That generated its tokens, as 1.80, in their order."""
    stop_reason: StopReason
    turns: int
    """Times that the model was asked."""
    metrics: dict[str, float]
    """What the environment counted: searches, errors and the like."""


@dataclass(frozen=True, slots=True)
class GroupDetails(Documented):
    """One prompt and all answers to it."""

    step: int
    number: int
    attempt: int
    worker: str
    disposition: str | None
    """What became of it: trained, filtered, refused; None before the step's end."""
    trajectories: tuple[TrajectoryReport, ...]
