"""The groups of a run that is over, step by step, out of what its Redis wrote to disk.

Redis logs every write before it answers, so a run that is measured needs no recording of its own.
Redis rewrites the log when it reaches 64 MB, some 1,000 steps of the sort demo: then groups are
missing, which `steps_of` notices.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO

from volley.learner.settings import Settings
from volley.schemas.codec import GroupLimits, decode_result
from volley.schemas.groups import Group


def steps_of(redis_folder: Path, settings: Settings, limits: GroupLimits) -> list[list[Group]]:
    """What the learner trained on in each of the run's steps."""
    groups = recorded_groups(redis_folder, limits)
    return [_next_step(groups, step, settings) for step in range(settings.run.steps)]


def recorded_groups(redis_folder: Path, limits: GroupLimits) -> Iterator[Group]:
    """All groups in the order in which the learner collected them."""
    (log,) = redis_folder.rglob("appendonly*.aof")
    with log.open("rb") as file:
        while command := read_command(file):
            if command[0] == b"XADD" and command[1].endswith(b":results"):
                result = decode_result(command[-1], limits)
                if isinstance(result, Group):
                    yield result


def read_command(file: BinaryIO) -> list[bytes]:
    """The next command with its arguments; empty at the end of the file."""
    count = file.readline()
    return [_read_argument(file) for _ in range(int(count[1:]))] if count else []


def _read_argument(file: BinaryIO) -> bytes:
    num_bytes = int(file.readline()[1:])
    return file.read(num_bytes + len(b"\r\n"))[:num_bytes]


def _next_step(groups: Iterator[Group], head: int, settings: Settings) -> list[Group]:
    taken: list[Group] = []
    while len(taken) < settings.optim.groups_per_step:
        group = next(groups, None)
        assert group is not None, f"Redis's log lacks groups of step {head}"
        if head - _oldest_step(group) <= settings.queue.max_staleness:
            taken.append(group)
    return taken


def _oldest_step(group: Group) -> int:
    return min(span.version.step for one in group.trajectories for span in one.version_spans)
