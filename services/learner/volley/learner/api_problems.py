"""Answers that say what went wrong and what to do: problem details, RFC 9457."""

from collections.abc import Mapping
from http import HTTPStatus
from typing import Annotated

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
EXAMPLES = {
    400: "this is no request that can be read",
    401: "wrong or missing token: send `Authorization: Bearer` with the run's VOLLEY_TOKEN",
    403: "this takes the admin token: send `Authorization: Bearer` with VOLLEY_ADMIN_TOKEN",
    404: "step 3 is not kept: 17 to 37 are",
    416: "the blob is not as long as that",
    422: "query limit: input should be less than or equal to 1000",
    503: "redis: degraded: no answer within 5 s",
}


class Problem(BaseModel):
    """Why a request was not answered as asked."""

    type: str = "about:blank"
    title: Annotated[str, Field(examples=["Not Found"])]
    status: Annotated[int, Field(examples=[404])]
    detail: Annotated[str, Field(examples=[EXAMPLES[404]])]
    """What to do about it."""


def problems(*statuses: int) -> dict[int | str, dict[str, object]]:
    """For the OpenAPI document, the answers of a route that are no success."""
    schema = {"$ref": f"#/components/schemas/{Problem.__name__}"}
    return {
        status: {
            "description": HTTPStatus(status).phrase,
            "content": {
                MEDIA_TYPE: {
                    "schema": schema,
                    "example": _problem(status, EXAMPLES[status]).model_dump(),
                }
            },
        }
        for status in statuses
    }


def answer_with_problems(app: FastAPI) -> None:
    """Let every answer of `app` that is no success be a problem."""

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        is_ours = error.detail != HTTPStatus(error.status_code).phrase
        detail = error.detail if is_ours else OF_NO_ROUTE.get(error.status_code, error.detail)
        return _answer(error.status_code, detail, error.headers)

    @app.exception_handler(RequestValidationError)
    async def malformed(request: Request, error: RequestValidationError) -> Response:
        return _answer(422, "; ".join(map(_in_words, error.errors())))

    @app.exception_handler(Stop)
    async def not_there(request: Request, stop: Stop) -> Response:
        # What was asked for, or what it was asked of.
        return _answer(404 if stop.code is ExitCode.CONFIG else 503, stop.message)

    @app.exception_handler(QueueError)
    async def without_redis(request: Request, error: QueueError) -> Response:
        return _answer(503, str(error))

    @app.exception_handler(Exception)
    async def broken(request: Request, error: Exception) -> Response:
        return _answer(500, "this is a mistake in Volley: the learner's log has the traceback")


def _answer(status: int, detail: str, headers: Mapping[str, str] | None = None) -> Response:
    content = _problem(status, detail).model_dump_json()
    return Response(content, status, headers, media_type=MEDIA_TYPE)


def _problem(status: int, detail: str) -> Problem:
    return Problem(title=HTTPStatus(status).phrase, status=status, detail=detail)


def _in_words(error: dict[str, object]) -> str:
    """`query limit: input should be less than or equal to 1000`, without what was given."""
    place = error["loc"]
    assert isinstance(place, tuple), "pydantic names the place by its parts"
    return f"{' '.join(map(str, place))}: {str(error['msg']).lower()}"
