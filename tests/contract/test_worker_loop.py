"""The loop around an engine that does as told; queue, API and threads are the real ones."""

import threading
from collections.abc import Mapping
from contextlib import closing

import msgspec
import pytest
import torch

from tests.learner_side import TOKEN, LearnerSide
from tests.task_streams import close_streams, open_streams
from tests.waiting import wait_until
from volley.rollout.engine import SampleRequest, StepResult
from volley.rollout.episodes import Episodes
from volley.rollout.evaluating import Evaluating
from volley.rollout.leases import Leases
from volley.rollout.tokenizer import Tokenizer
from volley.rollout.weight_sync import WeightSync
from volley.rollout.worker import Worker
from volley.schemas.codec import encode
from volley.schemas.groups import FailureReason, Version
from volley.transport.learner_client import LearnerClient
from volley.transport.redis_stream import LearnerQueue, evaluation_stream


class ScriptedEngine:
    """Room for two groups of four, which never finish; `breaks` makes the next step raise."""

    def __init__(self, breaks: bool = False) -> None:
        self.running: list[str] = []
        self.aborted: list[str] = []
        self._breaks = breaks

    @property
    def num_free_seqs(self) -> int:
        return 8 - 4 * len(self.running)

    def add(self, request: SampleRequest) -> None:
        self.running.append(request.id)

    def step(self) -> StepResult:
        if self._breaks:
            raise RuntimeError("out of memory")
        return StepResult((), dict.fromkeys(self.running, 1))

    def abort(self, request_id: str) -> None:
        self.running.remove(request_id)
        self.aborted.append(request_id)

    def load(self, tensors: Mapping[str, torch.Tensor], version: Version) -> None:
        """Any weights will do."""

    def close(self) -> None:
        """Holds nothing."""


@pytest.fixture
def side(tmp_path, redis_url, run_name):
    with LearnerSide(tmp_path, redis_url, run_name) as side:
        side.publish(0)
        yield side


@pytest.fixture
def make_worker(side, tmp_path):
    """A worker over a scripted engine, and its leases; nothing beats for it."""
    parts = []

    def make(engine: ScriptedEngine) -> tuple[Worker, Leases, threading.Event]:
        client = LearnerClient(side.url, TOKEN)
        weights = WeightSync(client, side.spec.run, wait_s=0.2)
        leaving = threading.Event()
        streams = open_streams(side.spec, "scripted", (), str, leaving)
        parts.append((client, weights, streams))
        weights.start()
        episodes = Episodes(engine, Tokenizer(tmp_path / "model"), side.spec.vocab_size, None)
        worker = Worker(
            *("scripted", side.spec, engine, episodes, weights, streams[0]),
            *(Evaluating("scripted", episodes, streams[1]), leaving),
        )
        return worker, streams[0].leases, leaving

    yield make
    for client, weights, streams in parts:
        weights.close(timeout_s=5)
        close_streams(streams)
        client.close()


def test_an_engine_that_breaks_gives_its_tasks_back_with_the_traceback(side, make_worker):
    worker, leases, _ = make_worker(ScriptedEngine(breaks=True))
    side.issue(side.task(0), side.task(1))
    with pytest.raises(RuntimeError, match="out of memory"):
        worker.run()
    failures = side.collect(2)
    for failure in failures.values():
        assert failure.reason is FailureReason.ENGINE
        assert "RuntimeError: out of memory" in failure.detail
    assert leases.held() == ()


def test_a_task_that_killed_others_gets_no_company(side, make_worker):
    engine = ScriptedEngine()
    worker, leases, leaving = make_worker(engine)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    suspect = msgspec.structs.replace(side.task(1), alone=True)
    side.issue(side.task(0), suspect, side.task(2), side.task(3))
    wait_until(lambda: len(engine.running) == 1 and len(leases.held()) > 1)
    [first] = engine.running
    held = {leased.task.number: leased for leased in leases.held()}
    assert held[0].id == first
    leases.lose(leased.id for number, leased in held.items() if number != 1)
    wait_until(lambda: engine.running == [held[1].id])
    assert set(leases.progress()) == {held[1].id}
    leaving.set()
    thread.join()


def test_of_two_tasks_that_may_kill_one_goes_back_before_the_other_begins(side, make_worker):
    engine = ScriptedEngine()
    worker, leases, leaving = make_worker(engine)
    thread = threading.Thread(target=worker.run, daemon=True)
    side.issue(*(msgspec.structs.replace(side.task(number), alone=True) for number in range(2)))
    thread.start()
    wait_until(lambda: len(engine.running) == 1)
    [(number, failure)] = side.collect(1).items()
    assert failure.reason is FailureReason.HANDED_BACK
    wait_until(lambda: [leased.task.number for leased in leases.held()] == [1 - number])
    leaving.set()
    thread.join()


def test_weights_are_kept_for_held_out_prompts_and_no_longer(side, make_worker):
    side.publish(1, evaluate=True)
    engine = ScriptedEngine()
    worker, leases, leaving = make_worker(engine)
    suspect = msgspec.structs.replace(side.task(0, min_version=Version(1, 2)), alone=True)
    with closing(LearnerQueue(side.spec.redis_url, evaluation_stream(side.spec.run), 1)) as asking:
        asking.reconcile(())
        root = side.store.head.root
        held_out = msgspec.structs.replace(side.task(0), root=root, sampling=side.spec.sampling)
        asking.issue({0: encode(held_out)})
        thread = threading.Thread(target=worker.run, daemon=True)
        thread.start()
        wait_until(lambda: len(engine.running) == 1)
        side.issue(suspect)
        side.publish(2)
        wait_until(leases.held)
        [prompt] = engine.running
        assert worker.serving.version == Version(1, 1)
        # Others have it by now; so the worker looks for another one, and finds none.
        [task] = asking.held_tasks()
        worker._evaluating._leases.lose([task.task_id])
        wait_until(lambda: worker.serving.version == Version(1, 2))
    assert engine.aborted == [prompt]
    wait_until(lambda: engine.running == [leases.held()[0].id])
    leaving.set()
    thread.join()


def test_a_task_that_others_have_is_aborted_and_makes_room(side, make_worker):
    engine = ScriptedEngine()
    worker, leases, leaving = make_worker(engine)
    thread = threading.Thread(target=worker.run, daemon=True)
    thread.start()
    side.issue(*(side.task(number) for number in range(3)))
    wait_until(lambda: len(engine.running) == 2)
    lost, kept = engine.running
    leases.lose({lost, "a task that was completed long ago"})
    wait_until(lambda: len(engine.running) == 2 and lost not in engine.running)
    assert engine.aborted == [lost]
    assert engine.running[0] == kept
    assert lost not in leases.progress()
    leaving.set()
    handed_back = side.collect(2)
    thread.join()
    assert {failure.reason for failure in handed_back.values()} == {FailureReason.HANDED_BACK}
