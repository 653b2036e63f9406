"""The learner's HTTP interface, from a worker's side: the run's spec, the head, blobs, status.

    LearnerError
      LearnerUnavailable    not there, cut off, or not able to answer now: try again
      LearnerRefused        the token is wrong, or the order
      LearnerIncompatible   something answers, but not a learner of this version
      CorruptBlob           the bytes are not those that their hash names

All but `command` is a GET, so it may be repeated; when to try again is the caller's decision.
The token travels in a header only: it is in no URL, no message and no log.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import TypeVar

import msgspec
import urllib3
from urllib3.exceptions import HTTPError

from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import Blob, RunSpec
from volley.schemas.status import StatusReport
from volley.transport.tensors import hash_bytes

CONNECT_TIMEOUT_S = 5.0
READ_TIMEOUT_S = 30.0
CHUNK_BYTES = 2**20

_Answer = TypeVar("_Answer")


class LearnerError(Exception):
    """The learner did not give what it was asked for."""


class LearnerUnavailable(LearnerError):
    """The learner cannot be reached, or cannot answer now."""


class LearnerRefused(LearnerError):
    """The learner does not know this token, or not for this."""


class LearnerIncompatible(LearnerError):
    """What answers at the URL is not a learner that this client understands."""


class CorruptBlob(LearnerError):
    """Downloaded bytes do not have the length or the hash that names them."""


class LearnerClient:
    """One learner, behind one URL; safe to use from several threads."""

    def __init__(self, url: str, token: str) -> None:
        self._url = url.rstrip("/")
        # A dead keep-alive connection is noticed before it is used again, so nothing is retried
        # here: the callers' own waiting covers every reason why a learner may be away.
        self._headers = {"Authorization": f"Bearer {token}"}
        self._pool = urllib3.PoolManager(
            maxsize=4,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=READ_TIMEOUT_S),
            retries=False,
        )

    @property
    def url(self) -> str:
        return self._url

    def run_spec(self) -> RunSpec:
        """What a worker must know to join."""
        body = self._get("/v1/run")
        found = _decode(body, _Head).schema_version
        if found != SCHEMA_VERSION:
            raise LearnerIncompatible(
                f"the learner at {self._url} speaks schema {found}, this worker {SCHEMA_VERSION}: "
                "install the same version of volley-rl on both"
            )
        return _decode(body, RunSpec)

    def manifest(self, have: Version | None, wait_s: float) -> Manifest | None:
        """The head when its version is not `have`; None if `wait_s` passed without one."""
        fields = {"wait": f"{wait_s:g}"} | ({"have": str(have)} if have else {})
        body = self._get("/v1/weights", fields, read_timeout_s=wait_s + READ_TIMEOUT_S)
        return _decode(body, Manifest) if body else None

    def status(self) -> StatusReport:
        """The run at a glance."""
        return _decode(self._get("/v1/status"), StatusReport)

    def command(self, path: str) -> str:
        """Give an order, for which the token must be the admin's; what happens now, in words."""
        try:
            response = self._pool.request("POST", f"{self._url}{path}", headers=self._headers)
        except HTTPError as error:
            raise self._unavailable(error) from error
        detail = _decode(response.data, _Detail).detail
        if response.status == 202:
            return detail
        refusal = LearnerUnavailable if response.status >= 500 else LearnerRefused
        raise refusal(f"the learner at {self._url}: {detail}")

    def fetch_blob(self, blob: Blob, into: bytearray) -> None:
        """Fill `into`, which has the blob's length, with the blob's bytes, verified.

        A download that is cut off goes on where it stopped, as long as every attempt brings
        some bytes. After an exception the content of `into` is undefined.
        """
        assert len(into) == blob.num_bytes, "the buffer has the blob's length"
        view = memoryview(into)
        before, place = -1, 0
        while before < place < blob.num_bytes:
            before, place = place, self._read_from(blob, view, place)
        if place < blob.num_bytes:
            raise CorruptBlob(f"blob {blob.hash[:12]} ends after {place} of {blob.num_bytes} bytes")
        if hash_bytes(view) != blob.hash:
            raise CorruptBlob(f"blob {blob.hash[:12]} has other bytes than its hash names")

    def close(self) -> None:
        """Close idle connections."""
        self._pool.clear()

    def _read_from(self, blob: Blob, view: memoryview, start: int) -> int:
        """Read on from `start`; the place where the bytes ended, for whatever reason."""
        path = f"/v1/blobs/{blob.hash}"
        headers = {"Range": f"bytes={start}-"} if start else {}
        place = start
        try:
            with self._answer(path, headers=headers) as response:
                # A server that ignores the range begins at the beginning.
                place = start if response.status == 206 else 0
                # Not readinto: that keeps a chunk to itself until it is whole.
                while chunk := response.read1(min(CHUNK_BYTES, blob.num_bytes - place)):
                    view[place : place + len(chunk)] = chunk
                    place += len(chunk)
        except HTTPError as error:
            if place == start:
                raise self._unavailable(error) from error
        return place

    def _get(
        self,
        path: str,
        fields: dict[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
    ) -> bytes:
        try:
            with self._answer(path, fields, read_timeout_s) as response:
                return response.data
        except HTTPError as error:
            raise self._unavailable(error) from error

    @contextmanager
    def _answer(
        self,
        path: str,
        fields: dict[str, str] | None = None,
        read_timeout_s: float = READ_TIMEOUT_S,
        headers: dict[str, str] | None = None,
    ) -> Iterator[urllib3.BaseHTTPResponse]:
        """A response with a good status, its body not read yet."""
        response = self._pool.request(
            "GET",
            f"{self._url}{path}",
            fields=fields,
            headers=self._headers | (headers or {}),
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=read_timeout_s),
            preload_content=False,
        )
        try:
            self._check_status(path, response.status)
            yield response
        finally:
            # A whole body has given its connection back already; the rest of one must not be read
            # as the next answer.
            response.close()

    def _check_status(self, path: str, status: int) -> None:
        if status in (200, 204, 206):
            return
        if status in (401, 403):
            raise LearnerRefused(
                f"the learner at {self._url} refused the token: "
                "set VOLLEY_TOKEN (or VOLLEY_TOKEN_FILE) to the learner's"
            )
        problem = f"{self._url}{path} answered with status {status}"
        if status >= 500 or path.startswith("/v1/blobs/"):
            raise LearnerUnavailable(problem)
        raise LearnerIncompatible(f"{problem}: give the URL that the learner prints")

    def _unavailable(self, error: HTTPError) -> LearnerUnavailable:
        return LearnerUnavailable(f"no answer from {self._url} ({type(error).__name__})")


class _Head(msgspec.Struct):
    schema_version: int


class _Detail(msgspec.Struct):
    """Of what was accepted, or of a problem."""

    detail: str


def _decode(body: bytes, kind: type[_Answer]) -> _Answer:
    try:
        return msgspec.json.decode(body, type=kind)
    except msgspec.DecodeError as error:
        raise LearnerIncompatible(
            f"the learner's answer is not a {kind.__name__}: {error}"
        ) from error
