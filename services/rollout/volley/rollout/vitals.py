"""The worker over HTTP, for probes and Prometheus, from threads that sampling never waits for.

GET /healthz   alive; without a token
GET /readyz    weights are loaded and Redis answers, else 503 and what is missing; without a token
GET /metrics   Prometheus; with the worker's token
"""

import logging
import secrets
import socket
import threading
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler
from socketserver import BaseServer, ThreadingTCPServer

import msgspec

from volley.telemetry.metrics import WorkerVitals, expose_vitals
from volley.telemetry.stops import ExitCode, Stop

logger = logging.getLogger(__name__)

JSON = "application/json"
PROMETHEUS = "text/plain; version=0.0.4"


@dataclass(frozen=True, slots=True)
class _Answer:
    status: HTTPStatus
    content_type: str
    body: bytes


class VitalsServer:
    """Answers from its start on; before `watch` as a worker that has not joined yet."""

    def __init__(self, host: str, port: int, token: str) -> None:
        self._look: Callable[[], WorkerVitals] = WorkerVitals
        self._credentials = f"Bearer {token}".encode()
        try:
            self._server = _Server((host, port), partial(_Handler, self._answer))
        except OSError as error:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"--metrics-host {host}, --metrics-port {port}: {error.strerror}: "
                "choose a free port, or 0 for any",
            ) from error
        self.url = f"http://{host}:{self._server.server_address[1]}"
        self._thread = threading.Thread(
            target=self._server.serve_forever, name="vitals", daemon=True
        )
        self._thread.start()
        logger.info("listening for probes", extra={"url": self.url})

    def watch(self, look: Callable[[], WorkerVitals]) -> None:
        """Ask `look` from now on, at every request, from any thread."""
        self._look = look

    def close(self) -> None:
        """Answer nobody any more."""
        self._server.shutdown()
        self._thread.join()
        self._server.server_close()

    def _answer(self, path: str, authorization: str) -> _Answer:
        match path:
            case "/healthz":
                return _json(HTTPStatus.OK, {"status": "alive"})
            case "/readyz":
                return _readiness(self._look())
            case "/metrics":
                return self._metrics(authorization)
            case _:
                return _json(HTTPStatus.NOT_FOUND, {"detail": "/healthz, /readyz or /metrics"})

    def _metrics(self, authorization: str) -> _Answer:
        if not secrets.compare_digest(authorization.encode(), self._credentials):
            detail = "wrong or missing token: send `Authorization: Bearer` with VOLLEY_TOKEN"
            return _json(HTTPStatus.UNAUTHORIZED, {"detail": detail})
        return _Answer(HTTPStatus.OK, PROMETHEUS, expose_vitals(self._look()))


class _Server(ThreadingTCPServer):
    # http.server's own class asks DNS for the name of the host first.
    allow_reuse_address = True
    daemon_threads = True

    def handle_error(self, request: object, client_address: object) -> None:
        logger.warning("could not answer a probe", exc_info=True)


class _Handler(BaseHTTPRequestHandler):
    timeout = 10.0
    """Seconds that a silent client keeps a thread."""

    def __init__(
        self,
        answer: Callable[[str, str], _Answer],
        connection: socket.socket,
        client: object,
        server: BaseServer,
    ) -> None:
        self._answer = answer
        super().__init__(connection, client, server)

    def do_GET(self) -> None:
        path, _, _ = self.path.partition("?")
        answer = self._answer(path, self.headers.get("Authorization", ""))
        self.send_response(answer.status)
        if answer.status is HTTPStatus.UNAUTHORIZED:
            self.send_header("WWW-Authenticate", "Bearer")
        self.send_header("Content-Type", answer.content_type)
        self.send_header("Content-Length", str(len(answer.body)))
        self.end_headers()
        self.wfile.write(answer.body)

    def log_message(self, format: str, *args: object) -> None:
        logger.debug(format, *args)


def _readiness(vitals: WorkerVitals) -> _Answer:
    missing = []
    if vitals.version is None:
        missing.append("weights")
    if not vitals.redis_up:
        missing.append("redis")
    if missing:
        content = {"status": "not ready", "missing": missing}
        return _json(HTTPStatus.SERVICE_UNAVAILABLE, content)
    return _json(HTTPStatus.OK, {"status": "ready"})


def _json(status: HTTPStatus, content: Mapping[str, object]) -> _Answer:
    return _Answer(status, JSON, msgspec.json.encode(content) + b"\n")
