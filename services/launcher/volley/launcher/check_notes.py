"""What `volley check` has found so far, mistakes in the words that a run has for them."""

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import TypeVar

from volley.launcher.findings import Finding, Level
from volley.telemetry.stops import ExitCode, Stop

_Value = TypeVar("_Value")


@dataclass(slots=True)
class Notes:
    """Findings in the order in which they were made."""

    findings: list[Finding] = field(default_factory=list)
    has_mistakes: bool = False
    """Something that a person has written is wrong, so that nothing can be sampled."""

    def add(self, *findings: Finding) -> None:
        self.findings += findings

    def take(self, subject: str, make: Callable[[], _Value]) -> _Value | None:
        """What `make` gives; None where it raises a Stop, which is noted."""
        try:
            return make()
        except Stop as stop:
            self.add(Finding(Level.BAD, subject, stop.message))
            self.has_mistakes |= stop.code is ExitCode.CONFIG
            return None

    @property
    def exit_code(self) -> ExitCode:
        """Of the command."""
        if self.has_mistakes:
            return ExitCode.CONFIG
        return ExitCode.ENVIRONMENT if is_bad(self.findings) else ExitCode.DONE


def is_bad(findings: Iterable[Finding]) -> bool:
    """Whether a run would not work."""
    return any(finding.level is Level.BAD for finding in findings)
