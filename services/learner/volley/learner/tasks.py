"""Prompt numbers on their way: issued, judged when they come back, tried again, closed.

The ledger says what a number is; this file keeps the queue in step with it. Everything here may be
called from the learner's loop and from its lease watch, one at a time.
"""

import logging
import threading
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass

from blake3 import blake3

from volley.learner.dead import DeadLetters
from volley.learner.ledger import Changes, Delivery, Disposition, Ledger, LedgerState, closing
from volley.learner.lengths import Completion, Fate
from volley.learner.prompts import Prompts
from volley.learner.step_log import Outcome
from volley.schemas.codec import GroupLimits, InvalidMessage, decode_result, encode
from volley.schemas.groups import (
    SCHEMA_VERSION,
    Failure,
    FailureReason,
    Group,
    Task,
    Version,
)
from volley.telemetry.stops import ExitCode, Stop
from volley.transport import redis_stream

logger = logging.getLogger(__name__)

# A run that has never had one good group has a mistake in it, not bad luck.
FAILURES_BEFORE_FIRST_GROUP = 3
# A task that kills its worker takes all that the worker holds with it.
FAILURES_TO_BE_ALONE = 2


@dataclass(frozen=True, slots=True)
class TaskRules:
    """How many numbers are out at once, and how patient the learner is with each."""

    places: int
    """(max_staleness + 1) x groups_per_step: bounds memory and lag."""
    max_staleness: int
    max_attempts: int
    seed: int


class Tasks:
    """Keeps up to `places` numbers outstanding and turns deliveries into groups."""

    def __init__(
        self,
        prompts: Prompts,
        queue: redis_stream.LearnerQueue,
        limits: GroupLimits,
        rules: TaskRules,
        head: Version,
        dead: DeadLetters,
    ) -> None:
        self._prompts = prompts
        self._queue = queue
        self._limits = limits
        self._rules = rules
        self._head = head
        self._dead = dead
        self._unissued: set[int] = set()
        self.num_kept_back = 0
        """Tasks that wait for room in a full Redis."""
        self._failures_before_first_group: int | None = 0
        self._closed: dict[int, Disposition] = {}
        self._reopened: dict[int, Disposition] = {}
        self._stale: list[Completion] = []
        self._lock = threading.Lock()
        self.ledger = Ledger()

    def resume(
        self,
        ledger: Ledger,
        closed: Mapping[int, Disposition],
        reopened: Collection[int],
        head: Version,
        concluded: Outcome | None = None,
    ) -> None:
        """Go on where the run had come to; a group that was ever trained shows that it works.

        `closed` since the last logged step, `reopened` with it; `concluded` is what became of the
        step in which the last process died.
        """
        with self._lock:
            if concluded is not None:
                self._bury_refused(concluded)
            self._dead.forget(reopened)
            self.ledger, self._closed, self._head = ledger, dict(closed), head
            if ledger.counts().trained:
                self._failures_before_first_group = None

    def issue(self, head: Version, num_refill: int = 0) -> None:
        """Fill the free places with the next numbers, to be sampled from `head` or newer.

        `num_refill` numbers that are in hand and have nothing to teach take no place.
        """
        with self._lock:
            self._head = head
            self._reopen()
            num_free = self._rules.places + num_refill - len(self.ledger.open)
            self._unissued.update(self.ledger.issue(num_free))
            self._issue_where_it_fits()

    def judge(self, delivery: redis_stream.Delivery) -> Group | None:
        """The group of a delivery if it can be trained on; everything else is dealt with here."""
        with self._lock:
            number = delivery.number
            if number not in self.ledger.wanted:
                # In hand already (the cursor went back after a reconnect) or closed since.
                return None
            try:
                result = decode_result(delivery.body, self._limits)
                self._check_origin(result, number)
            except InvalidMessage as error:
                self._dead.add_message(number, delivery.body, str(error))
                self._try_again(delivery, Delivery.INVALID, str(error))
                return None
            if isinstance(result, Failure):
                self._judge_failure(delivery, result)
                return None
            lag = self._head.step - _oldest(result).step
            # Ahead of the head are the weights that a rewound run has given up.
            if not 0 <= lag <= self._rules.max_staleness:
                self._stale.extend(_stale_completions(result))
                self._try_again(delivery, Delivery.STALE, f"{lag} versions behind")
                return None
            self._failures_before_first_group = None
            self.ledger.take(number)
            return result

    def take_stale(self) -> list[Completion]:
        """Completions that came too late since this was last asked."""
        with self._lock:
            taken, self._stale = self._stale, []
            return taken

    def lease_lost(self, task: redis_stream.HeldTask) -> None:
        """Give a task whose worker makes no progress to another worker."""
        with self._lock:
            if task.number in self.ledger.wanted:
                logger.warning("lease lost", extra={"number": task.number, "worker": task.worker})
                self._reissue(task.number, task.held, "lease", f"last held by {task.worker}")

    def snapshot(self) -> tuple[LedgerState, Changes]:
        """The ledger, and how it came to differ from that of the last logged step."""
        with self._lock:
            return self.ledger.state(), Changes(dict(self._closed), dict(self._reopened))

    def logged(self, groups: Sequence[Group], changes: Changes) -> None:
        """These groups are on the disk, with these changes: the queue may forget them."""
        with self._lock:
            # Not all that are noted by now: the lease watch may have added one since the snapshot.
            for number in changes.closed:
                del self._closed[number]
            self._dead.forget(changes.reopened)
            for number in changes.reopened:
                del self._reopened[number]
            self._queue.drop([group.number for group in groups])

    def close(self, outcome: Outcome) -> None:
        """Give the numbers of a step their final state."""
        with self._lock:
            self._bury_refused(outcome)
            self.ledger.close(outcome.dispositions)

    def reconcile(self) -> None:
        """Make Redis hold exactly the open numbers again, whatever was lost or left over there."""
        with self._lock:
            wanted = self.ledger.wanted
            self._unissued = set(wanted - self._queue.reconcile(wanted))
            self._issue_where_it_fits()

    def _issue_where_it_fits(self) -> None:
        if not self._unissued:
            return
        try:
            self._queue.issue({number: self._body(number) for number in sorted(self._unissued)})
        except redis_stream.QueueFull as error:
            # Results leave Redis as steps close; waiting here would keep them from being collected.
            self.num_kept_back = len(self._unissued)
            logger.warning("kept tasks back: %s", error, extra={"num_tasks": self.num_kept_back})
        else:
            self.num_kept_back = 0
            self._unissued.clear()

    def _body(self, number: int) -> bytes:
        prompt = self._prompts[number]
        attempt = self.ledger.attempt(number)
        return encode(
            Task(
                schema_version=SCHEMA_VERSION,
                run=self._limits.run,
                number=number,
                attempt=attempt,
                seed=sampling_seed(self._rules.seed, number, attempt),
                min_version=self._head,
                prompt=prompt.prompt,
                prompt_ids=prompt.prompt_ids,
                columns=prompt.columns,
                alone=self.ledger.failures(number) >= FAILURES_TO_BE_ALONE,
            )
        )

    def _check_origin(self, result: Group | Failure, number: int) -> None:
        if result.number != number:
            raise InvalidMessage(f"group {result.number} came in the place of {number}")
        if isinstance(result, Failure):
            return
        if result.prompt_ids != self._prompts[number].prompt_ids:
            raise InvalidMessage("the group answers another prompt")
        spans = [span for one in result.trajectories for span in one.version_spans]
        if any(span.version > self._head for span in spans):
            raise InvalidMessage(f"a token claims a version above the head {self._head}")

    def _judge_failure(self, delivery: redis_stream.Delivery, failure: Failure) -> None:
        if failure.reason is FailureReason.HANDED_BACK:
            self._reissue(
                delivery.number, delivery.held, failure.reason, failure.detail, strike=False
            )
        else:
            logger.debug("failed delivery: %s", failure.detail, extra={"number": failure.number})
            detail = f"{failure.reason}: {failure.detail}"
            # What a user's code has said may hold a prompt.
            self._try_again(delivery, Delivery.FAILED, detail, told=failure.reason)

    def _try_again(
        self, delivery: redis_stream.Delivery, kind: Delivery, detail: str, told: str | None = None
    ) -> None:
        """Keep the detail; `told` stands in the log instead of it."""
        fields = {"number": delivery.number, "detail": told or detail}
        logger.warning("%s delivery", kind, extra=fields)
        self.ledger.count(kind)
        self._stop_if_nothing_ever_worked(detail)
        self._reissue(delivery.number, delivery.held, kind, detail)

    def _reissue(
        self, number: int, held: str, reason: str, detail: str, *, strike: bool = True
    ) -> None:
        strikes = self.ledger.retry(number, reason, strike=strike)
        if strikes < self._rules.max_attempts:
            self._queue.reissue(number, held, self._body(number))
            return
        logger.warning("skipped number", extra={"number": number, "strikes": strikes})
        self._bury(number, Disposition.SKIPPED, reason, detail)
        skipped = closing([number], Disposition.SKIPPED)
        self.ledger.close(skipped)
        self._closed |= skipped
        self._queue.drop([number])

    def _bury_refused(self, outcome: Outcome) -> None:
        for number, disposition in outcome.dispositions.items():
            if number in outcome.set_aside:
                self._bury(number, disposition, "poison", "the learner died of it, three times")
            elif disposition is Disposition.REFUSED:
                self._bury(number, disposition, "refused", outcome.reason or "")

    def _bury(self, number: int, disposition: Disposition, reason: str, detail: str) -> None:
        prompt = self._prompts[number].prompt
        text = prompt if isinstance(prompt, str) else prompt[-1]["content"]
        attempts = self.ledger.attempt(number) if number in self.ledger.open else 0
        self._dead.add_number(number, disposition, reason, detail, attempts, text)

    def _reopen(self) -> None:
        """Open again what a person has asked for; the next logged step carries it."""
        for letter in self._dead.take_requeued():
            if letter.number not in self._reopened:
                self.ledger.reopen(letter.number, letter.disposition, letter.num_attempts)
                self._reopened[letter.number] = letter.disposition
                self._unissued.add(letter.number)

    def _stop_if_nothing_ever_worked(self, detail: str) -> None:
        if self._failures_before_first_group is None:
            return
        self._failures_before_first_group += 1
        if self._failures_before_first_group >= FAILURES_BEFORE_FIRST_GROUP:
            raise Stop(
                ExitCode.CONFIG,
                f"{FAILURES_BEFORE_FIRST_GROUP} answers failed before a single group succeeded; "
                f"the last one said:\n{detail}",
            )


def sampling_seed(run_seed: int, number: int, attempt: int) -> int:
    """A 63-bit seed that names one attempt at one number."""
    digest = blake3(f"{run_seed}/{number}/{attempt}".encode()).digest(length=8)
    return int.from_bytes(digest, "little") >> 1


def _oldest(group: Group) -> Version:
    return min(span.version for one in group.trajectories for span in one.version_spans)


def _stale_completions(group: Group) -> list[Completion]:
    return [
        Completion(one.num_tokens, one.stop_reason.is_truncated, Fate.STALE)
        for one in group.trajectories
    ]
