"""What the run gave up on, kept for a person: why, and the way back.

runs/<id>/dead/
    number-<n>.json     a prompt number that was skipped or refused
    requeued-<n>.json   the same, asked for again: it is renamed, and removed once it is open
    message-<k>.json    an answer that could not be read ...
    message-<k>.bin     ... and the beginning of its bytes

The learner adds, and opens what is asked for; a person looks, and asks. Neither waits for the
other, for every change is one move of one file.
"""

import logging
from collections.abc import Iterable
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import TypeVar

import msgspec

from volley.learner.ledger import Disposition
from volley.learner.sealed import fsync
from volley.telemetry.stops import ExitCode, Stop

logger = logging.getLogger(__name__)

MAX_MESSAGES = 100
"""The newest; a worker that sends nothing but nonsense must not fill the disk."""
MAX_BODY_BYTES = 2**20
MAX_TEXT = 10_000
"""Characters of a detail or prompt: a traceback fits."""


class DeadNumber(msgspec.Struct, frozen=True):
    """A prompt number that was not trained."""

    number: int
    disposition: Disposition
    reason: str
    detail: str
    num_attempts: int
    prompt: str
    """Its beginning, for the eye; empty where it is not known."""
    time: str
    """UTC, ISO 8601."""


class DeadMessage(msgspec.Struct, frozen=True):
    """An answer that could not be read."""

    index: int
    number: int
    """In whose place it came."""
    reason: str
    num_bytes: int
    """All of them; the file may hold fewer."""
    time: str


_Letter = TypeVar("_Letter", DeadNumber, DeadMessage)


class DeadLetters:
    """The folder of one run's dead letters, made when there is the first."""

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def add_number(
        self,
        number: int,
        disposition: Disposition,
        reason: str,
        detail: str,
        num_attempts: int,
        prompt: str = "",
    ) -> None:
        """Keep why a number was skipped or refused."""
        letter = DeadNumber(
            number, disposition, reason, detail[-MAX_TEXT:], num_attempts, prompt[:MAX_TEXT], _now()
        )
        self._keep({self._of_number(number).name: _pretty(letter)})

    def add_message(self, number: int, body: bytes, reason: str) -> None:
        """Keep an answer that could not be read, in place of the oldest of too many."""
        indices = sorted(message.index for message in self.messages())
        letter = DeadMessage(indices[-1] + 1 if indices else 0, number, reason, len(body), _now())
        content, description = self._of_message(letter.index)
        self._keep({content.name: body[:MAX_BODY_BYTES], description.name: _pretty(letter)})
        for index in indices[: 1 - MAX_MESSAGES]:
            for path in reversed(self._of_message(index)):
                path.unlink(missing_ok=True)

    def numbers(self) -> list[DeadNumber]:
        """Numbers that were given up, in their order."""
        return sorted(self._read("number-*.json", DeadNumber), key=lambda letter: letter.number)

    def messages(self) -> list[DeadMessage]:
        """Answers that could not be read, the oldest first."""
        return sorted(self._read("message-*.json", DeadMessage), key=lambda letter: letter.index)

    def show(self, number: int) -> DeadNumber:
        """What is known about one number; raises Stop if it was not given up."""
        for path in (self._of_number(number), self._of_requeued(number)):
            if path.exists():
                return msgspec.json.decode(path.read_bytes(), type=DeadNumber)
        raise Stop(
            ExitCode.CONFIG,
            f"number {number} is not among the dead letters in {self._folder}: `ls` lists them",
        )

    def requeue(self, numbers: Iterable[int]) -> None:
        """Ask for numbers to be tried again; all of them, or none and a Stop."""
        for letter in [self.show(number) for number in numbers]:
            if (path := self._of_number(letter.number)).exists():
                path.rename(self._of_requeued(letter.number))
        if self._folder.exists():
            fsync(self._folder)

    def take_requeued(self) -> list[DeadNumber]:
        """Numbers that the caller is to open; the same each time, until `forget`."""
        letters = self._read("requeued-*.json", DeadNumber)
        for letter in letters:
            # Of a learner that gave it up again and died before that was on the disk.
            self._of_number(letter.number).unlink(missing_ok=True)
        return sorted(letters, key=lambda letter: letter.number)

    def forget(self, numbers: Iterable[int]) -> None:
        """Take requeued numbers off the list: that they are open is on the disk."""
        for number in numbers:
            self._of_requeued(number).unlink(missing_ok=True)

    def _of_number(self, number: int) -> Path:
        return self._folder / f"number-{number}.json"

    def _of_requeued(self, number: int) -> Path:
        return self._folder / f"requeued-{number}.json"

    def _of_message(self, index: int) -> tuple[Path, Path]:
        stem = self._folder / f"message-{index}"
        return stem.with_suffix(".bin"), stem.with_suffix(".json")

    def _keep(self, files: dict[str, bytes]) -> None:
        try:
            self._folder.mkdir(exist_ok=True)
            for name, content in files.items():
                temporary = self._folder / f".{name}"
                temporary.write_bytes(content)
                fsync(temporary)
                temporary.replace(self._folder / name)
            fsync(self._folder)
        except OSError as error:
            # The run is worth more than a record of what it did without.
            logger.warning("could not keep a dead letter: %s", error)

    def _read(self, pattern: str, kind: type[_Letter]) -> list[_Letter]:
        letters = []
        for path in self._folder.glob(pattern):
            with suppress(FileNotFoundError):  # moved by the other side
                letters.append(msgspec.json.decode(path.read_bytes(), type=kind))
        return letters


def _pretty(letter: DeadNumber | DeadMessage) -> bytes:
    return msgspec.json.format(msgspec.json.encode(letter), indent=2) + b"\n"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
