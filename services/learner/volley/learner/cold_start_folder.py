"""What a cold start leaves on disk: a run's cold_start/, or the folder that `volley sft` is given.

cold_start.json   what it began with; with it the folder is a cold start's
lock              held by the process that works here
metrics.jsonl     one object a step
checkpoints/      snapshots to go on from; gone once the model is there
model/            the model, a Hugging Face folder; with it the cold start is done
"""

import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
from msgspec import Struct
from safetensors import SafetensorError

from volley.learner.checkpoint import Checkpoints
from volley.learner.folder_lock import lock_folder
from volley.learner.sealed import TEMPORARY_PREFIX, fsync
from volley.telemetry.stops import ExitCode, Stop

NUM_KEPT = 2
"""Checkpoints: the last one might turn out to be damaged."""
ANOTHER = "begin another: --fresh for a run, another OUT for volley sft"


class ColdStartLine(Struct, frozen=True):
    """A line of metrics.jsonl."""

    step: int
    """Steps taken by then."""
    loss: float
    """Nats per trained token, before the step."""
    learning_rate: float
    grad_norm: float
    num_tokens: int
    """Trained in this step."""


class ColdStartFolder:
    """One cold start's folder, locked for this process until it is closed."""

    def __init__(self, path: Path) -> None:
        self.path = path.resolve()
        with self.naming_what_fails():
            self._check_ownership()
            self.path.mkdir(parents=True, exist_ok=True)
            self._lock = lock_folder(self.path, ANOTHER)

    @property
    def model(self) -> Path:
        return self.path / "model"

    @property
    def metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    @property
    def is_done(self) -> bool:
        """The model is there."""
        return self.model.exists()

    def close(self) -> None:
        """Let another process work here."""
        self._lock.close()

    def check(self, now: Mapping[str, object]) -> None:
        """Raise Stop, naming it, if anything differs from what the cold start began with."""
        for key, began_with in self._beginning().items():
            if key in now and now[key] != began_with:
                raise Stop(
                    ExitCode.CONFIG,
                    f"{key} is {now[key]}, the cold start in {self.path} began with {began_with}: "
                    f"give that, or {ANOTHER}",
                )

    def begin(self, now: Mapping[str, object]) -> None:
        """Write down what the cold start begins with, if it has not begun; else see `check`."""
        self.check(now)
        if not self._beginning():
            self._replace("cold_start.json", msgspec.json.format(msgspec.json.encode(now)) + b"\n")

    def checkpoints(self) -> Checkpoints:
        """Snapshots, without what a process that died has left half done."""
        folder = self.path / "checkpoints"
        folder.mkdir(exist_ok=True)
        checkpoints = Checkpoints(folder, NUM_KEPT)
        checkpoints.remove_leftovers()
        return checkpoints

    def append(self, line: ColdStartLine) -> None:
        """Add a step to metrics.jsonl."""
        with self.metrics.open("ab") as file:
            file.write(msgspec.json.encode(line) + b"\n")

    def go_on_from(self, step: int) -> None:
        """Drop the lines of metrics.jsonl after `step`, which are about to be written again."""
        content = self.metrics.read_bytes() if self.metrics.exists() else b""
        # A line that a crash cut short does not count.
        whole, _, _ = content.rpartition(b"\n")
        lines = msgspec.json.Decoder(ColdStartLine).decode_lines(whole)
        kept = [line for line in lines if line.step <= step]
        self._replace(self.metrics.name, msgspec.json.Encoder().encode_lines(kept))

    def finish(self, save: Callable[[Path], None]) -> None:
        """Have the model saved, and give it its name once it is whole and on the disk."""
        temporary = self.path / f"{TEMPORARY_PREFIX}model"
        shutil.rmtree(temporary, ignore_errors=True)
        save(temporary)
        for path in (*temporary.iterdir(), temporary):
            fsync(path)
        temporary.rename(self.model)
        fsync(self.path)

    def forget_checkpoints(self) -> None:
        """The model is there, and nothing goes on from them."""
        shutil.rmtree(self.path / "checkpoints", ignore_errors=True)

    @contextmanager
    def naming_what_fails(self) -> Iterator[None]:
        """Turn a disk that fails inside into a Stop."""
        try:
            yield
        except (OSError, SafetensorError) as error:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"cannot write to {self.path}: {error}: make room there and start again, and the "
                "cold start goes on from its last checkpoint; or choose another folder",
            ) from error

    def _beginning(self) -> dict[str, object]:
        """What the cold start began with; empty before it has."""
        path = self.path / "cold_start.json"
        return msgspec.json.decode(path.read_bytes(), type=dict) if path.exists() else {}

    def _check_ownership(self) -> None:
        """Raise Stop for a folder that something else has been written to."""
        if not self.path.exists() or self._beginning():
            return
        # A process that died before it had begun has left nothing under other names.
        foreign = [
            path
            for path in self.path.iterdir()
            if path.name != "lock" and not path.name.startswith(TEMPORARY_PREFIX)
        ]
        if foreign:
            raise Stop(
                ExitCode.CONFIG,
                f"{self.path} is not empty and holds no cold start: give a folder that does not "
                "exist yet",
            )

    def _replace(self, name: str, content: bytes) -> None:
        temporary = self.path / f"{TEMPORARY_PREFIX}{name}"
        temporary.write_bytes(content)
        fsync(temporary)
        temporary.replace(self.path / name)
        fsync(self.path)
