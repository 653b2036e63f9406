"""Where passages for a query come from: an index in this process, or a server over HTTP.

read_corpus -> Bm25Retriever -+
                              +-> CachedRetriever
               HttpRetriever -+
"""

import json
import logging
import re
import time
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Protocol, TypeVar

import msgspec
import urllib3
from msgspec import Struct

from volley.rollout.outage import Outage
from volley.telemetry.stops import ExitCode, Stop

MAX_ANSWER_BYTES = 2**20
"""Of a server; three passages of a hundred words are 2 kB."""
CONNECT_TIMEOUT_S = 2.0
MAX_CONNECTIONS = 32
"""To a server; who finds none free waits for one."""
READ_BYTES = 2**16
WORD = re.compile(r"\w+")

Shape = TypeVar("Shape", bound=Struct)


class RetrievalFailed(Exception):
    """There is no telling what a search would have found."""


class Retriever(Protocol):
    """Searches passages; used from many threads at once."""

    def search(self, query: str, top_k: int) -> list[str]:
        """At most that many passages, the best first; raises RetrievalFailed."""
        ...


class Bm25Retriever:
    """Passages by BM25, from an index in memory.

    Words are runs of letters and digits, in lower case, neither stemmed nor left out.
    """

    def __init__(self, passages: Sequence[str]) -> None:
        """Return when the index is built; raises Stop without the library."""
        try:
            # An optional library, and numpy with it.
            import bm25s
        except ImportError as error:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"searching a corpus needs {error.name}: pip install 'volley-rl[search]'",
            ) from error
        # The library lets its remarks about every query through.
        logging.getLogger("bm25s").setLevel(logging.WARNING)
        self._passages = passages
        self._index = bm25s.BM25()
        self._index.index(
            bm25s.tokenize(passages, token_pattern=WORD.pattern, stopwords=[], show_progress=False),
            show_progress=False,
        )

    def search(self, query: str, top_k: int) -> list[str]:
        """Passages that share a word with the query."""
        indices, scores = self._index.retrieve(
            [WORD.findall(query.lower())],
            k=min(top_k, len(self._passages)),
            show_progress=False,
            backend_selection="numpy",
        )
        pairs = zip(indices[0].tolist(), scores[0].tolist(), strict=True)
        return [self._passages[index] for index, score in pairs if score > 0]


class HttpRetriever:
    """Passages from a server that speaks as Search-R1's does.

        POST {"queries": [QUERY], "topk": K, "return_scores": true}
        200  {"result": [[{"document": {"contents": PASSAGE}, "score": S}, ...]]}

    A connection that fails and a server that is busy are tried again, for searching twice does no
    harm. An answer that is late is not: whoever was slow once would be asked for twice as much.
    """

    def __init__(self, url: str, timeout_s: float) -> None:
        """`timeout_s` is for all of an answer."""
        self._url = url
        self._timeout_s = timeout_s
        self._outage = Outage("the search server")
        self._pool = urllib3.PoolManager(
            maxsize=MAX_CONNECTIONS,
            block=True,
            timeout=urllib3.Timeout(connect=CONNECT_TIMEOUT_S, read=timeout_s),
            retries=urllib3.Retry(
                total=2,
                read=0,
                redirect=0,
                status_forcelist=(429, 502, 503, 504),
                allowed_methods=None,
                backoff_factor=0.2,
                respect_retry_after_header=False,
            ),
        )

    def search(self, query: str, top_k: int) -> list[str]:
        """What the server finds; raises RetrievalFailed."""
        try:
            answer = _decode(self._ask(query, top_k), _Answer)
            (hits,) = answer.result
        except (urllib3.exceptions.HTTPError, ValueError) as error:
            self._outage.failed(error)
            raise RetrievalFailed(str(error)) from error
        self._outage.worked()
        return [hit.document.contents for hit in hits[:top_k]]

    def close(self) -> None:
        self._pool.clear()

    def _ask(self, query: str, top_k: int) -> bytes:
        deadline = time.monotonic() + self._timeout_s
        response = self._pool.request(
            "POST",
            self._url,
            json={"queries": [query], "topk": top_k, "return_scores": True},
            pool_timeout=self._timeout_s,
            preload_content=False,
        )
        try:
            if response.status != 200:
                raise ValueError(f"the server answered with status {response.status}")
            body = _read(response, deadline)
        except BaseException:
            # What is left of the answer must not be taken for the beginning of the next.
            response.close()
            raise
        response.release_conn()
        return body


class CachedRetriever:
    """Another retriever, whose last answers are kept; failures are not."""

    def __init__(self, retriever: Retriever, max_queries: int) -> None:
        self._search = lru_cache(max_queries)(retriever.search)

    def search(self, query: str, top_k: int) -> list[str]:
        """As the other one would answer, or has answered; raises RetrievalFailed."""
        return list(self._search(query, top_k))


def read_corpus(file: Path) -> list[str]:
    """The passages of a JSONL file: `text` or `contents`, behind `title` if it has one."""
    try:
        with file.open("rb") as lines:
            passages = [
                _passage(line, f"corpus {file}, line {number}")
                for number, line in enumerate(lines, start=1)
                if line.strip()
            ]
    except OSError as error:
        raise Stop(ExitCode.CONFIG, f"corpus {file}: {error.strerror}") from error
    if not passages:
        raise Stop(ExitCode.CONFIG, f"corpus {file}: holds no passage")
    return passages


class _Entry(Struct):
    text: str | None = None
    contents: str | None = None
    title: str | None = None


class _Document(Struct):
    contents: str


class _Hit(Struct):
    document: _Document


class _Answer(Struct):
    result: tuple[list[_Hit]]
    """One list per query."""


def _passage(line: bytes, where: str) -> str:
    fix = 'write {"text": ...} or {"contents": ...}, with a "title" if you like'
    try:
        entry = _decode(line, _Entry)
    except ValueError as error:
        raise Stop(ExitCode.CONFIG, f"{where}: {error}: {fix}") from error
    text = entry.text or entry.contents
    if not text:
        raise Stop(ExitCode.CONFIG, f"{where}: has no text: {fix}")
    return f"{entry.title}\n{text}" if entry.title else text


def _decode(body: bytes, shape: type[Shape]) -> Shape:
    """JSON of that shape; raises ValueError. Bytes that are no unicode are replaced."""
    try:
        # Unlike msgspec's, this parser takes half a surrogate pair for what it is.
        content = json.loads(body.decode(errors="replace"))
    except RecursionError as error:
        raise ValueError("JSON that is nested too deeply") from error
    return msgspec.convert(content, shape)


def _read(response: urllib3.BaseHTTPResponse, deadline: float) -> bytes:
    body = bytearray()
    while part := response.read1(READ_BYTES):
        body += part
        if len(body) > MAX_ANSWER_BYTES:
            raise ValueError(f"the server answered with more than {MAX_ANSWER_BYTES} bytes")
        if time.monotonic() > deadline:
            raise ValueError("the server was too slow with its answer")
    return bytes(body)
