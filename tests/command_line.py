"""The `volley` command in processes of its own, none of which has to import torch again.

They are forked from one that has imported what the command needs, and used nothing of it.
"""

import os
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import get_context
from multiprocessing.context import ForkServerProcess
from pathlib import Path

FORKING = get_context("forkserver")
FORKING.set_forkserver_preload(["volley.learner.assembly", "volley.rollout.assembly"])
END_S = 60.0


@dataclass(frozen=True, slots=True)
class Ended:
    """What a command has come to."""

    exit_code: int | None
    """None of one that has not ended in time."""
    output: str
    """Both streams."""


@dataclass(frozen=True, slots=True)
class Command:
    """A command under way."""

    process: ForkServerProcess
    log: Path

    def end(self) -> Ended:
        """What has become of it, at its end."""
        self.process.join(END_S)
        return Ended(self.process.exitcode, self.log.read_text())


@contextmanager
def under_way(
    command: str, folder: Path, environment: Mapping[str, str], log_name: str = "said.txt"
) -> Iterator[Command]:
    """`volley COMMAND`, as typed in `folder`; killed at the end if it still runs.

    `environment` is added to this process's own.
    """
    whole = {**os.environ, "TYPER_STANDARD_TRACEBACK": "1", **environment}
    log = folder / log_name
    process = FORKING.Process(target=_be_volley, args=(command.split(), folder, whole, log))
    process.start()
    try:
        yield Command(process, log)
    finally:
        process.kill()
        process.join()
        process.close()


def volley(command: str, folder: Path, environment: Mapping[str, str]) -> Ended:
    """What becomes of `volley COMMAND`."""
    with under_way(command, folder, environment) as process:
        return process.end()


def _be_volley(
    arguments: Sequence[str], folder: Path, environment: Mapping[str, str], log: Path
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    # Some imports look it up, which then holds for every fork, whatever its TMPDIR says.
    tempfile.tempdir = None
    with log.open("ab", buffering=0) as file:
        for stream in (sys.stdout, sys.stderr):
            os.dup2(file.fileno(), stream.fileno())
    sys.argv = ["volley", *arguments]
    # Here, for the process of the tests needs none of it.
    from volley.launcher.__main__ import main

    main()
