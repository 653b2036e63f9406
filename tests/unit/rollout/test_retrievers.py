"""Passages from an index, from a real server, and from memory."""

import json
import socket
import threading

import pytest

from tests.search_server import ANSWER, PASSAGE, search_server
from tests.waiting import wait_until
from volley.rollout.retrievers import (
    MAX_ANSWER_BYTES,
    Bm25Retriever,
    CachedRetriever,
    HttpRetriever,
    RetrievalFailed,
    read_corpus,
)
from volley.telemetry.stops import ExitCode, Stop

TIMEOUT_S = 0.5
PASSAGES = [
    "Paris is the capital of France",
    "Lyon is a city in France, on the Rhone",
    "food trm: wia",
    "who was was",
    "vitamin C",
]


def test_bm25_gives_the_best_passages_first():
    bm25 = Bm25Retriever(PASSAGES)
    assert bm25.search("Capital of FRANCE?", 2) == PASSAGES[:2]
    assert bm25.search("Capital of FRANCE?", 1) == PASSAGES[:1]


def test_bm25_gives_only_what_shares_a_word_with_the_query():
    bm25 = Bm25Retriever(PASSAGES)
    assert bm25.search("trm", 3) == ["food trm: wia"]
    assert bm25.search("franc", 3) == []
    assert bm25.search("", 3) == []
    assert bm25.search("!?", 3) == []


def test_bm25_finds_common_and_short_words_too():
    bm25 = Bm25Retriever(PASSAGES)
    assert bm25.search("was", 99) == ["who was was"]
    assert bm25.search("c", 99) == ["vitamin C"]


def test_bm25_prefers_rare_words_and_short_passages():
    # idf = ln(1 + (3 - n + 0.5) / (n + 0.5)): 0.98 for `rare`, 0.13 for `word`.
    bm25 = Bm25Retriever(["word word word", "word rare", "word"])
    assert bm25.search("word rare", 1) == ["word rare"]
    # 1 / (1 + 1.5 * (0.25 + 0.75 * length / 2)): 0.52 for one word, 0.40 for two.
    assert Bm25Retriever(["a b", "a", "c d e"]).search("a", 2) == ["a", "a b"]


def test_bm25_is_searched_by_many_threads_at_once():
    passages = [f"entity{number} has value{number}" for number in range(500)]
    bm25 = Bm25Retriever(passages)
    found: dict[int, list[str]] = {}

    def search(start: int) -> None:
        for number in range(start, 500, 8):
            found[number] = bm25.search(f"entity{number}", 3)

    threads = [threading.Thread(target=search, args=(start,)) for start in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == {number: [passage] for number, passage in enumerate(passages)}


@pytest.fixture
def corpus(tmp_path):
    file = tmp_path / "corpus.jsonl"

    def write(*lines: str):
        file.write_text("".join(f"{line}\n" for line in lines))
        return file

    return write


def test_a_corpus_holds_text_or_contents_with_or_without_a_title(corpus):
    file = corpus(
        '{"text": "one", "id": 1}',
        "",
        '{"id": "2", "contents": "\\"Two\\"\\nzwei"}',
        '{"title": "Three", "text": "drei"}',
    )
    assert read_corpus(file) == ["one", '"Two"\nzwei', "Three\ndrei"]


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("{", "Expecting property name"),
        ("[1]", "Expected `object`, got `array`"),
        ('{"text": 7}', r"Expected `str | null`, got `int` - at `\$.text`"),
        ('{"title": "Two"}', "has no text"),
        ('{"text": ""}', "has no text"),
        ("[" * 100_000, "nested too deeply"),
    ],
)
def test_a_line_of_a_corpus_that_cannot_be_used_is_named(corpus, line, words):
    file = corpus('{"text": "one"}', "", line)
    with pytest.raises(
        Stop, match=rf'corpus .*corpus\.jsonl, line 3: .*{words}.*write {{"text"'
    ) as stop:
        read_corpus(file)
    assert stop.value.code is ExitCode.CONFIG


def test_a_corpus_that_is_not_there_or_empty_is_named(corpus, tmp_path):
    with pytest.raises(Stop, match=r"absent\.jsonl: No such file"):
        read_corpus(tmp_path / "absent.jsonl")
    with pytest.raises(Stop, match=r"corpus\.jsonl: holds no passage"):
        read_corpus(corpus(""))


@pytest.fixture
def server():
    with search_server() as server:
        yield server


@pytest.fixture
def retriever(server):
    retriever = HttpRetriever(server.url, TIMEOUT_S)
    yield retriever
    retriever.close()


def test_a_server_is_asked_as_search_r1s_is_and_its_answer_read(server, retriever):
    assert retriever.search("capital", 3) == [
        '"Paris"\nCapital of France',
        '"Lyon"\nNot the capital',
    ]
    asked = {"queries": ["capital"], "topk": 3, "return_scores": True}
    assert server.asked == [("/retrieve", asked)]


def test_a_server_that_gives_more_than_it_was_asked_for_is_cut_short(retriever):
    assert retriever.search("capital", 1) == [PASSAGE]


def test_searches_share_a_connection(server, retriever):
    for _ in range(5):
        retriever.search("capital", 1)
    assert server.num_connections == 1


def hits(*contents: str) -> bytes:
    return json.dumps({"result": [[{"document": {"contents": one}} for one in contents]]}).encode()


@pytest.mark.parametrize(
    ("status", "body", "words"),
    [
        (500, b"", "status 500"),
        (302, b"", "status 302"),
        (200, b"", "Expecting value"),
        (200, ANSWER[:-9], "Expecting|Unterminated"),
        (200, b"[" * 100_000, "nested too deeply"),
        (200, b'{"result": []}', "Expected `array` of length 1"),
        (200, b'{"result": [[{"document": {}}]]}', "missing required field `contents`"),
        (200, b'{"results": 7}', "missing required field `result`"),
        (200, hits("x" * 10 * 2**20), f"more than {MAX_ANSWER_BYTES} bytes"),
        (0, ANSWER, "timed out"),
        (1, ANSWER, "too slow"),
    ],
    ids=lambda value: "" if isinstance(value, bytes) else str(value)[:20],
)
def test_a_bad_answer_fails_its_own_search_in_time_and_no_other(
    server, retriever, status, body, words
):
    server.answers = [(status, body), (200, ANSWER)]
    with pytest.raises(RetrievalFailed, match=words):
        retriever.search("capital", 1)
    assert len(server.asked) == 1
    assert retriever.search("capital", 1) == [PASSAGE]


def test_a_server_that_is_busy_is_asked_again(server, retriever):
    server.answers = [(503, b""), (429, b""), (200, ANSWER)]
    assert len(retriever.search("capital", 3)) == 2
    assert len(server.asked) == 3


def test_a_server_that_stays_busy_fails_the_search(server, retriever):
    server.answers = [(503, b"")]
    with pytest.raises(RetrievalFailed, match="too many 503"):
        retriever.search("capital", 3)
    assert len(server.asked) == 3


def test_a_server_that_is_not_there_fails_the_search():
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    retriever = HttpRetriever(f"http://127.0.0.1:{port}", TIMEOUT_S)
    with pytest.raises(RetrievalFailed, match="refused"):
        retriever.search("capital", 3)


def test_bytes_that_are_no_unicode_cost_no_more_than_themselves(server, retriever):
    server.answers = [(200, hits("caf?").replace(b"?", b"\xe9")), (200, hits("half a \ud83d"))]
    assert retriever.search("coffee", 1) == ["caf\N{REPLACEMENT CHARACTER}"]
    assert retriever.search("smile", 1) == ["half a \ud83d"]


def test_a_search_that_hangs_does_not_hold_up_the_others(server):
    server.answers = [(0, ANSWER), (200, ANSWER)]
    patient = HttpRetriever(server.url, 30.0)
    hanging = threading.Thread(target=lambda: patient.search("slow", 1))
    hanging.start()
    wait_until(lambda: server.asked)
    try:
        others = [patient.search(f"fast {number}", 1) for number in range(9)]
        assert len(others) == 9
        assert hanging.is_alive()
    finally:
        server.released.set()
        hanging.join()
        patient.close()


class Counting:
    """Finds the query itself, and fails where it is told to."""

    def __init__(self):
        self.asked = []
        self.fails = False

    def search(self, query, top_k):
        self.asked.append((query, top_k))
        if self.fails:
            raise RetrievalFailed("told to")
        return [query]


def test_what_was_found_is_remembered_for_its_query_and_number():
    counting = Counting()
    cached = CachedRetriever(counting, 8)
    found = cached.search("a", 3)
    found.append("spoilt")
    assert cached.search("a", 3) == ["a"]
    assert cached.search("a", 2) == ["a"]
    assert counting.asked == [("a", 3), ("a", 2)]


def test_the_query_that_was_not_used_for_longest_is_forgotten():
    counting = Counting()
    cached = CachedRetriever(counting, 2)
    for query in "abacab":
        cached.search(query, 1)
    assert [query for query, _ in counting.asked] == ["a", "b", "c", "b"]


def test_a_failure_is_not_remembered():
    counting = Counting()
    cached = CachedRetriever(counting, 8)
    counting.fails = True
    with pytest.raises(RetrievalFailed, match="told to"):
        cached.search("a", 1)
    counting.fails = False
    assert cached.search("a", 1) == ["a"]
