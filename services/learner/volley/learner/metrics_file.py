"""metrics.jsonl: one line for every step that was applied, keyed by epoch and step."""

import json
import os
from collections.abc import Iterable
from pathlib import Path
from typing import NamedTuple

from volley.schemas.groups import Version

Metrics = dict[str, float | None]


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
        """Add one step."""
        with self._path.open("a", encoding="utf-8") as file:
            file.write(_written(line))

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


def _written(line: MetricsLine) -> str:
    key = {"epoch": line.version.epoch, "step": line.version.step, "root": line.root}
    return json.dumps(key | line.metrics) + "\n"


def _read(text: str) -> MetricsLine:
    line = json.loads(text)
    version = Version(line.pop("epoch"), line.pop("step"))
    return MetricsLine(version, line.pop("root"), line)
