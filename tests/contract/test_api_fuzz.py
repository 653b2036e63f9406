"""No request whatever makes the learner fail: what OpenAPI allows, and what nobody should send."""

import socket
from urllib.parse import urlsplit

import pytest
import schemathesis
import torch
import urllib3
from hypothesis import HealthCheck, given, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from tests.serving import ADMIN_TOKEN, TOKEN, TOKENS, served, serving_learner
from tests.three_steps import run_of_three_steps
from volley.learner.api import create_app
from volley.learner.api_docs import describe
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import Version

CHECKS = [
    not_a_server_error,
    status_code_conformance,
    content_type_conformance,
    response_schema_conformance,
]
ENDLESS = "/v1/events"
MAX_WAIT_S = 0.01
WRONG_PATHS = [
    "/static/../../../token",
    "/static/%2e%2e/%2e%2e/token",
    "/static/..%2f..%2ftoken",
    "/static//etc/passwd",
    "/docs/..%2f..%2ftoken",
    "/v1/blobs/..%2f..%2f..%2ftoken",
    "/v1/blobs/%00",
    "/v1/groups/../../token",
    "/v1/groups/99999999999999999999",
    "/v1/groups/-1",
    "/v1/workers/%ff%fe/drain",
    "//v1//status",
    "/%",
]
HOST = b" HTTP/1.1\r\nHost: x\r\nConnection: close\r\n"
WRONG_REQUESTS = {
    "no request": b"hello\r\n\r\n",
    "no version": b"GET /healthz\r\n\r\n",
    "binary": bytes(range(256)) + b"\r\n\r\n",
    "a long line": b"GET /" + b"a" * 200_000 + HOST + b"\r\n",
    "a long header": b"GET /healthz" + HOST + b"A: " + b"a" * 200_000 + b"\r\n\r\n",
    "many headers": b"GET /healthz" + HOST + b"A: b\r\n" * 50_000 + b"\r\n",
    "a header that is no text": b"GET /v1/status" + HOST + b"Authorization: \xff\r\n\r\n",
    "a length that lies": b"POST /v1/control/pause" + HOST + b"Content-Length: -1\r\n\r\n",
    "two lengths": b"GET /" + HOST + b"Content-Length: 1\r\nContent-Length: 2\r\n\r\n",
    "a half upgrade": b"GET /" + HOST + b"Upgrade: websocket\r\n\r\n",
}


@pytest.fixture(scope="module")
def learner(tmp_path_factory):
    with run_of_three_steps(tmp_path_factory.mktemp("solo")) as solo:
        store = WeightStore(solo.folder.weights, "r", 2)
        store.publish({"w": torch.zeros(3)}, Version(9, 3))
        yield served(solo.folder.path, store)


@pytest.fixture(scope="module")
def url(learner):
    with serving_learner(learner) as url:
        yield url


@pytest.fixture(scope="module")
def app(learner):
    return create_app(learner, TOKENS)


@pytest.fixture
def pool():
    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        yield pool


def test_whatever_openapi_allows_is_answered_as_it_says(app, url):
    schema = schemathesis.openapi.from_dict(describe(app)).exclude(path=ENDLESS)
    num_operations = 0
    for found in schema.get_all_operations():
        operation = found.ok()  # type: ignore[union-attr]
        num_operations += 1

        @settings(
            max_examples=20,
            deadline=None,
            derandomize=True,
            database=None,
            suppress_health_check=list(HealthCheck),
        )
        @given(case=operation.as_strategy())
        def answers(case):
            if isinstance(case.query.get("wait"), int | float):
                case.query["wait"] = min(case.query["wait"], MAX_WAIT_S)
            headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
            case.call_and_validate(base_url=url, headers=headers, checks=CHECKS, timeout=30)

        answers()
    assert num_operations > 10


def routes(app) -> list[tuple[str, str]]:
    """Method and an address of every route but the open one."""
    found = []
    for route in app.routes:
        if route.path != "/healthz":
            path = route.path.replace("{command}", "pause").replace("{number}", "1")
            found += [(method, path.format_map(Anything())) for method in route.methods]
    return found


class Anything(dict[str, str]):
    def __missing__(self, key: str) -> str:
        return "x"


def test_every_route_refuses_a_missing_and_a_wrong_token(app, url, pool):
    asked = routes(app)
    assert len(asked) > 15
    wrong: list[dict[str, str]] = [
        {},
        {"Authorization": "Bearer wrong"},
        {"Authorization": "Bearer "},
        {"Authorization": TOKEN},
        {"Authorization": "Basic ::::"},
    ]
    for method, path in asked:
        for headers in wrong:
            answer = pool.request(method, url + path, headers=headers)
            assert answer.status == 401, (method, path, headers)
            assert answer.headers["content-type"] == "application/problem+json"
            assert TOKEN.encode() not in answer.data


@pytest.mark.parametrize("path", WRONG_PATHS)
@pytest.mark.parametrize("method", ["GET", "POST", "HEAD", "OPTIONS", "DELETE"])
def test_nothing_is_reached_by_a_way_around(url, path, method):
    answer = spoken_to(url, f"{method} {path} HTTP/1.1\r\nHost: x\r\n{authorised()}\r\n".encode())
    assert 400 <= status_of(answer) < 500
    assert TOKEN.encode() not in answer
    assert b"root:" not in answer


@pytest.mark.parametrize("name", WRONG_REQUESTS)
def test_what_is_no_request_is_refused(url, pool, name):
    answer = spoken_to(url, WRONG_REQUESTS[name])
    assert not answer or 400 <= status_of(answer) < 500
    assert pool.request("GET", f"{url}/healthz").status == 200, "others are answered still"


def test_a_body_that_nobody_asked_for_does_no_harm(url, pool):
    headers = {"Authorization": f"Bearer {ADMIN_TOKEN}"}
    for body in (b"\0" * 5_000_000, b"{" * 1000, b'{"a": 1}'):
        answer = pool.request("POST", f"{url}/v1/control/resume", headers=headers, body=body)
        assert answer.status in (202, 413, 422)


def authorised() -> str:
    return f"Authorization: Bearer {TOKEN}\r\nConnection: close\r\n"


def spoken_to(url: str, request: bytes) -> bytes:
    """All that comes back for these bytes; nothing where the connection is closed at once."""
    place = urlsplit(url)
    with socket.create_connection((place.hostname, place.port), timeout=30) as connection:
        answer = b""
        try:
            connection.sendall(request)
            while part := connection.recv(65536):
                answer += part
        except (ConnectionResetError, BrokenPipeError):
            pass
        return answer


def status_of(answer: bytes) -> int:
    return int(answer.split(b" ", 2)[1])
