"""Which micro-batch is being trained, on disk, so that one that kills the learner is found out.

A group may be such that training it ends the process: out of memory, a fault in a kernel. Resumed,
the learner would train it again, and die again. So every micro-batch is named before it is
trained. One that was named last in three deaths in a row is poison: its numbers are set aside,
the rest of the step is trained. No fsync: only the death of the process matters here.
"""

import contextlib
from collections.abc import Collection
from pathlib import Path

import msgspec

from volley.learner.step_log import Place

DEATHS_OF_POISON = 3


class _Named(msgspec.Struct, frozen=True):
    place: Place
    numbers: tuple[int, ...]
    num_deaths: int
    """In a row with just these numbers named last; this naming counts as one until it is over."""
    set_aside: tuple[int, ...]


class Mark:
    """The name of the micro-batch in training; what an earlier process left is read at first."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._last = self._read()
        self._set_aside: tuple[int, ...] = ()

    def poison(self, place: Place) -> frozenset[int]:
        """Numbers of the step at `place` that are not to be trained."""
        last = self._last
        if last is None or last.place != place:
            return frozenset()
        found = last.numbers if last.num_deaths >= DEATHS_OF_POISON else ()
        self._set_aside = (*last.set_aside, *found)
        return frozenset(self._set_aside)

    def name(self, place: Place, numbers: Collection[int]) -> None:
        """Note that these numbers of the step at `place` are trained next."""
        named = tuple(sorted(numbers))
        last = self._last
        is_again = last is not None and (last.place, last.numbers) == (place, named)
        num_deaths = last.num_deaths + 1 if last is not None and is_again else 1
        content = msgspec.json.encode(_Named(place, named, num_deaths, self._set_aside))
        temporary = self._path.with_name(f".{self._path.name}")
        # A full disk stops the run elsewhere; for want of a mark no step should fail.
        with contextlib.suppress(OSError):
            temporary.write_bytes(content)
            temporary.replace(self._path)

    def clear(self) -> None:
        """The step is over, and nothing in it was deadly."""
        self._path.unlink(missing_ok=True)
        self._last, self._set_aside = None, ()

    def _read(self) -> _Named | None:
        # Half a name is the end of a process in the middle of a move: as good as none.
        with contextlib.suppress(FileNotFoundError, msgspec.DecodeError):
            return msgspec.json.decode(self._path.read_bytes(), type=_Named)
        return None
