"""The learner over HTTP: its spec, its weights and its status, behind one bearer token.

GET /healthz              alive; the only route without a token
GET /readyz               the first weights are published and Redis answers
GET /metrics              Prometheus
GET /v1/status            StatusReport
GET /v1/run               RunSpec: what a worker needs to join (holds secrets)
GET /v1/weights           Manifest; long-poll with ?have=VERSION&wait=SECONDS, else 204
GET /v1/blobs/{hash}      immutable bytes, Range
"""

import asyncio
import secrets
import socket
import threading
from collections.abc import Callable
from typing import Annotated

import msgspec
import uvicorn
from fastapi import APIRouter, Depends, FastAPI, Header, HTTPException, Path, Query, Response
from fastapi.responses import FileResponse
from starlette.types import ASGIApp, Receive, Scope, Send

from volley.learner.weight_store import WeightStore
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import RunSpec
from volley.schemas.status import StatusReport
from volley.telemetry.metrics import expose_status
from volley.telemetry.stops import ExitCode, Stop

MAX_WAIT_S = 60.0
SHUTDOWN_S = 5


class _PinnedFile(FileResponse):
    """A blob that is not deleted while it is being sent."""

    chunk_size = 2**20

    def __init__(self, store: WeightStore, blob_hash: str) -> None:
        self._store = store
        self._hash = blob_hash
        with store.pinned(blob_hash) as path:
            if path is None:
                raise HTTPException(404, "no such blob; ask /v1/weights for the current one")
            super().__init__(
                path,
                media_type="application/octet-stream",
                headers={"ETag": f'"{blob_hash}"', "Cache-Control": "immutable"},
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._store.pinned(self._hash):
            await super().__call__(scope, receive, send)


def create_app(
    store: WeightStore, spec: RunSpec | None, report: Callable[[], StatusReport], token: str
) -> FastAPI:
    """The routes over these parts; a request without `token` gets 401 everywhere but /healthz.

    Without a spec there is nothing to join yet, and workers are told to try again.
    """
    app = FastAPI(title="Volley learner", docs_url=None, redoc_url=None, openapi_url=None)

    @app.get("/healthz")
    async def healthz() -> dict[str, str]:
        return {"status": "alive"}

    guarded = [Depends(_bearer(token))]
    app.include_router(_routes_for_people(store, report), dependencies=guarded)
    app.include_router(_routes_for_workers(store, spec), dependencies=guarded)
    return app


def _bearer(token: str) -> Callable[[str], None]:
    def authorised(authorization: Annotated[str, Header()] = "") -> None:
        if not secrets.compare_digest(authorization.encode(), f"Bearer {token}".encode()):
            raise HTTPException(
                401,
                "wrong or missing token: send `Authorization: Bearer` with the run's VOLLEY_TOKEN",
                headers={"WWW-Authenticate": "Bearer"},
            )

    return authorised


def _routes_for_people(store: WeightStore, report: Callable[[], StatusReport]) -> APIRouter:
    router = APIRouter()

    @router.get("/readyz")
    def readyz() -> dict[str, str]:
        if store.head is None:
            raise HTTPException(503, "no weights are published yet")
        redis = report().redis
        if redis != "ok":
            raise HTTPException(503, f"redis: {redis}")
        return {"status": "ready"}

    @router.get("/metrics")
    def metrics() -> Response:
        return Response(expose_status(report), media_type="text/plain; version=0.0.4")

    @router.get("/v1/status")
    def status() -> Response:
        return _json(report())

    return router


def _routes_for_workers(store: WeightStore, spec: RunSpec | None) -> APIRouter:
    router = APIRouter(prefix="/v1")

    @router.get("/run")
    async def run() -> Response:
        if spec is None:
            raise HTTPException(503, "the model is still made; see /v1/status, and ask again")
        return _json(spec)

    @router.get("/weights")
    async def weights(
        have: Annotated[str, Query(max_length=128)] = "",
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S)] = 0.0,
    ) -> Response:
        manifest = await _changed(store, have, wait)
        return Response(status_code=204) if manifest is None else _json(manifest)

    @router.get("/blobs/{blob_hash}")
    def blob(blob_hash: Annotated[str, Path(max_length=128)]) -> Response:
        return _PinnedFile(store, blob_hash)

    return router


def _json(content: msgspec.Struct) -> Response:
    return Response(msgspec.json.encode(content), media_type="application/json")


async def _changed(store: WeightStore, have: str, wait_s: float) -> Manifest | None:
    """The head once it is not version `have` or the run is over; None after `wait_s` or the close.

    Versions, not roots: a step may leave every tensor as it was (a learning rate of 0), and
    workers wait for the version that the next tasks ask for.
    """
    loop, changed = asyncio.get_running_loop(), asyncio.Event()
    with store.listening(lambda: loop.call_soon_threadsafe(changed.set)):
        try:
            async with asyncio.timeout(wait_s):
                while not _is_news(store.head, have):
                    if store.is_closed:
                        return None
                    changed.clear()
                    await changed.wait()
                return store.head
        except TimeoutError:
            return None


def _is_news(head: Manifest | None, have: str) -> bool:
    return head is not None and (str(head.version) != have or head.finished)


class ApiServer:
    """Serves an app from a thread of its own, on a socket that is bound at once.

    Another app may take over at any time.
    """

    def __init__(self, app: ASGIApp, host: str, port: int) -> None:
        self.app = app
        try:
            self._socket = socket.create_server((host, port), backlog=512)
        except OSError as error:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"server.host {host}, server.port {port}: {error.strerror}: "
                "choose a free port, or 0 for any",
            ) from error
        self.url = f"http://{host}:{self._socket.getsockname()[1]}"
        config = uvicorn.Config(
            self._answer,
            interface="asgi3",
            log_config=None,
            access_log=False,
            timeout_graceful_shutdown=SHUTDOWN_S,
        )
        self._server = uvicorn.Server(config)
        self._thread = threading.Thread(
            target=self._server.run, kwargs={"sockets": [self._socket]}, name="api", daemon=True
        )

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        """Answer what is under way, then close."""
        self._server.should_exit = True
        self._thread.join()
        self._socket.close()

    async def _answer(self, scope: Scope, receive: Receive, send: Send) -> None:
        await self.app(scope, receive, send)
