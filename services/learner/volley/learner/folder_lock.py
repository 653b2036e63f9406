"""One process works on a folder: a lock that ends with the process that holds it."""

import fcntl
import os
from pathlib import Path
from typing import TextIO

from volley.telemetry.stops import ExitCode, Stop


def lock_folder(folder: Path, instead: str) -> TextIO:
    """The lock, as long as it is open; raises Stop, saying what to do `instead`, or OSError."""
    # Opened for appending: the holder's number must stay readable to one who comes too late.
    lock = (folder / "lock").open("a+", encoding="ascii")
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        lock.seek(0)
        holder = lock.read().strip()
        lock.close()
        raise Stop(
            ExitCode.ANOTHER_LEARNER,
            f"another learner (process {holder}) works on {folder}: stop it first, or {instead}",
        ) from None
    lock.truncate(0)
    lock.write(f"{os.getpid()}\n")
    lock.flush()
    return lock
