"""A retrieval server on a real socket that speaks as Search-R1's does, well or badly."""

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

PASSAGE = '"Paris"\nCapital of France'
HIT = {"document": {"id": "7", "contents": PASSAGE}, "score": 12.5}
OTHER = {"document": {"id": "8", "contents": '"Lyon"\nNot the capital'}, "score": 3.5}
ANSWER = json.dumps({"result": [[HIT, OTHER]]}).encode()


class SearchServer:
    """Answers each request with the next of `answers`, and from then on with the last one."""

    def __init__(self) -> None:
        self.answers: list[tuple[int, bytes]] = [(200, ANSWER)]
        self.asked: list[object] = []
        self.num_connections = 0
        self.released = threading.Event()
        """While it is not set, a request whose status is 0 waits, and one of status 1 drips."""
        self.url = ""

    def next_answer(self) -> tuple[int, bytes]:
        return self.answers.pop(0) if len(self.answers) > 1 else self.answers[0]


@contextmanager
def search_server() -> Iterator[SearchServer]:
    """A server until the end of the block."""
    state = SearchServer()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def setup(self) -> None:
            state.num_connections += 1
            super().setup()

        def do_POST(self) -> None:
            num_bytes = int(self.headers["content-length"])
            state.asked.append((self.path, json.loads(self.rfile.read(num_bytes))))
            status, body = state.next_answer()
            if status == 0:
                state.released.wait()
            self.send_response(status if status > 1 else 200)
            self.send_header("content-length", str(len(body)))
            self.end_headers()
            self._write(body, drips=status == 1)

        def _write(self, body: bytes, drips: bool) -> None:
            try:
                for byte in body if drips else b"":
                    self.wfile.write(bytes([byte]))
                    state.released.wait(0.05)
                self.wfile.write(b"" if drips else body)
            except OSError:
                # Who asked has gone.
                self.close_connection = True

        def log_message(self, format: str, *args: object) -> None:
            pass

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    server.daemon_threads = True
    thread = threading.Thread(target=server.serve_forever, args=(0.01,))
    thread.start()
    state.url = f"http://127.0.0.1:{server.server_port}/retrieve"
    try:
        yield state
    finally:
        state.released.set()
        server.shutdown()
        thread.join()
        server.server_close()
