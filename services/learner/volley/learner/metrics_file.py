"""metrics.jsonl: one line for every step that was applied, keyed by epoch and step."""

import errno
import json
import os
import re
import threading
from bisect import bisect_right
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import BinaryIO, NamedTuple

from volley.schemas.groups import Version

Metrics = dict[str, float | None]

LINE = re.compile(rb'\{"epoch": (\d+), "step": (\d+), "root": .*\}\n')


class MetricsLine(NamedTuple):
    """What a step said about itself, and the version that it led to."""

    version: Version
    root: str
    metrics: Metrics


class MetricsFile:
    """The metrics of one run."""

    def __init__(self, path: Path) -> None:
        self._path = path

    def append(self, line: MetricsLine) -> None:
        """Add one step; raises OSError, and nothing of it is there."""
        content = _written(line).encode()
        with self._path.open("ab", buffering=0) as file:
            end = file.tell()
            try:
                if file.write(content) < len(content):
                    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
            except OSError:
                file.truncate(end)
                raise

    def read(self) -> list[MetricsLine]:
        """All steps; a line that a crash cut short does not count."""
        if not self._path.exists():
            return []
        whole, _, _ = self._path.read_text(encoding="utf-8").rpartition("\n")
        return [_read(line) for line in whole.splitlines()]

    def rewrite(self, lines: Iterable[MetricsLine]) -> None:
        """Replace all steps."""
        temporary = self._path.with_name(f".{self._path.name}")
        with temporary.open("w", encoding="utf-8") as file:
            file.writelines(map(_written, lines))
            file.flush()
            os.fsync(file.fileno())
        temporary.replace(self._path)


class MetricsPages:
    """Parts of a metrics file that another thread writes on; safe to use from several threads.

    Where the lines are is remembered, so that a page costs its own bytes and those that were added
    since the last one: of 100,000 steps it is 20 MB. A line without its end is not there yet, and a
    file that was replaced is looked through again.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._lock = threading.Lock()
        self._forget(inode=-1)

    def after(self, step: int, limit: int) -> tuple[list[MetricsLine], bool]:
        """The first lines of later steps, and whether there are more than those."""
        with self._lock, self._looked_through() as file:
            first = bisect_right(self._versions, step, key=lambda version: version.step)
            return self._lines(file, first, limit), first + limit < len(self._versions)

    def behind(self, version: Version, limit: int) -> list[MetricsLine]:
        """The first lines that were written behind that of `version`."""
        with self._lock, self._looked_through() as file:
            return self._lines(file, bisect_right(self._versions, version), limit)

    def newest(self) -> Version:
        """Of the last line; before all versions where there is none."""
        with self._lock, self._looked_through():
            return self._versions[-1] if self._versions else Version(0, 0)

    def _forget(self, inode: int) -> None:
        self._inode = inode
        self._versions: list[Version] = []
        self._places: list[slice] = []
        self._end = 0

    @contextmanager
    def _looked_through(self) -> Iterator[BinaryIO]:
        """The file, when all of its lines are known."""
        path = self._path if self._path.exists() else Path(os.devnull)
        with path.open("rb") as file:
            found = os.fstat(file.fileno())
            if found.st_ino != self._inode or found.st_size < self._end:
                self._forget(found.st_ino)
            file.seek(self._end)
            for line in file:
                self._take(line)
            yield file

    def _take(self, line: bytes) -> None:
        begin, end = self._end, self._end + len(line)
        if not line.endswith(b"\n"):
            return
        self._end = end
        key = LINE.fullmatch(line)
        if key:
            self._versions.append(Version(int(key[1]), int(key[2])))
            self._places.append(slice(begin, end))

    def _lines(self, file: BinaryIO, first: int, limit: int) -> list[MetricsLine]:
        places = self._places[first : first + limit]
        if not places:
            return []
        begin = places[0].start
        file.seek(begin)
        content = file.read(places[-1].stop - begin)
        return [_read(content[at.start - begin : at.stop - begin].decode()) for at in places]


def _written(line: MetricsLine) -> str:
    key = {"epoch": line.version.epoch, "step": line.version.step, "root": line.root}
    return json.dumps(key | line.metrics) + "\n"


def _read(text: str) -> MetricsLine:
    line = json.loads(text)
    version = Version(line.pop("epoch"), line.pop("step"))
    return MetricsLine(version, line.pop("root"), line)
