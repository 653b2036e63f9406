"""The OpenAPI document at /openapi.json, and a page to try it at /docs; nothing from outside.

Swagger UI comes with the package fastapi-offline, whose files are served from here.
"""

from collections.abc import Mapping
from importlib.resources import files
from typing import Literal

from fastapi import APIRouter, FastAPI, Response
from fastapi.openapi.docs import get_swagger_ui_html
from fastapi.openapi.utils import get_openapi
from fastapi.responses import HTMLResponse

from volley.learner.api_problems import Problem, problems
from volley.learner.api_schemas import Schema, wire_schemas

FILES = {"swagger-ui-bundle.js": "text/javascript", "swagger-ui.css": "text/css"}
HEADERS = {
    # Swagger UI's page begins with a script of its own and draws with inline styles and images.
    "Content-Security-Policy": "default-src 'self'; script-src 'self' 'unsafe-inline'; "
    "style-src 'self' 'unsafe-inline'; img-src 'self' data:; frame-ancestors 'none'"
}
SECURITY = {
    "reader": {"type": "http", "scheme": "bearer", "description": "The run's VOLLEY_TOKEN"},
    "browser": {"type": "http", "scheme": "basic", "description": "It as the password, any user"},
    "admin": {"type": "http", "scheme": "bearer", "description": "Its VOLLEY_ADMIN_TOKEN"},
}
LOOKING: list[Schema] = [{"reader": []}, {"browser": []}, {"admin": []}]
COMMANDING: list[Schema] = [{"admin": []}]
OPEN = "/healthz"


def docs_routes(app: FastAPI) -> APIRouter:
    """The document of `app`, and the page that shows it."""
    router = APIRouter(include_in_schema=False)
    shipped = files("fastapi_offline") / "static"

    @router.get("/openapi.json")
    def openapi() -> Schema:
        return describe(app)

    @router.get("/docs")
    def docs() -> HTMLResponse:
        page = get_swagger_ui_html(
            openapi_url="openapi.json",
            title=app.title,
            swagger_js_url="docs/swagger-ui-bundle.js",
            swagger_css_url="docs/swagger-ui.css",
            swagger_favicon_url="data:,",
            swagger_ui_parameters={"validatorUrl": None},
        )
        page.headers.update(HEADERS)
        return page

    @router.get("/docs/{name}")
    def file(name: Literal["swagger-ui-bundle.js", "swagger-ui.css"]) -> Response:
        return Response((shipped / name).read_bytes(), media_type=FILES[name])

    return router


def describe(app: FastAPI) -> Schema:
    """OpenAPI 3.1 of all routes, with what they have in common: tokens and problems."""
    if not app.openapi_schema:
        document = get_openapi(
            title=app.title, version=app.version, description=app.description, routes=app.routes
        )
        schemas = document["components"]["schemas"]
        schemas |= {**wire_schemas(), **schemas, Problem.__name__: Problem.model_json_schema()}
        for unused in ("HTTPValidationError", "ValidationError"):
            schemas.pop(unused, None)
        document["components"]["securitySchemes"] = SECURITY
        for path, methods in document["paths"].items():
            for method, operation in methods.items():
                _complete(operation, is_open=path == OPEN, is_command=method == "post")
        app.openapi_schema = document
    return app.openapi_schema


def _complete(operation: Schema, *, is_open: bool, is_command: bool) -> None:
    """What all routes have in common, and the docstring's first sentence as a summary."""
    summary, _, description = str(operation.get("description", "")).partition("\n\n")
    operation["summary"], operation["description"] = summary, description
    responses = operation["responses"]
    assert isinstance(responses, dict), "every operation has answers"
    if "422" in responses:
        responses |= _named(problems(422))
    if not is_open:
        operation["security"] = COMMANDING if is_command else LOOKING
        responses |= _named(problems(401, 403) if is_command else problems(401))


def _named(answers: Mapping[int | str, Schema]) -> dict[str, Schema]:
    return {str(status): answer for status, answer in answers.items()}
