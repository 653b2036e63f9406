"""Reward functions that do their worst, in real processes: each harms only its own completion."""

import os
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from tests.waiting import wait_until
from volley.rollout.builtin_rewards import exact_match
from volley.rollout.reward_pool import RewardPool, RewardsClosed
from volley.rollout.rewards import FailureKind, RewardFailed, Score
from volley.schemas.run_spec import RewardLimits, RewardSpec
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes

TIMEOUT_S = 2.0
MAX_MEMORY_BYTES = 256 * 2**20
COMPLETIONS = ("ab", "evil", "abc")

CODE = """
import asyncio, os, subprocess, sys, threading, time

def lengths(completions):
    return [len(text) for text in completions]

def raises(completions):
    if "evil" in completions:
        raise KeyError("lost")
    return lengths(completions)

def hangs(completions):
    if "evil" in completions:
        threading.Event().wait()
    return lengths(completions)

def hangs_in_c(completions):
    if "evil" in completions:
        import re
        re.match("(a*)*b", "a" * 64)
    return lengths(completions)

def hangs_async(completions):
    async def hang():
        await asyncio.sleep(0 if "evil" not in completions else 1e6)
        return lengths(completions)
    return hang()

def eats(completions):
    if "evil" in completions:
        bytearray(2**30)
    return lengths(completions)

def exits(completions):
    if "evil" in completions:
        print("my last words", flush=True)
        os._exit(3)
    return lengths(completions)

def crashes(completions):
    if "evil" in completions:
        os.kill(os.getpid(), 11)
    return lengths(completions)

def says_nan(completions):
    return [float("nan") if text == "evil" else len(text) for text in completions]

def drops(completions):
    return [len(text) for text in completions if text != "evil"]

def returns_much(completions):
    if "evil" in completions:
        return "x" * 2**22
    return lengths(completions)

def raises_much(completions):
    if "evil" in completions:
        raise ValueError("x" * 2**24)
    return lengths(completions)

def forks(completions):
    if "evil" in completions and os.fork() == 0:
        while True:
            time.sleep(1)
    if "evil" in completions:
        os._exit(0)
    return lengths(completions)

def forks_and_returns_twice(completions):
    if os.fork() == 0:
        return [-1.0] * len(completions)
    return lengths(completions)

def starts(completions):
    child = subprocess.Popen(["sleep", "1000"])
    return [child.pid] * len(completions)

def prints(completions):
    for _ in range(10):
        print("x" * 2**20)
        print("y" * 2**10, file=sys.stderr)
    return lengths(completions)

def closes_everything(completions):
    if "evil" in completions:
        os.closerange(0, 1024)
    return lengths(completions)

def reads_input(completions):
    return [len(sys.stdin.read())] * len(completions)

def environment(completions):
    hidden = [name for name in os.environ if "SECRET" in name or "TOKEN" in name.split("_")]
    hidden += [name for name in os.environ if name.startswith("VOLLEY")]
    return [len(hidden)] * len(completions)

def pid(completions):
    return [os.getpid()] * len(completions)

def always_raises(completions):
    raise KeyError("never right")

def one_for_all(completions):
    return [1.0]

def slow_in_all(completions, seconds):
    time.sleep(sum(seconds))
    return lengths(completions)
"""


@pytest.fixture
def make_pool(tmp_path: Path) -> Iterator[Callable[..., RewardPool]]:
    """A pool over CODE, or other code; nothing of it is left after the test."""
    pools = []
    before = {child.pid for child in psutil.Process().children(recursive=True)}

    def make(
        *names: str,
        code: str = CODE,
        timeout_s: float = TIMEOUT_S,
        max_memory_bytes: int = MAX_MEMORY_BYTES,
        num_processes: int = 1,
    ) -> RewardPool:
        (tmp_path / "mine.py").write_text(code)
        file_hash = hash_bytes(code.encode())
        specs = [
            RewardSpec(name, 1.0, None)
            if name == "exact_match"
            else RewardSpec(f"mine:{name}", 1.0, file_hash)
            for name in names
        ]
        limits = RewardLimits(timeout_s, max_memory_bytes, num_processes, None)
        pools.append(RewardPool(specs, tmp_path, limits))
        return pools[-1]

    yield make
    for pool in pools:
        pool.close()
    left = {child.pid for child in psutil.Process().children(recursive=True)} - before
    assert not left


def score(pool: RewardPool, **columns: object) -> tuple[Score, ...]:
    (reward,) = pool.rewards
    return tuple(reward.score("p", COMPLETIONS, columns))


def group_of(pid: int) -> set[int]:
    """Processes whose group is led by `pid`."""
    found = set()
    for process in psutil.process_iter():
        try:
            if os.getpgid(process.pid) == pid and process.status() != psutil.STATUS_ZOMBIE:
                found.add(process.pid)
        except (ProcessLookupError, psutil.NoSuchProcess):
            continue
    return found


def test_a_function_scores_in_another_process_as_it_would_here(make_pool):
    assert score(make_pool("lengths")) == (2.0, 4.0, 3.0)
    (pid,) = set(score(make_pool("pid")))
    assert pid != os.getpid()


def test_ours_need_no_process(make_pool):
    pool = make_pool("exact_match")
    assert pool.rewards[0].score("p", ["a", "b"], {"answer": "b"}) == (0.0, 1.0)
    assert pool.rewards[0].function is exact_match


def test_functions_keep_their_order(make_pool):
    pool = make_pool("lengths", "exact_match", "says_nan")
    assert [reward.name for reward in pool.rewards] == [
        "mine:lengths",
        "exact_match",
        "mine:says_nan",
    ]
    assert pool.rewards[2].score("p", ["abc"], {}) == (3.0,)


@pytest.mark.parametrize(
    ("name", "kind", "words"),
    [
        ("raises", FailureKind.RAISED, "mine:raises raised.*KeyError: 'lost'"),
        ("hangs", FailureKind.TIMED_OUT, "mine:hangs: no answer within 2 s"),
        ("hangs_in_c", FailureKind.TIMED_OUT, "no answer within 2 s"),
        ("hangs_async", FailureKind.TIMED_OUT, "no answer within 2 s"),
        ("eats", FailureKind.OUT_OF_MEMORY, "bytearray.*MemoryError.*max_memory_bytes"),
        ("exits", FailureKind.DIED, "exit code 3.*my last words"),
        ("crashes", FailureKind.DIED, "a signal, Segmentation fault"),
        ("says_nan", FailureKind.RAISED, "nan, not a finite number"),
        ("drops", FailureKind.MISCOUNTED, "0 values for 1 completions"),
        ("returns_much", FailureKind.MISCOUNTED, "4194304 values"),
        ("raises_much", FailureKind.RAISED, r"ValueError: x+\n\[...\]\nx+$"),
        ("forks", FailureKind.DIED, "exit code 0"),
        ("closes_everything", FailureKind.DIED, "ended with"),
    ],
)
def test_the_evil_completion_alone_is_left_without_a_reward(make_pool, name, kind, words):
    pool = make_pool(name)
    first, evil, last = score(pool)
    assert (first, last) == (2.0, 3.0)
    assert isinstance(evil, RewardFailed)
    assert re.search(f"(?s){words}", str(evil)), evil
    assert evil.kind is kind
    assert len(str(evil)) < 20_000
    assert pool.failed == {k: int(k is kind) for k in FailureKind}
    assert pool.rewards[0].score("p", ["abcd"], {}) == (4.0,)


def test_a_fork_dies_with_the_process_that_made_it(make_pool):
    pool = make_pool("starts", "exits")
    (child,) = {int(pid) for pid in pool.rewards[0].score("p", ["a", "b"], {})}
    leader = os.getpgid(child)
    assert group_of(leader) == {leader, child}
    pool.rewards[1].score("p", COMPLETIONS, {})
    wait_until(lambda: not group_of(leader))


def test_a_fork_that_returns_does_not_answer_in_the_place_of_its_parent(make_pool):
    pool = make_pool("forks_and_returns_twice")
    assert [score(pool) for _ in range(3)] == [(2.0, 4.0, 3.0)] * 3


def test_printing_does_not_disturb_and_input_is_empty(make_pool):
    assert score(make_pool("prints")) == (2.0, 4.0, 3.0)
    assert score(make_pool("reads_input")) == (0.0, 0.0, 0.0)


def test_what_is_printed_is_logged_for_who_debugs(make_pool, caplog):
    caplog.set_level("DEBUG", "volley.rollout.reward_child")
    pool = make_pool("words", code="def words(completions):\n    print('here')\n    return [0.0]\n")
    pool.rewards[0].score("p", ["a"], {})
    wait_until(lambda: [r for r in caplog.records if "here" in getattr(r, "text", "")])


def test_no_secret_is_in_its_environment(make_pool, monkeypatch):
    secrets = ("VOLLEY_TOKEN", "VOLLEY_REDIS_URL", "HF_TOKEN", "AWS_SECRET_ACCESS_KEY")
    for name in secrets:
        monkeypatch.setenv(name, "hidden")
    assert score(make_pool("environment")) == (0.0, 0.0, 0.0)


def test_a_function_that_fails_for_all_says_what_it_said_of_the_group(make_pool):
    pool = make_pool("always_raises")
    with pytest.raises(RewardFailed, match=r"(?s)mine\.py.*never right"):
        score(pool)
    assert pool.failed["raised"] == 3


def test_a_function_that_cannot_count_is_wrong_even_where_it_is_right_about_one(make_pool):
    with pytest.raises(RewardFailed, match="1 values for 3 completions"):
        score(make_pool("one_for_all"))


def test_a_group_that_takes_too_long_together_is_scored_one_by_one(make_pool, caplog):
    pool = make_pool("slow_in_all")
    assert score(pool, seconds=0.9) == (2.0, 4.0, 3.0)
    assert "a reward failed for a group" in caplog.text
    assert sum(pool.failed.values()) == 0


def test_a_failure_that_was_raised_costs_no_process(make_pool):
    pool = make_pool("raises", "pid")
    before = pool.rewards[1].score("p", ["a"], {})
    score_of_evil = pool.rewards[0].score("p", COMPLETIONS, {})
    assert isinstance(score_of_evil[1], RewardFailed)
    assert pool.rewards[1].score("p", ["a"], {}) == before


def test_memory_is_limited_from_the_import_on(make_pool):
    with pytest.raises(Stop, match=r"(?s)importing .*mine\.py failed.*MemoryError") as stop:
        make_pool("f", code="DATA = bytearray(2**30)\ndef f(completions): return []\n")
    assert stop.value.code is ExitCode.CONFIG


@pytest.mark.parametrize(
    ("code", "words"),
    [
        ("import no_such_module_anywhere\n", "No module named 'no_such_module_anywhere'"),
        ("def g(completions): return []\n", "no such function"),
        ("import os\nos._exit(7)\n", "importing the reward code: .*exit code 7"),
    ],
)
def test_code_that_cannot_be_imported_stops_the_worker(make_pool, code, words):
    with pytest.raises(Stop, match=f"(?s){words}") as stop:
        make_pool("f", code=code)
    assert stop.value.code is ExitCode.CONFIG


def test_code_that_is_edited_during_the_run_stays_what_it_was(make_pool, tmp_path):
    pool = make_pool("exits")
    (tmp_path / "mine.py").write_text("raise AssertionError('was run')\n")
    assert score(pool)[::2] == (2.0, 3.0)


def test_calls_share_the_processes(make_pool):
    pool = make_pool("pid", num_processes=2)
    pids: list[object] = []
    threads = [
        threading.Thread(target=lambda: pids.extend(pool.rewards[0].score("p", ["a"], {})))
        for _ in range(8)
    ]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(pids) == 8
    assert 1 <= len(set(pids)) <= 2


def test_closing_ends_what_hangs_and_whoever_waits_for_it(make_pool):
    pool = make_pool("hangs", timeout_s=60.0)
    ended: list[BaseException] = []

    def wait() -> None:
        try:
            score(pool)
        except RewardsClosed as error:
            ended.append(error)

    threads = [threading.Thread(target=wait) for _ in range(3)]
    for thread in threads:
        thread.start()
    wait_until(lambda: [child for child in psutil.Process().children() if is_reward(child)])
    pool.close()
    for thread in threads:
        thread.join(30)
    assert len(ended) == 3
    assert not [child for child in psutil.Process().children() if is_reward(child)]


def is_reward(process: psutil.Process) -> bool:
    try:
        return "volley.rollout.reward_process" in process.cmdline()
    except psutil.NoSuchProcess:
        return False


WORKER = """
import sys
from pathlib import Path
from volley.rollout.reward_pool import RewardPool
from volley.schemas.run_spec import RewardLimits, RewardSpec
from volley.transport.tensors import hash_bytes

folder = Path(sys.argv[1])
file_hash = hash_bytes((folder / "mine.py").read_bytes())
specs = [RewardSpec(f"mine:{name}", 1.0, file_hash) for name in sys.argv[2:]]
pool = RewardPool(specs, folder, RewardLimits(1.0, 2**28, 1, None))
first, second = pool.rewards
print(int(first.score("p", ["a"], {})[0]), flush=True)
second.score("p", ["evil"] * 8, {})
sys.stdin.read()
"""


@pytest.mark.parametrize(
    "functions", [("starts", "lengths"), ("starts", "hangs"), ("pid", "hangs_in_c")]
)
def test_a_worker_that_is_killed_leaves_no_reward_process(tmp_path, functions):
    (tmp_path / "mine.py").write_text(CODE)
    with subprocess.Popen(
        [sys.executable, "-c", WORKER, tmp_path, *functions],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as worker:
        assert worker.stdout is not None
        leader = os.getpgid(int(worker.stdout.readline()))
        assert group_of(leader)
        worker.send_signal(signal.SIGKILL)
    wait_until(lambda: not group_of(leader))
