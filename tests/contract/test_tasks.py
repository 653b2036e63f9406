"""Prompt numbers against a real queue: what is issued, judged, tried again and closed."""

import msgspec
import pytest

from volley.learner.dead import DeadLetters
from volley.learner.ledger import Disposition, Ledger, closing
from volley.learner.lengths import Completion, Fate
from volley.learner.prompts import Prompt, Prompts
from volley.learner.step_log import Outcome
from volley.learner.tasks import TaskRules, Tasks, sampling_seed
from volley.schemas.codec import GroupLimits, decode_task, encode
from volley.schemas.groups import (
    SCHEMA_VERSION,
    Failure,
    FailureReason,
    Group,
    StopReason,
    Task,
    Trajectory,
    Version,
    VersionSpan,
    pack_logprobs,
    pack_token_ids,
)
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_stream import LearnerQueue, Lease, WorkerQueue, connect

pytestmark = pytest.mark.redis

HEAD = Version(1, 5)
BLOCK_S = 5.0
PROMPTS = Prompts([Prompt(f"p{i}", (i, i + 1), {"answer": i}) for i in range(7)], seed=0)


@pytest.fixture
def learner_queue(redis_url, run_name):
    queue = LearnerQueue(redis_url, run_name, epoch=1)
    yield queue
    queue.close()


@pytest.fixture
def worker(redis_url, run_name):
    queue = WorkerQueue(redis_url, run_name, "w")
    yield queue
    queue.close()


@pytest.fixture
def max_attempts():
    return 2


@pytest.fixture
def start(learner_queue, run_name, tmp_path, max_attempts):
    """Tasks as a process has them that has just begun."""
    rules = TaskRules(places=4, max_staleness=1, max_attempts=max_attempts, seed=0)
    limits = GroupLimits(run_name, 1, 8, 1, 64, 10_000)
    return lambda: Tasks(
        PROMPTS, learner_queue, limits, rules, HEAD, DeadLetters(tmp_path / "dead")
    )


@pytest.fixture
def tasks(start):
    tasks = start()
    tasks.reconcile()
    return tasks


def take(worker: WorkerQueue) -> tuple[Lease, Task]:
    lease = worker.lease(BLOCK_S)
    assert lease is not None
    return lease, decode_task(lease.body, 10_000)


def take_number(worker: WorkerQueue, number: int) -> tuple[Lease, Task]:
    while (taken := take(worker))[1].number != number:
        pass
    return taken


def group(task: Task, version: Version = HEAD, **fields: object) -> Group:
    trajectory = Trajectory(
        token_bytes=pack_token_ids([1, 2]),
        logprob_bytes=pack_logprobs([-1.0, -2.0]),
        version_spans=(VersionSpan(1, version), VersionSpan(1, HEAD)),
        inserted_spans=(),
        stop_reason=StopReason.STOP,
        text="",
        rewards=(1.0,),
    )
    whole = Group(
        schema_version=SCHEMA_VERSION,
        run=task.run,
        number=task.number,
        attempt=task.attempt,
        worker="w",
        prompt_ids=task.prompt_ids,
        trajectories=(trajectory,),
    )
    return msgspec.structs.replace(whole, **fields)


def failure(task: Task, reason: FailureReason) -> Failure:
    return Failure(SCHEMA_VERSION, task.run, task.number, task.attempt, "w", reason, "it broke")


def outcome(dispositions: dict[int, Disposition]) -> Outcome:
    return Outcome(SCHEMA_VERSION, True, None, HEAD, "root", dispositions, (), {})


def judge_next(tasks: Tasks, queue: LearnerQueue) -> Group | None:
    (delivery,) = queue.collect(BLOCK_S)
    return tasks.judge(delivery)


def first_success(tasks: Tasks, queue: LearnerQueue, worker: WorkerQueue) -> None:
    lease, task = take(worker)
    worker.complete(lease, encode(group(task)))
    assert judge_next(tasks, queue) is not None


def test_places_are_filled_with_tokenised_prompts_in_order(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    taken = [take(worker)[1] for _ in range(4)]
    assert [task.number for task in taken] == [0, 1, 2, 3]
    assert [task.prompt_ids for task in taken] == [PROMPTS[n].prompt_ids for n in range(4)]
    assert taken[0].min_version == HEAD
    assert taken[0].columns == PROMPTS[0].columns
    assert len({task.seed for task in taken}) == 4
    tasks.issue(HEAD)
    assert learner_queue.depth().outstanding == 4


def test_closing_a_number_frees_its_place(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    lease, task = take(worker)
    worker.complete(lease, encode(group(task)))
    assert judge_next(tasks, learner_queue) == group(task)
    tasks.logged([group(task)], tasks.snapshot()[1])
    assert learner_queue.depth().outstanding == 3
    tasks.issue(HEAD)
    assert tasks.ledger.open == {0, 1, 2, 3}
    tasks.close(outcome({0: Disposition.TRAINED}))
    tasks.issue(HEAD)
    assert tasks.ledger.open == {1, 2, 3, 4}


def test_numbers_that_are_made_up_for_take_no_place(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    first_success(tasks, learner_queue, worker)
    tasks.issue(HEAD, num_refill=1)
    assert tasks.ledger.open == {0, 1, 2, 3, 4}
    tasks.issue(HEAD, num_refill=1)
    assert learner_queue.depth().outstanding == 5
    tasks.close(outcome({0: Disposition.FILTERED}))
    tasks.issue(HEAD)
    assert tasks.ledger.open == {1, 2, 3, 4}


def test_what_was_given_up_is_kept_and_opened_again_when_asked_for(
    tasks, learner_queue, worker, tmp_path
):
    dead = DeadLetters(tmp_path / "dead")
    tasks.issue(HEAD)
    first_success(tasks, learner_queue, worker)
    for _ in range(2):
        lease, task = take_number(worker, 1)
        worker.complete(lease, encode(failure(task, FailureReason.REWARD)))
        assert judge_next(tasks, learner_queue) is None
    assert tasks.snapshot()[1].closed == {1: Disposition.SKIPPED}
    letter = dead.show(1)
    assert (letter.reason, letter.num_attempts, letter.prompt) == ("failed", 2, PROMPTS[1].prompt)
    assert "it broke" in letter.detail
    dead.requeue([1])
    tasks.issue(HEAD)
    ledger, changes = tasks.snapshot()
    assert changes.reopened == {1: Disposition.SKIPPED}
    assert ledger.open[1].num_attempts == 2
    _, task = take_number(worker, 1)
    assert task.attempt == 2
    tasks.logged([], changes)
    assert tasks.snapshot()[1].reopened == {}
    assert dead.take_requeued() == []


def test_a_number_whose_opening_is_logged_is_not_opened_a_second_time_after_a_crash(
    tasks, start, tmp_path
):
    dead = DeadLetters(tmp_path / "dead")
    tasks.issue(HEAD)
    tasks.close(outcome({1: Disposition.REFUSED}))
    dead.requeue([1])
    tasks.issue(HEAD)
    logged, changes = tasks.snapshot()
    again = start()
    again.resume(Ledger.of(logged), {}, changes.reopened, HEAD)
    again.issue(HEAD)
    assert again.snapshot()[1].reopened == {}
    assert 1 in again.ledger.open
    assert dead.take_requeued() == []


def test_a_number_whose_opening_is_not_logged_is_opened_after_a_crash(tasks, start, tmp_path):
    dead = DeadLetters(tmp_path / "dead")
    tasks.issue(HEAD)
    tasks.close(outcome({1: Disposition.REFUSED}))
    closed, _ = tasks.snapshot()
    dead.requeue([1])
    tasks.issue(HEAD)
    again = start()
    again.resume(Ledger.of(closed), {}, (), HEAD)
    assert 1 not in again.ledger.open
    again.issue(HEAD)
    assert again.snapshot()[1].reopened == {1: Disposition.REFUSED}
    assert 1 in again.ledger.open


def test_what_is_given_up_while_a_step_is_logged_is_for_the_next_one(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    first_success(tasks, learner_queue, worker)
    _, before = tasks.snapshot()
    for _ in range(2):
        lease, task = take_number(worker, 1)
        worker.complete(lease, encode(failure(task, FailureReason.REWARD)))
        assert judge_next(tasks, learner_queue) is None
    tasks.logged([], before)
    assert tasks.snapshot()[1].closed == {1: Disposition.SKIPPED}


def test_an_answer_that_cannot_be_read_is_kept(tasks, learner_queue, worker, tmp_path):
    tasks.issue(HEAD)
    lease, _ = take(worker)
    worker.complete(lease, b"garbage")
    assert judge_next(tasks, learner_queue) is None
    [message] = DeadLetters(tmp_path / "dead").messages()
    assert (message.number, message.num_bytes) == (lease.number, 7)


def test_a_group_from_weights_that_were_given_up_is_stale(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    lease, task = take(worker)
    tasks.resume(Ledger.of(tasks.snapshot()[0]), {}, (), Version(2, 3))
    worker.complete(lease, encode(group(task)))
    assert judge_next(tasks, learner_queue) is None
    assert tasks.ledger.deliveries(0).stale == 1


def test_a_stale_group_is_tried_again_then_skipped(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    first_success(tasks, learner_queue, worker)
    for attempt in range(2):
        lease, task = take_number(worker, 1)
        assert task.attempt == attempt
        worker.complete(lease, encode(group(task, Version(1, 3))))
        assert judge_next(tasks, learner_queue) is None
    assert tasks.ledger.counts().skipped == 1
    assert tasks.ledger.deliveries(0).stale == 2
    late = Completion(2, is_truncated=False, fate=Fate.STALE)
    assert tasks.take_stale() == [late, late]
    assert tasks.take_stale() == []
    assert learner_queue.depth().outstanding == 3


@pytest.mark.parametrize("max_attempts", [5])
def test_a_task_whose_groups_come_too_late_keeps_its_company(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    first_success(tasks, learner_queue, worker)
    for _ in range(5):
        lease, task = take_number(worker, 1)
        assert not task.alone
        worker.complete(lease, encode(group(task, Version(1, 3))))
        assert judge_next(tasks, learner_queue) is None
    assert tasks.ledger.counts().skipped == 1


@pytest.mark.parametrize("max_attempts", [5])
def test_a_task_whose_leases_are_lost_is_given_out_alone_then_skipped(
    tasks, learner_queue, worker, tmp_path
):
    tasks.issue(HEAD)
    first_success(tasks, learner_queue, worker)
    seen = []
    while tasks.ledger.counts().skipped == 0:
        _, task = take_number(worker, 1)
        seen.append(task.alone)
        [held] = [one for one in learner_queue.held_tasks() if one.number == 1]
        tasks.lease_lost(held)
    assert seen == [False, False, True, True, True]
    letter = DeadLetters(tmp_path / "dead").show(1)
    assert (letter.reason, letter.detail) == ("lease", "last held by w")


@pytest.mark.parametrize(
    "wrong",
    [
        {"run": "another"},
        {"prompt_ids": (9, 9)},
        {"number": 3},
        {"trajectories": ()},
        {"schema_version": SCHEMA_VERSION + 1},
    ],
)
def test_an_invalid_group_is_counted_and_its_number_tried_again(
    tasks, learner_queue, worker, wrong
):
    tasks.issue(HEAD)
    first_success(tasks, learner_queue, worker)
    lease, task = take(worker)
    worker.complete(lease, encode(group(task, **wrong)))
    assert judge_next(tasks, learner_queue) is None
    assert tasks.ledger.deliveries(0).invalid == 1
    assert take_number(worker, 1)[1].attempt == 1


def test_a_version_above_the_head_is_invalid(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    first_success(tasks, learner_queue, worker)
    lease, task = take(worker)
    worker.complete(lease, encode(group(task, Version(1, 6))))
    assert judge_next(tasks, learner_queue) is None
    assert tasks.ledger.deliveries(0).invalid == 1


def test_what_is_handed_back_goes_out_again_without_a_strike(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    for _ in range(5):
        lease, task = take_number(worker, 0)
        worker.complete(lease, encode(failure(task, FailureReason.HANDED_BACK)))
        assert judge_next(tasks, learner_queue) is None
    assert 0 in tasks.ledger.wanted
    assert tasks.ledger.deliveries(0).retried == {"handed_back": 5}


def test_failures_before_any_group_stop_the_run_with_what_they_said(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    for _ in range(3):
        lease, task = take(worker)
        worker.complete(lease, encode(failure(task, FailureReason.REWARD)))
    first, second, third = learner_queue.collect(BLOCK_S)
    assert tasks.judge(first) is tasks.judge(second) is None
    with pytest.raises(Stop, match="it broke") as caught:
        tasks.judge(third)
    assert caught.value.code is ExitCode.CONFIG


def test_a_lost_lease_goes_to_another_worker_and_the_late_answer_is_a_duplicate(
    tasks, learner_queue, worker
):
    tasks.issue(HEAD)
    lease, task = take(worker)
    (held,) = [one for one in learner_queue.held_tasks() if one.number == task.number]
    tasks.lease_lost(held)
    assert worker.complete(lease, encode(group(task))) is False
    assert learner_queue.duplicates() == 1
    again = take_number(worker, 0)[1]
    assert again.attempt == 1
    assert again.seed != task.seed


def test_a_group_in_hand_is_not_taken_twice_after_a_reconcile(tasks, learner_queue, worker):
    tasks.issue(HEAD)
    lease, task = take(worker)
    worker.complete(lease, encode(group(task)))
    assert judge_next(tasks, learner_queue) is not None
    tasks.reconcile()
    assert all(tasks.judge(delivery) is None for delivery in learner_queue.collect(0.1))
    assert tasks.ledger.open == {0, 1, 2, 3}


def test_what_redis_lost_is_issued_again(tasks, redis_url, run_name, learner_queue, worker):
    tasks.issue(HEAD)
    other = LearnerQueue(redis_url, run_name, epoch=1)
    other.reconcile([])
    other.close()
    assert learner_queue.depth().outstanding == 0
    tasks.reconcile()
    assert [take(worker)[1].number for _ in range(4)] == [0, 1, 2, 3]


def test_tasks_wait_for_room_in_a_full_redis(tasks, redis_url, learner_queue, worker):
    redis = connect(redis_url)
    redis.config_set("maxmemory", 1)
    try:
        tasks.issue(HEAD)
        assert tasks.num_kept_back == 4
        tasks.reconcile()
        assert tasks.num_kept_back == 4
    finally:
        redis.config_set("maxmemory", 0)
        redis.close()
    tasks.issue(HEAD)
    assert tasks.num_kept_back == 0
    assert [take(worker)[1].number for _ in range(4)] == [0, 1, 2, 3]


def test_seeds_name_one_attempt_at_one_number():
    seeds = {sampling_seed(run, n, attempt) for run in (0, 1) for n in (0, 1) for attempt in (0, 1)}
    assert len(seeds) == 8
    assert all(0 <= seed < 2**63 for seed in seeds)


def test_closing_builds_one_disposition_for_all():
    assert closing([1, 2], Disposition.SKIPPED) == {1: "skipped", 2: "skipped"}
