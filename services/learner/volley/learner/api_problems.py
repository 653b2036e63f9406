"""Answers that say what went wrong and what to do: problem details, RFC 9457."""

from http import HTTPStatus

from fastapi import FastAPI, Request, Response
from fastapi.exceptions import RequestValidationError
from pydantic import BaseModel, Field
from starlette.exceptions import HTTPException

from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_stream import QueueError

MEDIA_TYPE = "application/problem+json"
OF_NO_ROUTE = {
    404: "there is nothing at this address: /docs lists what there is",
    405: "this address does not take this method: /docs lists what there is",
}


class Problem(BaseModel):
    """Why a request was not answered."""

    type: str = Field("about:blank", examples=["about:blank"])
    title: str = Field(examples=["Forbidden"])
    status: int = Field(examples=[403])
    detail: str = Field(examples=["this takes the admin token: ..."])
    """What to do about it."""


def answer_with_problems(app: FastAPI) -> None:
    """Let every answer of `app` that is no success be a problem."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        is_ours = error.detail != HTTPStatus(error.status_code).phrase
        detail = error.detail if is_ours else OF_NO_ROUTE.get(error.status_code, error.detail)
        return _problem(error.status_code, detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return _problem(422, "; ".join(map(_in_words, error.errors())))

    @app.exception_handler(Stop)
    async def not_there(request: Request, stop: Stop) -> Response:
        # What was asked for, or what it was asked of.
        return _problem(404 if stop.code is ExitCode.CONFIG else 503, stop.message)

    @app.exception_handler(QueueError)
    async def without_redis(request: Request, error: QueueError) -> Response:
        return _problem(503, str(error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _problem(500, "this is a mistake in Volley: the learner's log has the traceback")


def _problem(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
    problem = Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)
    return Response(problem.model_dump_json(), status, headers, media_type=MEDIA_TYPE)


def _in_words(error: dict[str, object]) -> str:
    """`query limit: input should be less than or equal to 1000`, without what was given."""
    place = error["loc"]
    assert isinstance(place, tuple), "pydantic names the place by its parts"
    return f"{' '.join(map(str, place))}: {str(error['msg']).lower()}"
