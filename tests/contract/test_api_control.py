"""Orders over a real socket, and what the loop sees of them."""

import threading

import msgspec
import pytest
import urllib3

from tests.reports import REPORT, WORKER
from tests.serving import ADMIN_TOKEN, SPEC, TOKEN, serving_learner
from volley.learner.control import Control
from volley.learner.served import Served
from volley.learner.weight_store import WeightStore
from volley.transport.redis_stream import QueueUnavailable

ORDERS = ["control/pause", "control/resume", "control/checkpoint", "control/stop"]


@pytest.fixture
def control():
    return Control(threading.Event())


@pytest.fixture
def dismissed():
    return []


@pytest.fixture
def post(tmp_path, control, dismissed):
    store = WeightStore(tmp_path, "r", keep=2)
    learner = Served(tmp_path, store, lambda: REPORT, control, SPEC, dismissed.append)
    pool = urllib3.PoolManager(retries=False, timeout=30)

    def post(path, token=ADMIN_TOKEN, scheme="Bearer"):
        headers = {"Authorization": f"{scheme} {token}"} if token else {}
        return pool.request("POST", f"{url}/v1/{path}", headers=headers)

    with serving_learner(learner) as url:
        yield post
        pool.clear()


def test_a_pause_lasts_until_the_run_is_resumed_or_stopped(post, control):
    assert post("control/pause").status == 202
    assert control.is_paused
    assert post("control/resume").status == 202
    assert not control.is_paused
    post("control/pause")
    assert post("control/stop").status == 202
    assert not control.is_paused


def test_a_checkpoint_is_asked_for_once(post, control):
    assert post("control/checkpoint").status == 202
    assert control.take_checkpoint()
    assert not control.take_checkpoint()


def test_a_worker_that_is_there_is_let_go_and_no_other(post, dismissed):
    assert post(f"workers/{WORKER.worker}/drain").status == 202
    assert dismissed == [WORKER.worker]
    refused = post("workers/nobody/drain")
    assert refused.status == 404
    assert WORKER.worker in msgspec.json.decode(refused.data)["detail"]
    assert dismissed == [WORKER.worker]


@pytest.mark.parametrize("order", [*ORDERS, f"workers/{WORKER.worker}/drain"])
def test_only_the_admin_token_commands(post, control, dismissed, order):
    assert post(order, token=None).status == 401
    assert post(order, token="wrong").status == 401
    assert post(order, token=TOKEN).status == 403
    # A browser sends Basic by itself, also for a page of somebody else.
    assert post(order, token="OnNlY3JldA==", scheme="Basic").status == 401
    assert not control.is_paused
    assert not control.take_checkpoint()
    assert not dismissed


def test_an_order_that_nobody_knows_is_refused_with_those_there_are(post):
    refused = post("control/restart")
    assert refused.status == 422
    assert (
        "'pause', 'resume', 'checkpoint' or 'stop'" in msgspec.json.decode(refused.data)["detail"]
    )


def test_without_redis_nobody_can_be_told_to_leave(tmp_path, control):
    def away(worker: str) -> None:
        raise QueueUnavailable("Redis is away")

    learner = Served(tmp_path, WeightStore(tmp_path, "r", 2), lambda: REPORT, control, SPEC, away)
    with serving_learner(learner) as url, urllib3.PoolManager(retries=False) as pool:
        path = f"{url}/v1/workers/{WORKER.worker}/drain"
        answer = pool.request("POST", path, headers={"Authorization": f"Bearer {ADMIN_TOKEN}"})
        assert answer.status == 503
        assert "Redis is away" in msgspec.json.decode(answer.data)["detail"]
