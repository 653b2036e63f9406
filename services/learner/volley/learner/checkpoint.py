"""Checkpoints: snapshots between two steps, from which the log goes on.

    checkpoints/step-00000100-0007/
        state.safetensors   masters and optimiser state
        manifest            JSON inside its seal: the state's hash, and all that is no tensor

Named for the head's step and a running number, since the same step may be saved again (after a
restart, after a step that was not applied); the highest number is the newest. A folder gets its
name when everything in it is on the disk, and is never written again.
"""

import logging
import shutil
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path

import msgspec
from blake3 import blake3
from msgspec import Struct
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor

from volley.learner.ledger import Disposition, LedgerState
from volley.learner.sealed import (
    TEMPORARY_PREFIX,
    Damaged,
    fsync,
    read_sealed_record,
    write_sealed,
)
from volley.learner.step_log import Place
from volley.schemas.groups import Version
from volley.schemas.run_spec import Blob
from volley.telemetry.failpoints import reach

logger = logging.getLogger(__name__)

TENSORS = "state.safetensors"
MANIFEST = "manifest"
START = Place(0, 0)
"""Before every place of the log."""


class CheckpointState(Struct, frozen=True):
    """All that a run goes on from, beside its tensors."""

    schema_version: int
    run: str
    version: Version
    """Of the head."""
    place: Place
    """Where the log goes on."""
    root: str
    """Of the head."""
    ledger: LedgerState
    closed: dict[int, Disposition]
    """Numbers that got their final state without a step, since the last record."""
    config_hash: str
    num_samples: int
    num_tokens: int
    rng_state: bytes
    """Of torch's generator on the CPU."""


class _Manifest(Struct, frozen=True):
    schema_version: int
    tensors: Blob
    state: CheckpointState


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """A checkpoint that is whole."""

    path: Path
    state: CheckpointState

    def tensors(self) -> dict[str, Tensor]:
        """What was saved, on the CPU."""
        return load_file(self.path / TENSORS)


class Checkpoints:
    """The checkpoints of one run."""

    def __init__(self, folder: Path, keep: int) -> None:
        self._folder = folder
        self._keep = keep
        self._whole: dict[Path, Place] = {}
        """Saved or found whole by this process; only these count as kept."""

    def save(self, state: CheckpointState, tensors: Mapping[str, Tensor]) -> Path:
        """Folder of a checkpoint that is on the disk; raises OSError, and nothing is there."""
        number = max((_number_of(path) for path in self._newest_first()), default=0) + 1
        path = self._folder / f"step-{state.version.step:08}-{number:04}"
        temporary = self._folder / f"{TEMPORARY_PREFIX}{path.name}"
        temporary.mkdir()
        try:
            _write_tensors(temporary / TENSORS, tensors)
            reach("mid-checkpoint")
            manifest = _Manifest(state.schema_version, _blob_of(temporary / TENSORS), state)
            content = msgspec.json.format(msgspec.json.encode(manifest))
            write_sealed(temporary / MANIFEST, content)
            reach("before-checkpoint-rename")
            temporary.rename(path)
        except BaseException:
            shutil.rmtree(temporary)
            raise
        reach("after-checkpoint-rename")
        fsync(self._folder)
        self._whole[path] = state.place
        return path

    def valid(self) -> Iterator[Checkpoint]:
        """All that are whole, newest first; the others are named in a warning."""
        for path in self._newest_first():
            try:
                state = _read_state(path)
            except Damaged as damaged:
                logger.warning(
                    "skipped a damaged checkpoint",
                    extra={"checkpoint": str(path), "reason": str(damaged)},
                )
            else:
                self._whole[path] = state.place
                yield Checkpoint(path, state)

    def prune(self) -> Place:
        """Keep the newest `keep` whole ones; returns the place before which no log is needed."""
        kept = [path for path in self._newest_first() if path in self._whole][: self._keep]
        if len(kept) < self._keep:
            return START
        for path in self._newest_first():
            if _number_of(path) < _number_of(kept[-1]):
                self._delete(path)
        return self._whole[kept[-1]]

    def remove_leftovers(self) -> None:
        """Remove what a process that died was saving or deleting."""
        for leftover in self._folder.glob(f"{TEMPORARY_PREFIX}*"):
            shutil.rmtree(leftover)

    def _newest_first(self) -> list[Path]:
        return sorted(self._folder.glob("step-*"), key=_number_of, reverse=True)

    def _delete(self, path: Path) -> None:
        # Half deleted under its own name, it would look damaged.
        leftover = path.rename(path.with_name(f"{TEMPORARY_PREFIX}{path.name}"))
        shutil.rmtree(leftover)
        self._whole.pop(path, None)


def _read_state(path: Path) -> CheckpointState:
    """The state in a checkpoint's folder, once everything there has its hash; raises Damaged."""
    try:
        manifest = read_sealed_record(path / MANIFEST, _Manifest, msgspec.json.decode)
        found = _blob_of(path / TENSORS)
    except OSError as error:
        raise Damaged(path, f"cannot be read: {error}") from error
    if found != manifest.tensors:
        raise Damaged(path / TENSORS, "cut or altered: it does not have the hash in the manifest")
    return manifest.state


def _write_tensors(path: Path, tensors: Mapping[str, Tensor]) -> None:
    try:
        save_file(dict(tensors), path)
    except SafetensorError as error:
        # Of a write this means the disk, but it is no OSError.
        raise OSError(f"{path}: {error}") from error
    fsync(path)


def _blob_of(path: Path) -> Blob:
    """The hash and size of a file that may be larger than the memory."""
    num_bytes = path.stat().st_size
    return Blob(blake3().update_mmap(path).hexdigest(), num_bytes)


def _number_of(path: Path) -> int:
    return int(path.name.rpartition("-")[2])
