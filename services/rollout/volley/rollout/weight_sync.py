"""Weights of the head, verified, ready for the loop to load between two engine steps.

    long-poll manifest -> fetch blob -> hash -> root -> offer -> (loop) load -> buffer free again
                          or adapters -> hash -> base + changes -^

A thread of its own waits for the learner (at most `wait_s` a poll, for ever in all) and for a
free buffer (until the loop has loaded what it took). There are two buffers, reused, because the
first touch of fresh memory is what a download costs most. Whatever is wrong with the bytes, the
weights that are loaded keep serving and the download is tried again.
"""

import logging
import queue
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from tenacity import (
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from volley.rollout.adapters import Base
from volley.rollout.model_tensors import tensors_in
from volley.rollout.outage import Outage
from volley.schemas.groups import Version
from volley.schemas.manifest import Manifest
from volley.telemetry.failpoints import reach
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.learner_client import (
    CorruptBlob,
    LearnerClient,
    LearnerIncompatible,
    LearnerRefused,
    LearnerUnavailable,
)
from volley.transport.tensors import InvalidTensors, root_of

logger = logging.getLogger(__name__)

NUM_BUFFERS = 2
MAX_PAUSE_S = 5.0


@dataclass(frozen=True, slots=True)
class VerifiedWeights:
    """Bytes whose hash and root are those of the manifest."""

    manifest: Manifest
    content: bytearray

    def tensors(self) -> dict[str, torch.Tensor]:
        """Views of the buffer by name; valid until it is given back."""
        return tensors_in(self.content)


class WeightSync:
    """Follows the head of one run; the newest verified weights win."""

    def __init__(self, client: LearnerClient, run: str, wait_s: float = 30.0) -> None:
        self._client = client
        self._base = Base(client)
        self._run = run
        self._wait_s = wait_s
        self._outage = Outage(f"the learner at {client.url}")
        self._lock = threading.Lock()
        self._offered: VerifiedWeights | None = None
        self._arrived = threading.Event()
        self._head: Manifest | None = None
        self._have: Version | None = None
        self._num_refused = 0
        self._stop: Stop | None = None
        self._stopping = threading.Event()
        self._spare: queue.SimpleQueue[bytearray] = queue.SimpleQueue()
        for _ in range(NUM_BUFFERS):
            self._spare.put(bytearray())
        self._thread = threading.Thread(target=self._follow, name="weights", daemon=True)

    @property
    def head(self) -> Manifest | None:
        """The newest manifest, whether its weights are here or not."""
        return self._head

    @property
    def is_finished(self) -> bool:
        """The learner has said that the run is over."""
        return self._head is not None and self._head.finished

    @property
    def num_refused(self) -> int:
        """Downloads whose bytes were wrong."""
        return self._num_refused

    def start(self) -> None:
        self._thread.start()

    def check(self) -> None:
        """Raise the Stop that ended the following, if one did."""
        if self._stop is not None:
            raise self._stop

    def wait(self, timeout_s: float) -> bool:
        """Whether weights are on offer, waiting up to `timeout_s` for them."""
        return self._arrived.wait(timeout_s)

    @contextmanager
    def newest(self) -> Iterator[VerifiedWeights | None]:
        """Weights that were not taken yet, whose buffer stays untouched while inside."""
        with self._lock:
            weights, self._offered = self._offered, None
            self._arrived.clear()
        try:
            yield weights
        finally:
            if weights is not None:
                self._spare.put(weights.content)

    def close(self, timeout_s: float) -> None:
        """End the following; a poll that is under way may outlive `timeout_s`."""
        self._stopping.set()
        self._thread.join(timeout_s)

    def _follow(self) -> None:
        retrying = Retrying(
            retry=retry_if_exception_type((LearnerUnavailable, CorruptBlob, InvalidTensors)),
            wait=wait_random_exponential(multiplier=0.5, max=MAX_PAUSE_S),
            stop=stop_when_event_set(self._stopping),
            sleep=sleep_using_event(self._stopping),
            retry_error_callback=lambda state: None,
        )
        try:
            while not self._stopping.is_set():
                retrying(self._follow_once)
        except (LearnerRefused, LearnerIncompatible) as error:
            self._stop = Stop(ExitCode.CONFIG, str(error))
        except Stop as stop:
            self._stop = stop

    def _follow_once(self) -> None:
        try:
            manifest = self._client.manifest(self._have, self._wait_s)
            self._outage.worked()
            if manifest is not None:
                self._receive(manifest)
        except LearnerUnavailable as error:
            self._outage.failed(error)
            raise
        except (CorruptBlob, InvalidTensors) as error:
            self._num_refused += 1
            logger.warning("refused weights: %s", error, extra={"num_refused": self._num_refused})
            raise

    def _receive(self, manifest: Manifest) -> None:
        if manifest.run != self._run:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"{self._client.url} now serves run {manifest.run!r}, this worker joined "
                f"{self._run!r}: start it again to join that one",
            )
        self._head = manifest
        if manifest.finished:
            self._stopping.set()
            return
        content = self._spare.get()
        try:
            content = self._fetch(manifest, content)
        except BaseException:
            self._spare.put(content)
            raise
        self._offer(VerifiedWeights(manifest, content))

    def _fetch(self, manifest: Manifest, spare: bytearray) -> bytearray:
        """The manifest's tensors, verified, in `spare` where that has the right length."""
        started = time.monotonic()
        num_bytes = manifest.anchor.num_bytes
        content = spare if len(spare) == num_bytes else bytearray(num_bytes)
        if manifest.adapters is None:
            self._client.fetch_blob(manifest.anchor, content)
        else:
            self._base.write_changed(manifest.anchor, manifest.adapters, content)
        reach("mid-download")
        root = root_of(content)
        if root != manifest.root:
            self._base.forget()
            raise InvalidTensors(
                f"version {manifest.version} has root {root[:12]}, announced {manifest.root[:12]}"
            )
        logger.debug(
            "fetched weights",
            extra={
                "version": str(manifest.version),
                "num_bytes": manifest.changing.num_bytes,
                "duration_s": round(time.monotonic() - started, 3),
            },
        )
        return content

    def _offer(self, weights: VerifiedWeights) -> None:
        self._have = weights.manifest.version
        with self._lock:
            passed_over, self._offered = self._offered, weights
            self._arrived.set()
        if passed_over is not None:
            self._spare.put(passed_over.content)
