"""The groups of the next step as they come in, and how many of them are wanted.

Dynamic sampling: a group that has nothing to teach is made up for by another one, up to a bound, so
that steps stay about equally large when prompts become too easy or are still too hard.
"""

from collections.abc import Callable
from dataclasses import dataclass, field

from volley.schemas.groups import Group


@dataclass(slots=True)
class Gathering:
    """Full with `num_groups` that teach, or when as many as may be are made up for."""

    num_groups: int
    max_refill: int
    """Groups beyond `num_groups`, at most; 0 takes them as they come."""
    teaches: Callable[[Group], bool]
    groups: list[Group] = field(default_factory=list)
    _num_idle: int = 0

    @property
    def num_refill(self) -> int:
        """Groups to be made up for so far."""
        return min(self._num_idle, self.max_refill)

    @property
    def is_full(self) -> bool:
        return len(self.groups) >= self.num_groups + self.num_refill

    def add(self, group: Group) -> None:
        """Take one more."""
        self.groups.append(group)
        if self.max_refill > 0 and not self.teaches(group):
            self._num_idle += 1
