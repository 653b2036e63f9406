"""The learner's routes over a real socket."""

import json
import re
import threading
from dataclasses import replace

import msgspec
import pytest
import torch
import urllib3

from tests.reports import REPORT, WORKER
from tests.serving import SPEC, TOKEN, served, serving, serving_learner
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import Version
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import RunSpec
from volley.schemas.status import LedgerReport, StatusReport, WorkersReport
from volley.telemetry.stops import Stop
from volley.transport.redis_stream import QueueUnavailable


@pytest.fixture
def store(tmp_path):
    return WeightStore(tmp_path, "r", keep=2)


@pytest.fixture
def pool():
    with urllib3.PoolManager(retries=False, timeout=30) as pool:
        yield pool


@pytest.fixture
def get(store, pool):
    def get(path, token=TOKEN, **headers):
        headers |= {"Authorization": f"Bearer {token}"} if token else {}
        return pool.request("GET", url + path, headers=headers)

    with serving(store) as url:
        yield get


def publish(store: WeightStore, step: int) -> Manifest:
    return store.publish({"w": torch.full((300_000,), float(step))}, Version(1, step))


def test_readiness_needs_weights(get, store):
    assert get("/readyz").status == 503
    publish(store, 0)
    assert get("/readyz").status == 200


def test_the_spec_and_the_status_arrive_as_they_were_sent(get):
    assert msgspec.json.decode(get("/v1/run").data, type=RunSpec) == SPEC
    assert msgspec.json.decode(get("/v1/status").data, type=StatusReport) == REPORT


def test_workers_and_the_ledger_are_parts_of_the_status(get):
    workers = msgspec.json.decode(get("/v1/workers").data, type=WorkersReport)
    assert workers.workers == (WORKER,)
    ledger = msgspec.json.decode(get("/v1/ledger").data, type=LedgerReport)
    assert (ledger.ledger, ledger.queue) == (REPORT.ledger, REPORT.queue)


def test_metrics_speak_prometheus(get):
    text = get("/metrics").data.decode()
    names = f'engine="transformers",host="box",worker="{WORKER.worker}"'
    for line in (
        "volley_step 37.0",
        'volley_numbers{state="trained"} 30.0',
        'volley_deliveries_total{kind="retried_lease"} 3.0',
        'volley_last_step{metric="reward_mean"} 0.4125',
        f"volley_worker_lag_versions{{{names}}} 1.0",
    ):
        assert line in text.splitlines()


def test_a_poll_answers_at_once_when_the_head_differs(get, store):
    manifest = publish(store, 0)
    answer = get("/v1/weights?have=other&wait=60")
    assert msgspec.json.decode(answer.data, type=Manifest) == manifest


def test_a_poll_for_a_known_head_ends_without_content(get, store):
    manifest = publish(store, 0)
    assert get(f"/v1/weights?have={manifest.version}&wait=0.05").status == 204
    assert get(f"/v1/weights?have={manifest.version}").status == 204


@pytest.mark.parametrize("ending", [False, True])
def test_a_waiting_poll_is_woken(get, store, ending):
    manifest = publish(store, 0)
    answers = []
    poll = threading.Thread(
        target=lambda: answers.append(get(f"/v1/weights?have={manifest.version}&wait=60"))
    )
    poll.start()
    if ending:
        store.finish()
    else:
        manifest = publish(store, 1)
    poll.join(30)
    heard = msgspec.json.decode(answers[0].data, type=Manifest)
    assert (heard.version, heard.finished) == (manifest.version, ending)


def test_a_waiting_poll_is_let_go_when_the_learner_stops(get, store):
    publish(store, 0)
    answers = []
    poll = threading.Thread(
        target=lambda: answers.append(get("/v1/weights?have=1.0&wait=60").status)
    )
    poll.start()
    # The poll has arrived by the time that a later one has waited.
    assert get("/v1/weights?have=1.0&wait=0.1").status == 204
    store.close()
    poll.join(30)
    assert answers == [204]


def test_blobs_come_whole_or_in_ranges(get, store):
    anchor = publish(store, 0).anchor
    whole = get(f"/v1/blobs/{anchor.hash}")
    assert len(whole.data) == anchor.num_bytes
    part = get(f"/v1/blobs/{anchor.hash}", Range="bytes=1000-")
    assert part.status == 206
    assert part.data == whole.data[1000:]


@pytest.mark.parametrize(
    "name", ["0" * 64, "..%2f..%2fetc%2fpasswd", "%2e%2e", "x" * 129, "", "%00", "a/b"]
)
def test_only_known_hashes_name_a_blob(get, store, name):
    publish(store, 0)
    assert get(f"/v1/blobs/{name}").status in (404, 422)


@pytest.mark.parametrize(
    "query", ["wait=-1", "wait=nan", "wait=1e9", "wait=x", "have=" + "a" * 129]
)
def test_a_malformed_poll_is_refused(get, store, query):
    publish(store, 0)
    assert get(f"/v1/weights?{query}").status == 422


@pytest.mark.parametrize("asked", ["bytes=9-1", "bytes=99999999-", "lines=1-2", "bytes=x"])
def test_a_range_that_the_blob_does_not_have_is_a_problem(get, store, asked):
    answer = get(f"/v1/blobs/{publish(store, 0).anchor.hash}", Range=asked)
    assert answer.status in (400, 416)
    assert answer.headers["content-type"] == "application/problem+json"
    assert b"Range" in answer.data


def away() -> StatusReport:
    return replace(REPORT, redis="degraded: no answer", queue=None, workers=())


def forgotten() -> StatusReport:
    raise QueueUnavailable("no answer from Redis: start it")


@pytest.mark.parametrize(
    ("path", "report"),
    [("/readyz", away), ("/v1/workers", away), ("/v1/status", forgotten), ("/metrics", forgotten)],
)
def test_what_only_redis_knows_is_a_problem_while_it_is_away(tmp_path, store, pool, path, report):
    publish(store, 0)
    with serving_learner(served(tmp_path, store, report)) as url:
        answer = pool.request("GET", url + path, headers={"Authorization": f"Bearer {TOKEN}"})
    assert (answer.status, answer.headers["content-type"]) == (503, "application/problem+json")
    assert "no answer" in json.loads(answer.data)["detail"]


def test_the_documentation_loads_nothing_from_elsewhere(get):
    page = get("/docs")
    loaded = re.findall(r'(?:src|href)="([^"]*)"', page.data.decode())
    assert "docs/swagger-ui-bundle.js" in loaded
    for address in loaded:
        assert address.startswith("data:") or get(f"/{address}").status == 200
    assert "default-src 'self'" in page.headers["content-security-policy"]
    assert b'validatorUrl": null' in page.data


def test_every_operation_says_what_it_is_for_and_what_it_takes(get):
    document = json.loads(get("/openapi.json").data)
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            assert operation["summary"].endswith("."), (method, path)
            assert path == "/healthz" or (operation["security"] and "401" in operation["responses"])


def test_a_busy_port_is_said_with_the_fix(store):
    with serving(store) as url:
        again = serving(store, port=int(url.rpartition(":")[2]))
        with pytest.raises(Stop, match="choose a free port"):
            again.__enter__()
