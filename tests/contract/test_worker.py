"""A whole worker, in a thread, against a real Redis and a learner's real API."""

import socket
import threading
from collections import Counter
from pathlib import Path

import pytest
import urllib3

from tests.learner_side import EXACT_MATCH, TOKEN, LearnerSide
from tests.tiny_models import VOCAB
from tests.waiting import wait_until
from volley.learner.episode_metrics import describe_episodes
from volley.rollout.assembly import run_worker
from volley.rollout.settings import EngineName, WorkerSettings
from volley.schemas.codec import encode
from volley.schemas.groups import Failure, FailureReason, Group, StopReason, Version
from volley.schemas.run_spec import EnvironmentSpec, RewardLimits, RewardSpec
from volley.telemetry.stops import Stop
from volley.transport.tensors import hash_bytes

JOIN_S = 30.0


class RunningWorker:
    """A worker's thread, its way to be told to leave, and how it ended."""

    def __init__(
        self,
        url: str,
        token: str = TOKEN,
        code_folder: Path | None = None,
        max_num_seqs: int = 16,
        metrics_port: int | None = None,
    ) -> None:
        self.leaving = threading.Event()
        self.error: Exception | None = None
        settings = WorkerSettings(
            learner_url=url,
            token=token,
            redis_url=None,
            engine=EngineName.TRANSFORMERS,
            device="cpu",
            num_threads=1,
            code_folder=code_folder,
            max_num_seqs=max_num_seqs,
            metrics_port=metrics_port,
        )
        self._thread = threading.Thread(target=self._run, args=(settings,))
        self._thread.start()

    def _run(self, settings: WorkerSettings) -> None:
        try:
            run_worker(settings, self.leaving)
        except Exception as error:
            self.error = error

    def join(self) -> Exception | None:
        self._thread.join(JOIN_S)
        assert not self._thread.is_alive()
        return self.error


@pytest.fixture
def start_worker():
    workers = []

    def start(*args, **kwargs):
        workers.append(RunningWorker(*args, **kwargs))
        return workers[-1]

    yield start
    for worker in workers:
        worker.leaving.set()
        worker.join()


@pytest.fixture
def learner_side(tmp_path, redis_url, run_name, start_worker):
    with LearnerSide(tmp_path, redis_url, run_name) as side:
        yield side


def test_a_worker_with_a_url_and_a_token_completes_tasks(learner_side, start_worker):
    learner_side.publish(0)
    learner_side.issue(*(learner_side.task(number) for number in range(10)))
    worker = start_worker(learner_side.url)
    results = learner_side.collect(10)
    for number, group in results.items():
        assert isinstance(group, Group)
        assert group.number == number
        assert group.prompt_ids == learner_side.task(number).prompt_ids
        for trajectory in group.trajectories:
            assert [span.version for span in trajectory.version_spans] == [Version(1, 0)]
            assert (trajectory.num_tokens == 6) or trajectory.stop_reason is StopReason.STOP
            assert trajectory.rewards == (float(trajectory.text.strip() == "ab"),)
    (report,) = wait_until(lambda: [r for r in learner_side.reports() if r.num_groups == 10])
    assert report.version == Version(1, 0)
    assert report.root == learner_side.store.head.root
    sampled = sum(t.num_tokens for group in results.values() for t in group.trajectories)
    assert report.num_tokens == sampled
    assert not report.leases
    worker.leaving.set()
    assert worker.join() is None
    assert learner_side.reports() == []


def test_a_worker_answers_probes_from_before_it_joins(
    tmp_path, redis_url, run_name, start_worker, caplog
):
    caplog.set_level("INFO", "volley.rollout.vitals")
    with LearnerSide(tmp_path, redis_url, run_name) as side:
        worker = start_worker(side.url, metrics_port=0)
        (listening,) = wait_until(lambda: [r for r in caplog.records if hasattr(r, "url")])
        status, body = ask(listening.url, "/readyz")
        assert status == 503
        assert "weights" in body
        side.publish(0)
        wait_until(lambda: ask(listening.url, "/readyz")[0] == 200)
        side.issue(side.task(0))
        side.collect(1)
        wait_until(lambda: "volley_groups_completed_total 1.0" in ask(listening.url, "/metrics")[1])
        assert "volley_weights_load_seconds_count 1.0" in ask(listening.url, "/metrics")[1]
        worker.leaving.set()
        assert worker.join() is None


def ask(url: str, path: str) -> tuple[int, str]:
    with urllib3.PoolManager(retries=False) as pool:
        answer = pool.request("GET", url + path, headers={"Authorization": f"Bearer {TOKEN}"})
        return answer.status, answer.data.decode()


def test_two_workers_share_the_work_without_doing_it_twice(learner_side, start_worker):
    learner_side.publish(0)
    for _ in range(2):
        start_worker(learner_side.url, max_num_seqs=4)
    wait_until(lambda: len(learner_side.reports()) == 2)
    learner_side.issue(*(learner_side.task(number) for number in range(60)))
    results = learner_side.collect(60)
    assert len({group.worker for group in results.values()}) == 2
    assert learner_side.queue.duplicates() == 0


def test_a_task_is_not_begun_with_older_weights_than_it_asks_for(learner_side, start_worker):
    learner_side.publish(0)
    start_worker(learner_side.url)
    learner_side.issue(learner_side.task(0, min_version=Version(1, 1)))
    wait_until(lambda: [task for task in learner_side.queue.held_tasks() if task.worker])
    assert learner_side.queue.collect(block_s=0.3) == []
    learner_side.publish(1)
    (group,) = learner_side.collect(1).values()
    versions = {span.version for t in group.trajectories for span in t.version_spans}
    assert versions == {Version(1, 1)}


def test_new_weights_are_swapped_in_without_a_restart(learner_side, start_worker):
    learner_side.publish(0)
    worker = start_worker(learner_side.url)
    names = set()
    for step in range(4):
        learner_side.issue(learner_side.task(step, min_version=Version(1, step)))
        (group,) = learner_side.collect(1).values()
        names.add(group.worker)
        versions = {span.version for t in group.trajectories for span in t.version_spans}
        assert versions == {Version(1, step)}
        learner_side.publish(step + 1)
    assert len(names) == 1
    assert worker.error is None


def test_a_prompt_that_does_not_fit_is_a_failure_and_the_worker_goes_on(learner_side, start_worker):
    learner_side.publish(0)
    start_worker(learner_side.url)
    learner_side.issue(learner_side.task(0, prompt="a" * 60), learner_side.task(1))
    results = learner_side.collect(2)
    assert isinstance(results[1], Group)
    assert results[0].reason is FailureReason.PROMPT
    assert "exceed the context of 64" in results[0].detail


def test_a_body_that_is_no_task_is_a_failure_and_the_worker_goes_on(learner_side, start_worker):
    learner_side.publish(0)
    start_worker(learner_side.url)
    learner_side.queue.issue({0: b"no task"})
    learner_side.issue(learner_side.task(1))
    results = learner_side.collect(2)
    assert isinstance(results[1], Group)
    assert results[0].reason is FailureReason.PROMPT


def test_a_reward_that_raises_is_a_failure_with_the_users_traceback(
    tmp_path, redis_url, run_name, start_worker
):
    code = b"def count(completions, **columns):\n    return [1 / 0]\n"
    (tmp_path / "mine.py").write_bytes(code)
    rewards = (RewardSpec("mine:count", 1.0, hash_bytes(code)),)
    with LearnerSide(tmp_path, redis_url, run_name, rewards, code_folder=tmp_path) as side:
        side.publish(0)
        side.issue(side.task(0))
        start_worker(side.url)
        (failure,) = side.collect(1).values()
    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.REWARD
    assert "mine:count" in failure.detail
    assert "ZeroDivisionError" in failure.detail


PICKY = b"""
import os

def is_liked(text):
    return len(set(text)) % 2 == 0

def picky(completions, **columns):
    if not all(map(is_liked, completions)):
        os._exit(1)
    return [float(len(text)) for text in completions]
"""


@pytest.mark.parametrize(("on_failure", "left"), [(None, (None, None)), (-1.0, (-1.0, 0.0))])
def test_a_sample_that_kills_its_reward_harms_no_other(
    tmp_path, redis_url, run_name, start_worker, on_failure, left
):
    (tmp_path / "mine.py").write_bytes(PICKY)
    rewards = (RewardSpec("mine:picky", 1.0, hash_bytes(PICKY)), EXACT_MATCH)
    limits = RewardLimits(60.0, 2**30, 2, on_failure)
    with LearnerSide(
        tmp_path, redis_url, run_name, rewards, code_folder=tmp_path, reward_limits=limits
    ) as side:
        side.publish(0)
        side.issue(*(side.task(number) for number in range(8)))
        worker = start_worker(side.url)
        results = side.collect(8).values()
        worker.leaving.set()
        assert worker.join() is None
    rewards_by_liking: dict[bool, set[object]] = {True: set(), False: set()}
    for result in results:
        if isinstance(result, Failure):
            assert result.reason is FailureReason.REWARD
            continue
        for trajectory in result.trajectories:
            is_liked = len(set(trajectory.text)) % 2 == 0
            rewards_by_liking[is_liked].add(trajectory.rewards)
            assert trajectory.rewards == ((len(trajectory.text), 0.0) if is_liked else left)
    assert rewards_by_liking[True]
    assert rewards_by_liking[False] == {left}


def test_a_reward_that_is_being_waited_for_shows_as_progress(
    tmp_path, redis_url, run_name, start_worker
):
    code = b"def hang(completions):\n    import threading\n    threading.Event().wait()\n"
    (tmp_path / "mine.py").write_bytes(code)
    rewards = (RewardSpec("mine:hang", 1.0, hash_bytes(code)),)
    with LearnerSide(tmp_path, redis_url, run_name, rewards, code_folder=tmp_path) as side:
        side.publish(0)
        side.issue(side.task(0))
        worker = start_worker(side.url)
        most_tokens = 1 + side.spec.sampling.num_generations * 6
        wait_until(lambda: progress(side) > most_tokens)
        before = progress(side)
        wait_until(lambda: progress(side) > before)
        worker.leaving.set()
        (failure,) = side.collect(1).values()
        assert isinstance(failure, Failure)
        assert failure.reason is FailureReason.HANDED_BACK


def test_a_worker_whose_rewards_are_slow_leaves_tasks_to_others(
    tmp_path, redis_url, run_name, start_worker
):
    code = b"def hang(completions):\n    import threading\n    threading.Event().wait()\n"
    (tmp_path / "mine.py").write_bytes(code)
    rewards = (RewardSpec("mine:hang", 1.0, hash_bytes(code)),)
    with LearnerSide(tmp_path, redis_url, run_name, rewards, code_folder=tmp_path) as side:
        side.publish(0)
        side.issue(*(side.task(number) for number in range(10)))
        # Four threads score, and as many groups as are sampled at once wait: here, one.
        start_worker(side.url, max_num_seqs=4)
        wait_until(lambda: list(num_held(side).values()) == [5])
        start_worker(side.url, max_num_seqs=4)
        wait_until(lambda: list(num_held(side).values()) == [5, 5])


def num_held(side: LearnerSide) -> Counter[str]:
    """Tasks in the hands of each worker."""
    return Counter(task.worker for task in side.queue.held_tasks() if task.worker)


def progress(side: LearnerSide) -> int:
    return max((task.progress for task in side.queue.held_tasks()), default=0)


GUIDE = b"""
class Guide:
    stop_strings = tuple("abcdefghijklm")

    def __init__(self, prompt, columns, answer):
        self.metrics = {"answers": 0.0}
        self._answer = answer

    async def respond(self, transcript):
        if self.metrics["answers"] or transcript.turn.endswith("a"):
            return None
        self.metrics["answers"] += 1
        return self._answer
"""


def test_an_environment_answers_between_the_turns(tmp_path, redis_url, run_name, start_worker):
    (tmp_path / "mine.py").write_bytes(GUIDE)
    environment = EnvironmentSpec("mine:Guide", hash_bytes(GUIDE), {"answer": "=>"}, 4, 20.0)
    with LearnerSide(
        tmp_path, redis_url, run_name, code_folder=tmp_path, environment=environment
    ) as side:
        side.publish(0)
        side.issue(*(side.task(number) for number in range(6)))
        worker = start_worker(side.url)
        results = side.collect(6)
        worker.leaving.set()
        assert worker.join() is None
    groups = [result for result in results.values() if isinstance(result, Group)]
    assert len(groups) == 6
    trajectories = [one for group in groups for one in group.trajectories]
    assert {one.num_turns for one in trajectories} == {1, 2}
    for trajectory in trajectories:
        for span in trajectory.inserted_spans:
            inserted = trajectory.token_ids[span.start : span.stop]
            assert inserted == (VOCAB["="], VOCAB[">"])
            assert trajectory.sampler_logprobs[span.start : span.stop] == (0.0, 0.0)
        assert trajectory.metrics["answers"] >= trajectory.num_turns - 1


WILD = b"""
import string
import threading

SEEN = set()

class Wild:
    # So that every turn is a single token.
    stop_strings = tuple(string.ascii_lowercase + " =>")

    def __init__(self, prompt, columns):
        self._kind = "tame" if columns["kind"] in SEEN else columns["kind"]
        SEEN.add(columns["kind"])
        self.metrics = {"wild": self._kind != "tame", "answers": 0}

    def respond(self, transcript):
        if self._kind == "tame" or self.metrics["answers"]:
            return None
        self.metrics["answers"] += 1
        match self._kind:
            case "raises":
                raise OSError("no such tool")
            case "hangs":
                threading.Event().wait(10)
            case "floods":
                return "a" * 10_000_000
            case "closes":
                return "z"
            case "garbles":
                return "\\ud800"
"""
FAILING, KINDS = {"raises", "hangs", "garbles"}, ("raises", "hangs", "garbles", "floods", "closes")


def test_a_tool_that_goes_wild_harms_only_its_own_sample_and_is_counted(
    tmp_path, redis_url, run_name, start_worker
):
    (tmp_path / "mine.py").write_bytes(WILD)
    environment = EnvironmentSpec("mine:Wild", hash_bytes(WILD), {}, 4, 1.5)
    with LearnerSide(
        tmp_path, redis_url, run_name, code_folder=tmp_path, environment=environment
    ) as side:
        side.publish(0)
        side.issue(
            *(side.task(number, answer="ab", kind=kind) for number, kind in enumerate(KINDS))
        )
        worker = start_worker(side.url)
        results = side.collect(len(KINDS))
        worker.leaving.set()
        assert worker.join() is None
    groups = [one for _, one in sorted(results.items()) if isinstance(one, Group)]
    for kind, group in zip(KINDS, groups, strict=True):
        first, *others = group.trajectories
        assert (first.rewards == (None,)) is (kind in FAILING)
        assert (first.stop_reason is StopReason.FAILED) is (kind in FAILING)
        assert (first.stop_reason is StopReason.LENGTH) is (kind == "floods")
        assert (first.num_turns == 2) is (kind == "closes"), "the stop string was not its own"
        assert {one.stop_reason for one in others} == {StopReason.STOP}
        assert None not in {one.rewards[0] for one in others}
    counted = describe_episodes(groups)
    assert counted["failed_share"] == 3 / 20
    # What failed has not counted to its end.
    assert counted["environment/wild"] == 2 / 17
    assert counted["turns_mean"] == 21 / 20


def test_an_environment_that_fails_for_all_is_a_failure_with_its_traceback(
    tmp_path, redis_url, run_name, start_worker
):
    code = b"class Broken:\n    def __init__(self, prompt, columns):\n        1 // 0\n"
    (tmp_path / "mine.py").write_bytes(code)
    environment = EnvironmentSpec("mine:Broken", hash_bytes(code), {}, 4, 20.0)
    with LearnerSide(
        tmp_path, redis_url, run_name, code_folder=tmp_path, environment=environment
    ) as side:
        side.publish(0)
        side.issue(side.task(0))
        start_worker(side.url)
        (failure,) = side.collect(1).values()
    assert isinstance(failure, Failure)
    assert failure.reason is FailureReason.ENVIRONMENT
    assert "ZeroDivisionError" in failure.detail
    assert "mine.py" in failure.detail


def test_other_reward_code_than_the_learners_is_refused_at_join(
    tmp_path, redis_url, run_name, start_worker
):
    (tmp_path / "mine.py").write_text("def count(completions): return [0.0] * len(completions)\n")
    rewards = (RewardSpec("mine:count", 1.0, hash_bytes(b"other")),)
    with LearnerSide(tmp_path, redis_url, run_name, rewards) as side:
        error = start_worker(side.url, code_folder=tmp_path).join()
    assert isinstance(error, Stop)
    assert f"{tmp_path / 'mine.py'}" in error.message
    assert "--code" in error.message


def test_what_a_leaving_worker_cannot_finish_is_handed_back(learner_side, start_worker):
    learner_side.publish(0)
    worker = start_worker(learner_side.url)
    learner_side.issue(learner_side.task(0, min_version=Version(1, 5)))
    wait_until(lambda: [task for task in learner_side.queue.held_tasks() if task.worker])
    wait_until(lambda: [report for report in learner_side.reports() if report.leases == (0,)])
    worker.leaving.set()
    (failure,) = learner_side.collect(1).values()
    assert failure.reason is FailureReason.HANDED_BACK
    assert worker.join() is None
    assert learner_side.reports() == []


def test_a_task_that_was_given_to_others_is_let_go(learner_side, start_worker):
    learner_side.publish(0)
    start_worker(learner_side.url)
    learner_side.issue(learner_side.task(0, min_version=Version(1, 5)))
    (held,) = wait_until(lambda: [t for t in learner_side.queue.held_tasks() if t.worker])
    # Given to others, whoever they are: the same worker may lease it again.
    assert learner_side.queue.reissue(0, held.held, encode(learner_side.task(0)))
    (group,) = learner_side.collect(1).values()
    assert isinstance(group, Group)


def test_the_end_of_the_run_ends_the_worker(learner_side, start_worker):
    learner_side.publish(0)
    worker = start_worker(learner_side.url)
    wait_until(learner_side.reports)
    learner_side.store.finish()
    assert worker.join() is None
    assert learner_side.reports() == []


def test_a_wrong_token_stops_the_worker_with_the_fix(learner_side, start_worker):
    error = start_worker(learner_side.url, token="wrong").join()
    assert isinstance(error, Stop)
    assert (error.code, "VOLLEY_TOKEN" in error.message) == (2, True)


def test_room_for_less_than_a_group_stops_the_worker(learner_side, start_worker):
    error = start_worker(learner_side.url, max_num_seqs=3).join()
    assert isinstance(error, Stop)
    assert "--max-num-seqs" in error.message


def test_a_worker_may_start_before_the_learner(tmp_path, redis_url, run_name, start_worker, caplog):
    with socket.create_server(("127.0.0.1", 0)) as free:
        port = free.getsockname()[1]
    start_worker(f"http://127.0.0.1:{port}")
    wait_until(lambda: "waiting for the learner" in caplog.text)
    with LearnerSide(tmp_path, redis_url, run_name, port=port) as side:
        side.publish(0)
        side.issue(side.task(0))
        assert isinstance(side.collect(1)[0], Group)
    assert caplog.text.count("waiting for the learner") == 1


def test_a_worker_outlives_a_redis_that_goes_away(
    tmp_path, redis_server, run_name, start_worker, caplog
):
    with LearnerSide(tmp_path, redis_server.url, run_name) as side:
        side.publish(0)
        worker = start_worker(side.url)
        wait_until(side.reports)
        redis_server.kill()
        wait_until(lambda: "waiting for Redis" in caplog.text)
        redis_server.start()
        side.queue.reconcile(range(10))
        side.issue(side.task(0))
        assert isinstance(side.collect(1)[0], Group)
        assert worker.error is None
    assert caplog.text.count("waiting for Redis") == 1
