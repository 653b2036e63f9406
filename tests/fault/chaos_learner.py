"""A learner reduced to its ledger, as a process that kills itself at the worst moments.

    reconcile -> issue -> collect -> settle a step -> issue ...      and watch the leases

Training a group means writing its number and the value that a worker derived from it. Besides the
right protocol there are two tempting wrong ones, which the audit must catch.
"""

import json
import os
import random
import signal
import sys
import time
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import TextIO

from volley.transport.redis_stream import (
    Delivery,
    LearnerQueue,
    QueueForgotten,
    QueueUnavailable,
)

PLACES = 64
GROUPS_PER_STEP = 16
LEASE_S = 1.0
WATCH_INTERVAL_S = 0.1
FAILED = b"failed"
FAILPOINTS = ("collected", "half settled", "settled", "issued")
MAX_PASSES = 4
"""A doomed learner dies when it reaches its failpoint for the n-th time, n at most this."""


@dataclass(frozen=True)
class LearnerPlan:
    """What a learner process is told."""

    url: str
    run: str
    folder: str
    num_groups: int
    num_deaths: int
    """Lives that end at a failpoint; the next one finishes."""
    seed: int
    protocol: str


class Ledger:
    """Trained numbers on disk, a line each; a line that a crash cut short does not count."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / "ledger"
        self._issued_path = folder / "issued"
        text = self._path.read_text() if self._path.exists() else ""
        whole = text[: text.rfind("\n") + 1]
        self.trained = {int(line.split()[0]) for line in whole.splitlines()}
        self._file = self._path.open("a")
        self._file.truncate(len(whole))
        lives = folder / "lives"
        with lives.open("a") as file:
            _append(file, "another\n")
        self.epoch = len(lives.read_text().splitlines())

    @property
    def num_issued(self) -> int:
        """Numbers below this were once issued."""
        return int(self._issued_path.read_text()) if self._issued_path.exists() else 0

    def note_issued(self, num_issued: int) -> None:
        part = self._issued_path.with_suffix(".part")
        with part.open("w") as file:
            _append(file, str(num_issued))
        part.rename(self._issued_path)

    def log(self, step: list[Delivery]) -> None:
        _append(self._file, "".join(f"{each.number} {each.body.decode()}\n" for each in step))
        self.trained.update(each.number for each in step)


def _append(file: TextIO, text: str) -> None:
    file.write(text)
    file.flush()
    os.fsync(file.fileno())


class Learner:
    """The right protocol: log before dropping, and the ledger alone says what is open."""

    def __init__(self, plan: LearnerPlan) -> None:
        self.plan = plan
        self.ledger = Ledger(Path(plan.folder))
        self.queue = LearnerQueue(plan.url, plan.run, self.ledger.epoch)
        self.in_hand: dict[int, Delivery] = {}
        dice = random.Random(f"{plan.seed} {self.ledger.epoch}")
        self._failpoint = FAILPOINTS[self.ledger.epoch % len(FAILPOINTS)]
        self._passes = dice.randint(1, MAX_PASSES)
        self._watched: dict[str, tuple[int, float]] = {}
        self._next_watch_s = 0.0

    def reach(self, failpoint: str) -> None:
        """Die here, if this is where this life is to end."""
        self._passes -= failpoint == self._failpoint
        if self._passes == 0 and self.ledger.epoch <= self.plan.num_deaths:
            os.kill(os.getpid(), signal.SIGKILL)

    def num_left(self) -> int:
        """Groups still to be trained."""
        return self.plan.num_groups - len(self.ledger.trained)

    def restore(self) -> None:
        """Make Redis agree with the ledger."""
        self.in_hand.clear()
        wanted = self._wanted()
        kept = self.queue.reconcile(wanted)
        self.queue.issue({number: b"" for number in wanted if number not in kept})

    def issue_more(self) -> None:
        self.queue.issue(dict.fromkeys(self._wanted(), b""))

    def may_train(self, delivery: Delivery) -> bool:
        return delivery.number not in self.ledger.trained

    def settle(self, step: list[Delivery]) -> None:
        self.ledger.log(step)
        self.reach("half settled")
        self.queue.drop([each.number for each in step])

    def work(self) -> None:
        """Collect, settle full steps, issue what they freed."""
        for delivery in self.queue.collect(WATCH_INTERVAL_S):
            if delivery.body == FAILED:
                self.queue.reissue(delivery.number, delivery.held, b"")
            elif self.may_train(delivery):
                self.in_hand[delivery.number] = delivery
        self.reach("collected")
        for step in self._full_steps():
            self.settle(step)
            for each in step:
                del self.in_hand[each.number]
            self.reach("settled")
            self.issue_more()
            self.reach("issued")
        self._watch_leases()

    def _full_steps(self) -> list[list[Delivery]]:
        """Steps of GROUPS_PER_STEP; the last ones may be smaller."""
        deliveries = list(self.in_hand.values())
        starts = range(0, len(deliveries), GROUPS_PER_STEP)
        steps = [deliveries[start : start + GROUPS_PER_STEP] for start in starts]
        is_end = self.num_left() < PLACES
        return [step for step in steps if len(step) == GROUPS_PER_STEP or is_end]

    def _wanted(self) -> list[int]:
        numbers = range(self.plan.num_groups)
        return list(islice((n for n in numbers if n not in self.ledger.trained), PLACES))

    def _watch_leases(self) -> None:
        now_s = time.monotonic()
        if now_s < self._next_watch_s:
            return
        self._next_watch_s = now_s + WATCH_INTERVAL_S
        watched = {}
        for task in self.queue.held_tasks():
            progress, since_s = self._watched.get(task.task_id, (None, now_s))
            if progress != task.progress:
                progress, since_s = task.progress, now_s
            if task.worker is not None and now_s - since_s > LEASE_S:
                self.queue.reissue(task.number, task.held, b"")
            watched[task.task_id] = (progress, since_s)
        self._watched = watched


class TrustingLearner(Learner):
    """Asks Redis, not a ledger, what is still to be done: gone from there means done."""

    def num_left(self) -> int:
        return self.plan.num_groups - self.ledger.num_issued + self.queue.depth().outstanding

    def restore(self) -> None:
        self.in_hand.clear()
        self.queue.reconcile(range(self.ledger.num_issued))
        self.issue_more()

    def issue_more(self) -> None:
        start = self.ledger.num_issued
        free = PLACES - self.queue.depth().outstanding
        stop = min(start + free, self.plan.num_groups)
        self.queue.issue(dict.fromkeys(range(start, stop), b""))
        self.ledger.note_issued(stop)


class DropsBeforeItLogs(TrustingLearner):
    """Wrong: a crash between the two loses the step."""

    def settle(self, step: list[Delivery]) -> None:
        self.queue.drop([each.number for each in step])
        self.reach("half settled")
        self.ledger.log(step)


class TrainsWhatItIsGiven(TrustingLearner):
    """Wrong: a crash after logging and before dropping trains the step again."""

    def may_train(self, delivery: Delivery) -> bool:
        return True


PROTOCOLS = {each.__name__: each for each in (Learner, DropsBeforeItLogs, TrainsWhatItIsGiven)}


def main() -> None:
    plan = LearnerPlan(**json.loads(sys.argv[1]))
    learner = PROTOCOLS[plan.protocol](plan)
    agreed = False
    while True:
        try:
            if not agreed:
                learner.restore()
                agreed = True
            if learner.num_left() == 0:
                return
            learner.work()
        except (QueueForgotten, QueueUnavailable):
            agreed = False


if __name__ == "__main__":
    main()
