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

import torch
from safetensors.torch import save, save_file

from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import Blob
from volley.transport.tensors import hash_bytes, root_of


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
        self._anchors: list[str] = []
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
        written = self._folder / f".{version}.safetensors"
        save_file(dict(tensors), written)
        with written.open("rb") as file, _mapped(file.fileno()) as content:
            blob, root = Blob(hash_bytes(content), len(content)), root_of(content)
        path = self._folder / f"{blob.hash}.safetensors"
        written.replace(path)
        with self._lock:
            self._paths[blob.hash] = path
        return Manifest(SCHEMA_VERSION, self._run, version, root, blob)

    def announce(self, manifest: Manifest) -> None:
        """Make staged weights the head."""
        anchor = manifest.anchor.hash
        with self._lock:
            self._anchors = [kept for kept in self._anchors if kept != anchor] + [anchor]
            self._prune()
        self._tell(manifest)

    def finish(self) -> None:
        """Tell everyone who waits that the run is over."""
        head = self._head
        if head is not None:
            self._tell(
                Manifest(head.schema_version, head.run, head.version, head.root, head.anchor, True)
            )

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

    def _tell(self, manifest: Manifest) -> None:
        self._head = manifest
        self._wake()

    def _wake(self) -> None:
        for listener in tuple(self._listeners):
            listener()

    def _prune(self) -> None:
        """Delete anchors that are neither among the newest nor being downloaded."""
        for old in self._anchors[: -self._keep]:
            if not self._pins[old]:
                self._anchors.remove(old)
                self._paths.pop(old).unlink()


def root_of_tensors(tensors: Mapping[str, torch.Tensor]) -> str:
    """The root that `stage` would give them."""
    return root_of(save(dict(tensors)))


@contextmanager
def _mapped(file_descriptor: int) -> Iterator[memoryview]:
    """A file as memory, so that large anchors are hashed without a copy."""
    with (
        mmap.mmap(file_descriptor, 0, access=mmap.ACCESS_READ) as mapped,
        memoryview(mapped) as view,
    ):
        yield view
