"""Runs a learner and workers over a Redis that is killed, emptied and cut off, and audits them.

Faults come when enough groups are trained, not when a clock says so: a slow machine sees as many.
"""

import dataclasses
import json
import os
import random
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Callable
from dataclasses import dataclass
from itertools import count
from pathlib import Path
from types import TracebackType
from typing import Self

from tests.fault.chaos_learner import LearnerPlan
from tests.fault.chaos_worker import value_of
from tests.proxy import ReplyLosingProxy
from tests.waiting import wait_until
from volley.launcher.redis_server import RedisServer
from volley.transport.redis_stream import connect

RUN = "chaos"
NUM_WORKERS = 3
DEADLINE_S_PER_GROUP = 0.1


@dataclass(frozen=True)
class Chaos:
    """How many groups, and how often what is killed on the way."""

    num_groups: int
    learner_deaths: int
    worker_kills: int = 0
    redis_kills: int = 0
    flushalls: int = 0
    lost_reply_share: float = 0.0
    seed: int = 0
    protocol: str = "Learner"


@dataclass(frozen=True)
class Audit:
    """What the ledger says against what was asked for."""

    lost: list[int]
    twice: list[int]
    wrong: list[int]
    """Trained with a value that is not the number's."""
    sum_difference: int


CLEAN = Audit(lost=[], twice=[], wrong=[], sum_difference=0)


def audit(folder: Path, num_groups: int) -> Audit:
    """Compare the ledger in `folder` with the numbers below `num_groups`."""
    lines = (folder / "ledger").read_text().splitlines()
    trained = [(int(number), int(value)) for number, value in map(str.split, lines)]
    times = Counter(number for number, _ in trained)
    expected = sum(value_of(number) for number in range(num_groups))
    return Audit(
        lost=[number for number in range(num_groups) if not times[number]],
        twice=[number for number, count in times.items() if count > 1],
        wrong=[number for number, value in trained if value != value_of(number)],
        sum_difference=sum(value for _, value in trained) - expected,
    )


def run_chaos(chaos: Chaos, server: RedisServer, folder: Path) -> Audit:
    """Train all groups under the faults of `chaos`; the audit of what came out."""
    loses = _LosesSome(chaos.lost_reply_share, chaos.seed)
    with (
        ReplyLosingProxy(server.url, loses) as proxy,
        _Run(chaos, server, proxy.url, folder) as run,
    ):
        wait_until(run.is_over, DEADLINE_S_PER_GROUP * chaos.num_groups)
    assert loses.num_lost or not chaos.lost_reply_share
    return audit(folder, chaos.num_groups)


class _LosesSome:
    """Says which replies a proxy loses: a share of all."""

    def __init__(self, share: float, seed: int) -> None:
        self._share = share
        self._dice = random.Random(seed)
        self.num_lost = 0

    def __call__(self, chunk: bytes) -> bool:
        lost = self._dice.random() < self._share
        self.num_lost += lost
        return lost


class _Run:
    """The processes of one run, and the faults still to come."""

    def __init__(self, chaos: Chaos, server: RedisServer, url: str, folder: Path) -> None:
        self._plan = LearnerPlan(
            url=url,
            run=RUN,
            folder=str(folder),
            num_groups=chaos.num_groups,
            num_deaths=chaos.learner_deaths,
            seed=chaos.seed,
            protocol=chaos.protocol,
        )
        self._server = server
        self._dice = random.Random(chaos.seed)
        self._faults: list[Callable[[], None]] = [
            *[self._kill_worker] * chaos.worker_kills,
            *[self._kill_redis] * chaos.redis_kills,
            *[self._empty_redis] * chaos.flushalls,
        ]
        self._dice.shuffle(self._faults)
        # All come before the last fifth, so that even a busy machine has seen them at the end.
        self._groups_per_fault = chaos.num_groups * 4 // 5 // (len(self._faults) + 1)
        self._next_fault_at = self._groups_per_fault
        self._deaths_left = chaos.learner_deaths
        self._worker_names = (f"worker-{n}" for n in count())

    def __enter__(self) -> Self:
        self._workers = [self._start_worker() for _ in range(NUM_WORKERS)]
        self._learner = self._start_learner()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        for process in (self._learner, *self._workers):
            _kill(process)

    def is_over(self) -> bool:
        """True at the end; until then, what is due is killed and what died is replaced."""
        assert all(worker.poll() is None for worker in self._workers), "a worker crashed"
        code = self._learner.poll()
        if code == 0:
            assert not self._faults, f"{len(self._faults)} faults never came"
            assert not self._deaths_left, f"{self._deaths_left} learners did not die"
            return True
        if code is not None:
            assert code == -signal.SIGKILL, "the learner crashed"
            self._deaths_left -= 1
            self._learner = self._start_learner()
        ledger = Path(self._plan.folder) / "ledger"
        num_trained = ledger.read_bytes().count(b"\n") if ledger.exists() else 0
        if self._faults and num_trained >= self._next_fault_at:
            self._next_fault_at += self._groups_per_fault
            self._faults.pop()()
        return False

    def _start_worker(self) -> subprocess.Popen[bytes]:
        return _start("chaos_worker", self._plan.url, RUN, next(self._worker_names))

    def _start_learner(self) -> subprocess.Popen[bytes]:
        return _start("chaos_learner", json.dumps(dataclasses.asdict(self._plan)))

    def _kill_worker(self) -> None:
        place = self._dice.randrange(NUM_WORKERS)
        _kill(self._workers[place])
        self._workers[place] = self._start_worker()

    def _kill_redis(self) -> None:
        self._server.kill()
        self._server.start()

    def _empty_redis(self) -> None:
        client = connect(self._server.url)
        client.flushall()
        client.close()


def _start(module: str, *arguments: str) -> subprocess.Popen[bytes]:
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    return subprocess.Popen(
        [sys.executable, "-m", f"tests.fault.{module}", *arguments], env=environment
    )


def _kill(process: subprocess.Popen[bytes]) -> None:
    process.kill()
    process.wait()
