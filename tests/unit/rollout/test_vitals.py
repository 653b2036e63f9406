"""What a worker tells probes and Prometheus, over real HTTP."""

import json
import socket
import threading

import pytest
import urllib3
from prometheus_client.parser import text_string_to_metric_families

from volley.rollout.outage import Outage
from volley.rollout.vitals import VitalsServer
from volley.schemas.groups import Version
from volley.telemetry.metrics import WorkerVitals
from volley.telemetry.stops import ExitCode, Stop

TOKEN = "a-secret-token"
BEARER = {"Authorization": f"Bearer {TOKEN}"}
WELL = WorkerVitals(
    version=Version(2, 7),
    redis_up=True,
    num_groups=5,
    num_tokens=1234,
    num_leases=3,
    num_loads=4,
    load_s=0.5,
    rewards_failed={"raised": 2, "died": 0},
)


@pytest.fixture
def server():
    server = VitalsServer("127.0.0.1", 0, TOKEN)
    yield server
    server.close()


def get(server: VitalsServer, path: str, headers: dict[str, str] | None = None) -> tuple[int, str]:
    with urllib3.PoolManager(retries=False) as pool:
        answer = pool.request("GET", server.url + path, headers=headers, timeout=30)
        return answer.status, answer.data.decode()


def test_a_worker_that_has_not_joined_is_alive_and_says_what_is_missing(server):
    assert get(server, "/healthz")[0] == 200
    status, body = get(server, "/readyz")
    assert status == 503
    assert json.loads(body) == {"status": "not ready", "missing": ["weights", "redis"]}


@pytest.mark.parametrize(
    ("vitals", "status", "missing"),
    [
        (WELL, 200, None),
        (WorkerVitals(version=Version(1, 0)), 503, ["redis"]),
        (WorkerVitals(redis_up=True), 503, ["weights"]),
    ],
)
def test_it_is_ready_with_weights_and_redis(server, vitals, status, missing):
    server.watch(lambda: vitals)
    answered, body = get(server, "/readyz")
    assert answered == status
    assert json.loads(body).get("missing") == missing


def test_metrics_are_those_of_the_moment(server):
    server.watch(lambda: WELL)
    status, body = get(server, "/metrics", BEARER)
    assert status == 200
    samples = {
        sample.name + "".join(sample.labels.values()): sample.value
        for family in text_string_to_metric_families(body)
        for sample in family.samples
        if sample.name.startswith("volley_")
    }
    assert samples == {
        "volley_groups_completed_total": 5,
        "volley_tokens_sampled_total": 1234,
        "volley_leases_held": 3,
        "volley_redis_up": 1,
        "volley_weights_load_seconds_count": 4,
        "volley_weights_load_seconds_sum": 0.5,
        "volley_rewards_failed_totalraised": 2,
        "volley_rewards_failed_totaldied": 0,
        "volley_weights_epoch": 2,
        "volley_weights_step": 7,
    }
    server.watch(WorkerVitals)
    _, body = get(server, "/metrics", BEARER)
    assert "volley_redis_up 0.0" in body
    assert "volley_weights_step" not in body


@pytest.mark.parametrize(
    "headers",
    [{}, {"Authorization": "Bearer wrong"}, {"Authorization": TOKEN}, {"Authorization": "\u00fc"}],
)
def test_metrics_ask_for_the_token(server, headers):
    status, body = get(server, "/metrics", headers)
    assert status == 401
    assert "VOLLEY_TOKEN" in body
    assert TOKEN not in body


def test_other_paths_are_not_there(server):
    assert get(server, "/")[0] == 404
    assert get(server, "/healthz?probe=1")[0] == 200


def test_a_client_that_says_nothing_holds_up_nobody(server):
    host, port = server.url.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port))):
        assert get(server, "/healthz")[0] == 200


def test_a_port_in_use_is_refused_with_the_fix(server):
    port = int(server.url.rpartition(":")[2])
    with pytest.raises(Stop, match=f"--metrics-port {port}: .*choose a free port") as stop:
        VitalsServer("127.0.0.1", port, TOKEN)
    assert stop.value.code is ExitCode.ENVIRONMENT


def test_closing_frees_the_port_and_ends_the_thread():
    server = VitalsServer("127.0.0.1", 0, TOKEN)
    server.close()
    assert "vitals" not in {thread.name for thread in threading.enumerate()}
    port = int(server.url.rpartition(":")[2])
    VitalsServer("127.0.0.1", port, TOKEN).close()


def test_redis_is_up_once_it_has_answered_and_until_it_does_not():
    outage = Outage("Redis")
    seen = [outage.is_up]
    for happen in (outage.worked, lambda: outage.failed("gone"), outage.worked):
        happen()
        seen.append(outage.is_up)
    assert seen == [False, True, False, True]
