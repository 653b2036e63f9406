"""The learner over HTTP: what it is asked and told, behind two tokens.

api_workers    the run's spec, the head, blobs: what workers join with and follow
api_people     status, workers, ledger; readiness, Prometheus
api_past       steps, evaluations, groups with their texts
api_events     all that as it happens
api_control    pause, resume, checkpoint, stop, drain: for the admin's token alone
api_page       the live page at `/`
api_docs       what there is: OpenAPI, and a page to try it
"""

import socket
import threading
from importlib.metadata import version
from typing import Literal

import uvicorn
from fastapi import Depends, FastAPI
from fastapi.routing import APIRoute
from pydantic import BaseModel
from starlette.types import ASGIApp, Receive, Scope, Send

from volley.learner.api_control import control_routes
from volley.learner.api_docs import docs_routes
from volley.learner.api_events import event_routes
from volley.learner.api_page import page_routes
from volley.learner.api_past import past_routes
from volley.learner.api_people import people_routes
from volley.learner.api_problems import answer_with_problems
from volley.learner.api_tokens import may_command, may_look
from volley.learner.api_workers import worker_routes
from volley.learner.metrics_file import MetricsPages
from volley.learner.served import Served
from volley.learner.token import Tokens
from volley.telemetry.stops import ExitCode, Stop

SHUTDOWN_S = 5


class Alive(BaseModel):
    """The process answers."""

    status: Literal["alive"] = "alive"


def create_app(served: Served, tokens: Tokens) -> FastAPI:
    """The routes over this learner; without a token nothing but /healthz is answered.

    Without a spec there is nothing to join yet, and workers are told to try again.
    """
    app = FastAPI(
        title="Volley learner",
        description="Watch and command a run of GRPO, and join it as a worker.",
        version=version("volley-rl"),
        openapi_url=None,
        generate_unique_id_function=_name,
    )
    answer_with_problems(app)

    @app.get("/healthz", tags=["run"])
    async def healthz() -> Alive:
        """Whether the process answers; the one route without a token."""
        return Alive()

    steps = MetricsPages(served.folder / "metrics.jsonl")
    evaluations = MetricsPages(served.folder / "evaluations.jsonl")
    for router in (
        people_routes(served),
        past_routes(served, steps, evaluations),
        event_routes(served, steps, evaluations),
        worker_routes(served),
        docs_routes(app),
        page_routes(served),
    ):
        app.include_router(router, dependencies=[Depends(may_look(tokens))])
    app.include_router(control_routes(served), dependencies=[Depends(may_command(tokens))])
    return app


def _name(route: APIRoute) -> str:
    return route.name


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
            # Bounds the line and the headers of a request, which httptools does not.
            http="h11",
            ws="none",
            log_config=None,
            access_log=False,
            server_header=False,
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
