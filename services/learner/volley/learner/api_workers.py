"""Routes for workers: what they join with, and what they follow. Written as they read it."""

import asyncio
from typing import Annotated

import msgspec
from fastapi import APIRouter, HTTPException, Path, Query, Response
from fastapi.responses import FileResponse
from starlette.types import Message, Receive, Scope, Send

from volley.learner.api_problems import problems
from volley.learner.api_schemas import written_by_msgspec
from volley.learner.served import Served
from volley.learner.weight_store import WeightStore
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import RunSpec

MAX_WAIT_S = 60.0
NO_BLOB = "no such blob: ask /v1/weights for the one of now"
BAD_RANGE = "Range: ask for bytes that the blob has, as `bytes=1000-`"
BYTES = {"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}}


class _PinnedFile(FileResponse):
    """A blob that is not deleted while it is being sent."""

    chunk_size = 2**20

    def __init__(self, store: WeightStore, blob_hash: str) -> None:
        self._store = store
        self._hash = blob_hash
        with store.pinned(blob_hash) as path:
            if path is None:
                raise HTTPException(404, NO_BLOB)
            super().__init__(
                path,
                media_type="application/octet-stream",
                headers={"ETag": f'"{blob_hash}"', "Cache-Control": "immutable"},
            )

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        with self._store.pinned(self._hash) as path:
            if path is None:
                raise HTTPException(404, NO_BLOB)
            await super().__call__(scope, receive, _refusing_in_problems(send))


def _refusing_in_problems(send: Send) -> Send:
    """What Starlette answers to a bad `Range` in plain text."""

    async def send_or_refuse(message: Message) -> None:
        status = message.get("status", 200)
        if status >= 400:
            raise HTTPException(status, BAD_RANGE)
        await send(message)

    return send_or_refuse


def worker_routes(served: Served) -> APIRouter:
    """Joining a run and following its weights."""
    store, spec = served.store, served.spec
    router = APIRouter(prefix="/v1", tags=["workers"])

    @router.get(
        "/run", responses={200: written_by_msgspec(RunSpec), **problems(503)}, response_model=None
    )
    async def run() -> Response:
        """What a worker needs to join; it holds the address and the password of Redis."""
        if spec is None:
            raise HTTPException(503, "the model is still made; see /v1/status, and ask again")
        return _json(spec)

    @router.get(
        "/weights",
        responses={
            200: written_by_msgspec(Manifest),
            204: {"description": "The head is still the version that you have"},
        },
        response_model=None,
    )
    async def weights(
        have: Annotated[str, Query(max_length=128, examples=["1.37"])] = "",
        wait: Annotated[float, Query(ge=0, le=MAX_WAIT_S, examples=[0])] = 0.0,
    ) -> Response:
        """The head and where its bytes are, once it is another version than `have`.

        Waits for that as many seconds as `wait` says.
        """
        manifest = await _changed(store, have, wait)
        return Response(status_code=204) if manifest is None else _json(manifest)

    @router.get(
        "/blobs/{blob_hash}",
        responses={
            200: {"description": "All of the blob", "content": BYTES},
            206: {"description": "The bytes that `Range` asks for", "content": BYTES},
            **problems(400, 404, 416),
        },
        response_class=FileResponse,
    )
    def blob(blob_hash: Annotated[str, Path(max_length=128)]) -> Response:
        """Immutable bytes by their BLAKE3 hash, as a manifest or the run's spec names them."""
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
