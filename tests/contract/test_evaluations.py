"""Evaluations over a real Redis: what is asked, tried again, given up, and counted."""

import threading

import pytest

from tests.builders import make_group, make_trajectory
from volley.learner.evaluations import EvaluationRules, Evaluations
from volley.learner.metrics_file import MetricsLine
from volley.learner.prompts import Prompt, Prompts
from volley.schemas.codec import GroupLimits, decode_task, encode
from volley.schemas.groups import SCHEMA_VERSION, Failure, FailureReason, Task, Version
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import Blob, SamplingSpec
from volley.transport.redis_stream import LearnerQueue, Lease, WorkerQueue, evaluation_stream

pytestmark = pytest.mark.redis

PROMPTS = Prompts([Prompt("a", (5,), {}), Prompt("b", (6,), {})], seed=0)
SAMPLED, GREEDY = SamplingSpec(2, 1.0, 8, (1,)), SamplingSpec(1, 0.0, 8, (1,))
LAST_STEP = 25


@pytest.fixture
def evaluations(redis_url, run_name):
    queue = LearnerQueue(redis_url, evaluation_stream(run_name), 1)
    rules = EvaluationRules(
        eval_steps=10,
        num_steps=LAST_STEP,
        samplings=(SAMPLED, GREEDY),
        reward_weights=(1.0,),
        pass_reward=1.0,
        seed=0,
        lease_s=60.0,
        timeout_s=1.0,
    )
    evaluations = Evaluations(
        rules, PROMPTS, queue, GroupLimits(run_name, 2, 8, 1, 64, 10_000), threading.Event()
    )
    yield evaluations
    evaluations.close()


@pytest.fixture
def worker(redis_url, run_name):
    queue = WorkerQueue(redis_url, evaluation_stream(run_name), "w")
    yield queue
    queue.close()


def manifest(step: int) -> Manifest:
    return Manifest(SCHEMA_VERSION, "run", Version(1, step), f"root-{step}", Blob("hash", 1))


def take(worker: WorkerQueue) -> list[tuple[Lease, Task]]:
    """All tasks that wait."""
    return [(lease, decode_task(lease.body, 10_000)) for lease in worker.lease_some(9, 0.0)]


def answer(worker: WorkerQueue, lease: Lease, task: Task, version: Version | None = None) -> bool:
    assert task.sampling is not None
    trajectory = make_trajectory([1.0], versions=[version or task.min_version] * 3)
    group = make_group(
        number=task.number,
        run=task.run,
        prompt_ids=task.prompt_ids,
        trajectories=[trajectory] * task.sampling.num_generations,
    )
    return worker.complete(lease, encode(group))


def fail(worker: WorkerQueue, lease: Lease, task: Task, reason: FailureReason) -> None:
    failure = Failure(SCHEMA_VERSION, task.run, task.number, 0, "w", reason, "it broke")
    assert worker.complete(lease, encode(failure))


def ended(evaluations: Evaluations) -> MetricsLine:
    evaluations.attend()
    [line] = evaluations.take_over()
    return line


def test_a_version_that_is_due_is_asked_whole_under_its_root(evaluations, worker):
    assert evaluations.begin(manifest(0)).evaluate
    tasks = take(worker)
    assert [task.sampling for _, task in tasks] == [SAMPLED, GREEDY] * 2
    assert {task.root for _, task in tasks} == {"root-0"}
    for lease, task in tasks:
        assert answer(worker, lease, task)
    line = ended(evaluations)
    assert (line.version, line.root) == (Version(1, 0), "root-0")
    assert (line.metrics["num_answered"], line.metrics["reward"]) == (2, 1.0)
    assert evaluations.begin(manifest(1)) == manifest(1)
    assert take(worker) == []


def test_a_version_that_was_evaluated_is_not_evaluated_again(evaluations, worker):
    evaluations.resume([MetricsLine(Version(1, 10), "root-10", {})])
    assert not evaluations.begin(manifest(10)).evaluate
    assert take(worker) == []


@pytest.mark.parametrize("spoilt", ["failure", "version"])
def test_what_comes_to_nothing_is_asked_once_more(evaluations, worker, spoilt):
    def spoil(lease: Lease, task: Task) -> None:
        if spoilt == "failure":
            fail(worker, lease, task, FailureReason.REWARD)
        else:
            assert answer(worker, lease, task, version=Version(1, 9))

    evaluations.begin(manifest(10))
    first, *others = take(worker)
    for lease, task in others:
        assert answer(worker, lease, task)
    spoil(*first)
    evaluations.attend()
    assert evaluations.take_over() == []
    [again] = take(worker)
    assert (again[1].number, again[1].attempt) == (first[1].number, 1)
    spoil(*again)
    line = ended(evaluations)
    assert (line.metrics["num_prompts"], line.metrics["num_answered"]) == (2, 1)


def test_what_is_handed_back_costs_no_attempt(evaluations, worker):
    evaluations.begin(manifest(10))
    for _ in range(3):
        (lease, task), *_ = take(worker)
        fail(worker, lease, task, FailureReason.HANDED_BACK)
        evaluations.attend()
    [(_, task)] = take(worker)
    assert task.attempt == 0


def test_a_version_is_left_out_while_another_one_is_being_answered(evaluations, worker):
    evaluations.begin(manifest(10))
    tasks = take(worker)
    assert not evaluations.begin(manifest(20)).evaluate
    assert evaluations.begin(manifest(LAST_STEP)).evaluate
    [line] = evaluations.take_over()
    assert (line.version.step, line.metrics["num_answered"]) == (10, 0)
    assert not any(answer(worker, lease, task) for lease, task in tasks)
    assert {task.root for _, task in take(worker)} == {f"root-{LAST_STEP}"}


def test_what_nobody_answers_is_given_up_for_the_next_version(evaluations, worker):
    evaluations.begin(manifest(10))
    assert evaluations.begin(manifest(20)).evaluate
    [line] = evaluations.take_over()
    assert (line.version.step, line.metrics["num_answered"]) == (10, 0)


def test_what_an_earlier_learner_asked_is_gone(redis_url, run_name, evaluations, worker):
    evaluations.begin(manifest(10))
    successor = LearnerQueue(redis_url, evaluation_stream(run_name), 2)
    limits = GroupLimits(run_name, 2, 8, 1, 64, 10_000)
    later = Evaluations(evaluations._rules, PROMPTS, successor, limits, threading.Event())
    later.attend()
    assert take(worker) == []
    # Whoever was overtaken notices, and leaves it to the training to stop.
    evaluations.attend()
    later.close()
