"""Files that are whole or not there, and never replaced.

    BLAKE3 of the content, hexadecimal
    content

Written under a temporary name, fsynced, linked to the name that counts: a crash at any point, or
a full disk, leaves the file or no file. A file that was changed since is found out when read.
"""

import os
import tempfile
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec

from volley.schemas.groups import SCHEMA_VERSION
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes

TEMPORARY_PREFIX = "."

_Record = TypeVar("_Record", bound=msgspec.Struct)


class Damaged(Exception):
    """A file is not as it was written."""

    def __init__(self, path: Path, why: str) -> None:
        super().__init__(f"{path}: {why}")
        self.path = path
        self.why = why


class Decode(Protocol):
    """`msgspec.msgpack.decode` or `msgspec.json.decode`."""

    def __call__(self, content: bytes, /, *, type: type[_Record]) -> _Record: ...


class _Head(msgspec.Struct):
    schema_version: int


def write_sealed(path: Path, content: bytes) -> None:
    """Put `content` on the disk as `path`; raises FileExistsError or another OSError."""
    handle, name = tempfile.mkstemp(dir=path.parent, prefix=f"{TEMPORARY_PREFIX}{path.name}.")
    temporary = Path(name)
    try:
        with os.fdopen(handle, "wb") as file:
            file.write(_seal(content))
            file.flush()
            os.fsync(file.fileno())
        temporary.chmod(0o644)
        os.link(temporary, path)
    finally:
        temporary.unlink()
    fsync(path.parent)


def read_sealed(path: Path) -> bytes:
    """What was written as `path`; raises Damaged."""
    sealed = path.read_bytes()
    _, _, content = sealed.partition(b"\n")
    if sealed != _seal(content):
        raise Damaged(path, "cut or altered: its content does not have the hash of its first line")
    return content


def read_sealed_record(path: Path, kind: type[_Record], decode: Decode) -> _Record:
    """The struct in `path`; raises Damaged, and Stop if it is of another schema."""
    content = read_sealed(path)
    try:
        found = decode(content, type=_Head).schema_version
        if found == SCHEMA_VERSION:
            return decode(content, type=kind)
    except (msgspec.DecodeError, RecursionError, UnicodeDecodeError) as error:
        raise Damaged(path, f"not a {kind.__name__}: {error}") from error
    raise Stop(
        ExitCode.ENVIRONMENT,
        f"{path}: schema {found}, this build reads {SCHEMA_VERSION}: "
        f"{'upgrade this build' if found > SCHEMA_VERSION else 'go on with the build of the run'}",
    )


def remove_leftovers(folder: Path) -> None:
    """Remove what a process that died was writing in `folder`."""
    for leftover in folder.glob(f"{TEMPORARY_PREFIX}*"):
        leftover.unlink()


def fsync(path: Path) -> None:
    """Put a file's content, or a folder's names, on the disk."""
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


def _seal(content: bytes) -> bytes:
    return hash_bytes(content).encode() + b"\n" + content
