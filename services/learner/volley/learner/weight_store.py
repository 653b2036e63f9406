"""Published weights: blobs on disk under their hash, the head's manifest, and who waits for it.

Order is the promise: `stage` writes and hashes the bytes and puts them in place, `announce` lets
their manifest be seen. Between the two the learner writes down that the step was applied.
"""

import mmap
import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

import msgspec
import torch
from safetensors.torch import save, save_file

from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import Blob
from volley.transport.tensors import (
    Buffer,
    TensorEntry,
    hash_bytes,
    read_entries,
    root_of,
    root_over,
)


class WeightStore:
    """The blobs of one run; safe to use from the learner's loop and from the server.

    What an earlier process left in the folder goes: nothing refers to it any more.
    """

    def __init__(self, folder: Path, run: str, keep: int) -> None:
        for leftover in folder.iterdir():
            leftover.unlink()
        self._folder = folder
        self._run = run
        self._keep = keep
        self._lock = threading.Lock()
        self._head: Manifest | None = None
        self._announced: list[str] = []
        """Blobs that change with every version, the newest last."""
        self._paths: dict[str, Path] = {}
        self._pins: Counter[str] = Counter()
        self._listeners: set[Callable[[], object]] = set()
        self.is_closed = False

    @property
    def head(self) -> Manifest | None:
        """What workers should hold; None before the first publish."""
        return self._head

    def add(self, content: bytes) -> Blob:
        """Serve these bytes under their hash for as long as the run lives."""
        blob = Blob(hash_bytes(content), len(content))
        path = self._folder / blob.hash
        path.write_bytes(content)
        with self._lock:
            self._paths[blob.hash] = path
        return blob

    def publish(self, tensors: Mapping[str, torch.Tensor], version: Version) -> Manifest:
        """Make `tensors` the head under the name `version`."""
        manifest = self.stage(tensors, version)
        self.announce(manifest)
        return manifest

    def stage(self, tensors: Mapping[str, torch.Tensor], version: Version) -> Manifest:
        """What would make `tensors` the head; their bytes can be read, nobody is told."""
        blob, root = self._write(tensors)
        return Manifest(SCHEMA_VERSION, self._run, version, root, blob)

    def add_base(self, tensors: Mapping[str, torch.Tensor]) -> Blob:
        """Serve what adapters are added to, for as long as the run lives."""
        return self._write(tensors)[0]

    def stage_adapters(
        self, base: Blob, adapters: Mapping[str, torch.Tensor], root: str, version: Version
    ) -> Manifest:
        """The same as `stage` where `adapters`, added to `base`, make tensors with this root."""
        blob, _ = self._write(adapters)
        return Manifest(SCHEMA_VERSION, self._run, version, root, base, blob)

    def announce(self, manifest: Manifest) -> None:
        """Make staged weights the head."""
        newest = manifest.changing.hash
        with self._lock:
            self._announced = [kept for kept in self._announced if kept != newest] + [newest]
            self._prune()
        self._tell(manifest)

    def finish(self) -> None:
        """Tell everyone who waits that the run is over."""
        if self._head is not None:
            self._tell(msgspec.structs.replace(self._head, finished=True))

    def close(self) -> None:
        """Let those go who wait: this process has no other head to tell them of."""
        self.is_closed = True
        self._wake()

    @contextmanager
    def pinned(self, blob_hash: str) -> Iterator[Path | None]:
        """The file of a blob, kept while inside; None where no blob has this name."""
        with self._lock:
            path = self._paths.get(blob_hash)
            self._pins[blob_hash] += 1
        try:
            yield path
        finally:
            with self._lock:
                self._pins[blob_hash] -= 1
                self._prune()

    @contextmanager
    def listening(self, listener: Callable[[], object]) -> Iterator[None]:
        """Call `listener` (from the learner's thread) when the manifest changes or at the close."""
        self._listeners.add(listener)
        try:
            yield
        finally:
            self._listeners.discard(listener)

    def _write(self, tensors: Mapping[str, torch.Tensor]) -> tuple[Blob, str]:
        """Tensors in a file that can be read under its hash, and their root."""
        written = self._folder / ".staged.safetensors"
        save_file(dict(tensors), written)
        with written.open("rb") as file, _mapped(file.fileno()) as content:
            blob, root = Blob(hash_bytes(content), len(content)), root_of(content)
        path = self._folder / f"{blob.hash}.safetensors"
        written.replace(path)
        with self._lock:
            self._paths[blob.hash] = path
        return blob, root

    def _tell(self, manifest: Manifest) -> None:
        self._head = manifest
        self._wake()

    def _wake(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def _prune(self) -> None:
        """Delete blobs of versions that are neither among the newest nor being downloaded."""
        for old in self._announced[: -self._keep]:
            if not self._pins[old]:
                self._announced.remove(old)
                self._paths.pop(old).unlink()


def root_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """The root that `stage` would give them; one of them at a time is copied."""
    return root_over(_in_a_file(name, tensor) for name, tensor in sorted(tensors.items()))


def _in_a_file(name: str, tensor: torch.Tensor) -> tuple[Buffer, TensorEntry]:
    content = save({name: tensor})
    [entry] = read_entries(content)
    return content, entry


@contextmanager
def _mapped(file_descriptor: int) -> Iterator[memoryview]:
    """A file as memory, so that large anchors are hashed without a copy."""
    with (
        mmap.mmap(file_descriptor, 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        yield view
