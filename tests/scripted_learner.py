"""A learner's HTTP side that misbehaves as told: cut connections, other bytes, other answers."""

import threading
from collections.abc import Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from types import TracebackType
from typing import Self


@dataclass
class Script:
    """What is answered; may be changed while serving."""

    bodies: Mapping[str, bytes] = field(default_factory=dict)
    """By path, without the query; anything else is 404."""
    status: int = 200
    cut_after: list[int] = field(default_factory=list)
    """For each coming answer, bytes of the body after which the connection is cut."""
    knows_ranges: bool = True
    seen: list[tuple[str, dict[str, str]]] = field(default_factory=list)
    """Request targets with their headers, in order."""


class ScriptedLearner:
    """Serves a script on a port of its own; entering starts it, leaving stops it."""

    def __init__(self) -> None:
        self.script = Script()
        script = self.script

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_GET(self) -> None:
                script.seen.append((self.path, dict(self.headers)))
                body = script.bodies.get(self.path.partition("?")[0])
                start = self._start() if body else 0
                status = script.status if body is not None else 404
                self.send_response(206 if start and status == 200 else status)
                rest = (body or b"")[start:]
                self.send_header("Content-Length", str(len(rest)))
                self.end_headers()
                if script.cut_after:
                    rest = rest[: script.cut_after.pop(0)]
                    self.close_connection = True
                self.wfile.write(rest)

            def _start(self) -> int:
                requested = self.headers.get("Range", "bytes=0-")
                start = int(requested.removeprefix("bytes=").rstrip("-"))
                return start if script.knows_ranges else 0

            def log_message(self, format: str, *args: object) -> None:
                """Silent: tests read `seen`."""

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.01,))
        self.url = f"http://127.0.0.1:{self._server.server_port}"

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()
