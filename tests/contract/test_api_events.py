"""Server-sent events over a real socket, read as they come."""

import json
import threading
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import replace
from functools import partial
from itertools import islice
from typing import NamedTuple

import pytest
import urllib3

from tests.reports import REPORT
from tests.serving import TOKEN, TOKENS, served, serving_learner
from tests.waiting import wait_until
from volley.learner.api_events import MAX_LISTENERS
from volley.learner.front import Front
from volley.learner.metrics_file import MetricsFile, MetricsLine
from volley.learner.run_folder import RunFolder
from volley.learner.settings import ServerSettings
from volley.learner.weight_store import WeightStore
from volley.schemas.groups import Version
from volley.schemas.status import LearnerState, RunEnd
from volley.telemetry.stops import ExitCode, Stop

STOPPED = RunEnd(LearnerState.STOPPED, "told to stop", 0)


class Event(NamedTuple):
    name: str
    data: dict[str, object]
    id: str


@pytest.fixture
def store(tmp_path):
    (tmp_path / "weights").mkdir()
    return WeightStore(tmp_path / "weights", "r", keep=2)


@pytest.fixture
def learner(tmp_path, store):
    return served(tmp_path, store)


@pytest.fixture
def steps(tmp_path):
    return MetricsFile(tmp_path / "metrics.jsonl")


@pytest.fixture
def pool():
    with urllib3.PoolManager(maxsize=MAX_LISTENERS + 2, retries=False, timeout=20) as pool:
        yield pool


def line(step: int) -> MetricsLine:
    return MetricsLine(Version(1, step), "aa", {"loss": step / 2})


@contextmanager
def listening(pool, url: str, last_id: str = "") -> Iterator[Iterator[Event]]:
    headers = {"Authorization": f"Bearer {TOKEN}"} | ({"Last-Event-ID": last_id} if last_id else {})
    with closing(
        pool.request("GET", f"{url}/v1/events", headers=headers, preload_content=False)
    ) as answer:
        assert answer.status == 200
        assert answer.headers["content-type"].startswith("text/event-stream")
        yield events_in(answer)


def events_in(answer: urllib3.BaseHTTPResponse) -> Iterator[Event]:
    fields: dict[str, str] = {}
    for text in (written.decode().rstrip("\n") for written in answer):
        if text:
            name, _, value = text.partition(": ")
            fields[name] = value
        elif fields:
            yield Event(fields["event"], json.loads(fields["data"]), fields["id"])
            fields = {}


def but_statuses(events: Iterator[Event]) -> Iterator[Event]:
    return (event for event in events if event.name != "status")


def test_a_listener_hears_of_now_and_of_every_step_from_now_on(learner, pool, steps, tmp_path):
    steps.append(line(1))
    with serving_learner(learner) as url, listening(pool, url) as events:
        first = next(events)
        assert (first.name, first.data["run"], first.id) == ("status", REPORT.run, "1.1-0.0")
        steps.append(line(2))
        MetricsFile(tmp_path / "evaluations.jsonl").append(line(1))
        step, evaluation = islice(but_statuses(events), 2)
        assert (step.name, step.id) == ("step", "1.2-0.0")
        assert step.data == {"epoch": 1, "step": 2, "root": "aa", "metrics": {"loss": 1.0}}
        assert (evaluation.name, evaluation.id) == ("evaluation", "1.2-1.1")
        assert evaluation.data["step"] == 1
        assert next(events).name == "status"


def test_who_comes_back_is_told_what_it_has_missed_and_nothing_twice(learner, pool, steps):
    for step in range(1, 5):
        steps.append(line(step))
    with serving_learner(learner) as url, listening(pool, url, last_id="1.2-0.0") as events:
        assert [event.data["step"] for event in islice(but_statuses(events), 2)] == [3, 4]
        steps.append(line(5))
        assert next(but_statuses(events)).data["step"] == 5


@pytest.mark.parametrize("last_id", ["37", "x", "1.2", "-", "9" * 400, "\u00e9"])
def test_an_id_that_is_none_begins_now(learner, pool, steps, last_id):
    steps.append(line(1))
    with (
        serving_learner(learner) as url,
        listening(pool, url, last_id.encode().decode("latin-1")) as events,
    ):
        assert next(events).id == "1.1-0.0"


def test_the_last_event_says_how_the_learner_has_ended(learner, pool, steps):
    with serving_learner(learner) as url, listening(pool, url) as events:
        next(events)
        steps.append(line(1))
        learner.end.set_result(STOPPED)
        (step, end) = but_statuses(events)
        assert step.data["step"] == 1
        assert end.name == "end"
        assert end.data == {"state": "stopped", "reason": "told to stop", "exit_code": 0}


def test_the_status_is_put_together_once_for_all_who_listen(tmp_path, store, pool):
    num_looks = 0

    def look():
        nonlocal num_looks
        num_looks += 1
        return REPORT

    learner = served(tmp_path, store, look)
    num_listeners, num_statuses = 8, 3

    def hear(url):
        with listening(pool, url) as events:
            return [event.name for event in islice(events, num_statuses)]

    with serving_learner(learner) as url, ThreadPoolExecutor(num_listeners) as threads:
        heard = list(threads.map(hear, [url] * num_listeners))
    assert heard == [["status"] * num_statuses] * num_listeners
    # The last to come may hear its three a look later than the first.
    assert num_statuses <= num_looks <= num_statuses + 2
    assert num_statuses + 2 < num_listeners


def test_there_is_room_for_so_many_listeners_and_again_when_they_go(learner, pool):
    def ask(url):
        headers = {"Authorization": f"Bearer {TOKEN}"}
        answer = pool.request("GET", f"{url}/v1/events", headers=headers, preload_content=False)
        answers.append(answer)
        return answer

    answers: list[urllib3.BaseHTTPResponse] = []
    with serving_learner(learner) as url:
        for _ in range(MAX_LISTENERS):
            assert ask(url).status == 200
        refused = ask(url)
        assert refused.status == 503
        assert refused.headers["content-type"] == "application/problem+json"
        assert b"listen already" in refused.read()
        for answer in answers:
            answer.close()
        assert wait_until(lambda: ask(url).status == 200)
        for answer in answers:
            answer.close()


@pytest.fixture
def front(tmp_path):
    folder = RunFolder(tmp_path / "run")
    with closing(folder):
        yield Front(ServerSettings(), folder, TOKENS)


def test_a_front_tells_that_a_run_has_diverged(front, learner, pool, capsys):
    heard: list[Event] = []

    def hear(url):
        with listening(pool, url) as events:
            heard.extend(events)

    def run():
        with front:
            front.show(learner)
            listener.start()
            wait_until(lambda: heard)
            raise Stop(ExitCode.DIVERGED, "the loss was not finite")

    listener = threading.Thread(target=lambda: hear(json.loads(capsys.readouterr().out)["url"]))
    with pytest.raises(Stop):
        run()
    listener.join(30)
    assert heard[-1].name == "end"
    assert heard[-1].data == {
        "state": "stopped",
        "reason": "the loss was not finite",
        "exit_code": 4,
    }


def test_who_listens_to_a_cold_start_is_let_go_to_hear_the_run(
    front, tmp_path, store, pool, capsys
):
    cold, warm = (
        served(tmp_path, store, partial(replace, REPORT, state=state))
        for state in (LearnerState.COLD_START, LearnerState.WAITING)
    )
    with front:
        front.show(cold)
        url = json.loads(capsys.readouterr().out)["url"]
        with listening(pool, url) as events:
            assert next(events).data["state"] == "cold start"
            front.show(warm)
            assert {event.name for event in events} <= {"status"}
        with listening(pool, url) as events:
            assert next(events).data["state"] == "waiting"
