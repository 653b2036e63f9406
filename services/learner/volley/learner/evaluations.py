"""Held-out prompts, asked of the workers beside the training and never in its way.

    announce a version that is due -> issue all its tasks -> [tasks] -> workers that serve it
                                                                            |
    evaluations.jsonl <- sum up <- collect, now and then <- [results] <-----+

The stream is one of its own, under the run's name with `:evaluation` behind it, with the care that
the training's has; but nothing is in the ledger, and nothing survives the learner. A version is
asked by its root: its workers keep it until they find no task of it any more. What fails or is lost
is tried once more. A version that is due while another one is being answered is left out, but for
the last, which waits; what nobody answers any more is given up for the next one, as unanswered.
"""

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field, replace

import msgspec

from volley.learner.evaluation_scores import Answer, answer_in, describe_answers
from volley.learner.leases import LeaseClock
from volley.learner.metrics_file import MetricsLine
from volley.learner.prompts import Prompts
from volley.learner.tasks import sampling_seed
from volley.schemas.codec import GroupLimits, InvalidMessage, decode_result, encode
from volley.schemas.groups import (
    SCHEMA_VERSION,
    FailureReason,
    Group,
    Task,
    Version,
)
from volley.schemas.manifest import Manifest
from volley.schemas.run_spec import SamplingSpec
from volley.transport.redis_stream import Delivery, LearnerQueue, QueueError

logger = logging.getLogger(__name__)

BLOCK_S = 0.5
"""Of the wait for the last results, in one go."""


@dataclass(frozen=True, slots=True)
class EvaluationRules:
    """When versions are evaluated, and how their answers are made and counted."""

    eval_steps: int
    num_steps: int
    """Of the run: its last version is always evaluated."""
    samplings: tuple[SamplingSpec, SamplingSpec]
    """At the sampling temperature, and greedy."""
    reward_weights: tuple[float, ...]
    pass_reward: float
    seed: int
    lease_s: float
    timeout_s: float


@dataclass(slots=True)
class _Asked:
    """An evaluation that is under way; number 2 i is prompt i sampled, 2 i + 1 greedy."""

    version: Version
    root: str
    open: set[int]
    is_issued: bool = False
    retried: set[int] = field(default_factory=set)
    answers: dict[int, list[Answer]] = field(default_factory=dict)


class Evaluations:
    """Asks the held-out prompts of one run; used from the learner's loop."""

    def __init__(
        self,
        rules: EvaluationRules,
        prompts: Prompts,
        queue: LearnerQueue,
        limits: GroupLimits,
        stopping: threading.Event,
    ) -> None:
        self._rules = rules
        self._stopping = stopping
        self._prompts = prompts
        self._queue = queue
        self._limits = [
            replace(limits, num_generations=sampling.num_generations)
            for sampling in rules.samplings
        ]
        self._clock = LeaseClock(rules.lease_s)
        self._asked: _Asked | None = None
        self._over: list[MetricsLine] = []
        self._done: set[int] = set()
        # What an earlier learner asked is nobody's question any more.
        self._is_in_step = False

    def resume(self, lines: Iterable[MetricsLine]) -> None:
        """Versions that were evaluated are not evaluated again."""
        self._done = {line.version.step for line in lines}

    def begin(self, manifest: Manifest) -> Manifest:
        """Ask a version if it is due; the manifest that tells workers of it."""
        step = manifest.version.step
        is_last = step == self._rules.num_steps
        if step in self._done or not (is_last or step % self._rules.eval_steps == 0):
            return manifest
        if is_last:
            self._wait(self._is_being_answered)
        elif self._is_being_answered():
            logger.warning("not evaluated: another version still is", extra={"step": step})
            return manifest
        self._end()
        self._done.add(step)
        numbers = set(range(2 * len(self._prompts)))
        self._asked = _Asked(manifest.version, manifest.root, numbers)
        self._is_in_step = False
        self.attend()
        return msgspec.structs.replace(manifest, evaluate=True)

    def attend(self, block_s: float = 0.0) -> None:
        """Take in what has come, and try again what was lost.

        A Redis that is away is asked again the next time; what else is wrong with it the training
        finds out by itself.
        """
        try:
            if not self._is_in_step:
                self._reconcile()
            asked = self._asked
            if asked is None:
                return
            for delivery in self._queue.collect(block_s):
                self._take(asked, delivery)
            for task in self._clock.stalled(self._queue.held_tasks(), time.monotonic()):
                self._try_again(asked, task.number, task.held)
            if not asked.open:
                self._end()
        except QueueError:
            self._clock.forget()
            self._is_in_step = False

    def finish(self) -> None:
        """Wait for the evaluation that is under way, not longer than the rules allow."""
        self._wait(lambda: self._asked is not None)
        if not self._stopping.is_set():
            self._end()

    def take_over(self) -> list[MetricsLine]:
        """Evaluations that are over since this was last asked."""
        over, self._over = self._over, []
        return over

    def close(self) -> None:
        self._queue.close()

    def _is_being_answered(self) -> bool:
        """Whether some worker is at it, as those that keep the version's weights always are."""
        self.attend()
        try:
            return self._asked is not None and any(
                task.worker is not None for task in self._queue.held_tasks()
            )
        except QueueError:
            return False

    def _wait(self, goes_on: Callable[[], bool]) -> None:
        deadline_s = time.monotonic() + self._rules.timeout_s
        while goes_on() and not self._stopping.is_set() and time.monotonic() < deadline_s:
            self.attend(BLOCK_S)

    def _reconcile(self) -> None:
        """Make Redis hold the tasks of this evaluation that are open, and nothing else."""
        asked = self._asked
        # Another evaluation's tasks have the same numbers.
        kept = self._queue.reconcile(asked.open if asked and asked.is_issued else ())
        if asked and asked.open - kept:
            missing = sorted(asked.open - kept)
            self._queue.issue({number: self._body(asked, number) for number in missing})
            asked.is_issued = True
        self._is_in_step = True

    def _take(self, asked: _Asked, delivery: Delivery) -> None:
        number = delivery.number
        if number not in asked.open:
            return
        try:
            result = decode_result(delivery.body, self._limits[number % 2])
            if isinstance(result, Group):
                self._check(asked, result, number)
                weights = self._rules.reward_weights
                answers = [answer_in(one, weights) for one in result.trajectories]
                self._close(asked, number, answers)
            elif result.reason is FailureReason.HANDED_BACK:
                self._queue.reissue(number, delivery.held, self._body(asked, number))
            else:
                logger.warning("no answer to a held-out prompt: %s", result.reason)
                # What a user's code has said may hold a prompt.
                logger.debug("no answer to a held-out prompt: %s", result.detail)
                self._try_again(asked, number, delivery.held)
        except InvalidMessage as error:
            logger.warning("no answer to a held-out prompt: %s", error)
            self._try_again(asked, number, delivery.held)

    def _check(self, asked: _Asked, group: Group, number: int) -> None:
        if group.number != number or group.prompt_ids != self._prompts[number // 2].prompt_ids:
            raise InvalidMessage("the group answers another prompt")
        spans = (span for one in group.trajectories for span in one.version_spans)
        if any(span.version != asked.version for span in spans):
            raise InvalidMessage(f"a token is not of version {asked.version}")

    def _try_again(self, asked: _Asked, number: int, held: str) -> None:
        if number in asked.retried:
            self._close(asked, number, None)
        else:
            asked.retried.add(number)
            self._queue.reissue(number, held, self._body(asked, number))

    def _close(self, asked: _Asked, number: int, answers: list[Answer] | None) -> None:
        asked.open.discard(number)
        if answers is not None:
            asked.answers[number] = answers
        self._queue.drop([number])

    def _end(self) -> None:
        """Sum up what there is."""
        asked, self._asked = self._asked, None
        if asked is None:
            return
        self._is_in_step = False
        metrics = describe_answers(
            [asked.answers[number] for number in sorted(asked.answers) if number % 2 == 0],
            [asked.answers[number][0] for number in sorted(asked.answers) if number % 2],
            len(self._prompts),
            self._rules.pass_reward,
        )
        self._over.append(MetricsLine(asked.version, asked.root, metrics))
        log = logger.warning if asked.open else logger.info
        log(
            "evaluated, incompletely" if asked.open else "evaluated",
            extra={"version": str(asked.version), "num_open": len(asked.open), **metrics},
        )

    def _body(self, asked: _Asked, number: int) -> bytes:
        prompt, attempt = self._prompts[number // 2], int(number in asked.retried)
        return encode(
            Task(
                schema_version=SCHEMA_VERSION,
                run=self._limits[0].run,
                number=number,
                attempt=attempt,
                seed=sampling_seed(self._rules.seed, number, attempt),
                min_version=asked.version,
                prompt=prompt.prompt,
                prompt_ids=prompt.prompt_ids,
                columns=prompt.columns,
                root=asked.root,
                sampling=self._rules.samplings[number % 2],
            )
        )


def best_of(lines: Iterable[MetricsLine]) -> list[MetricsLine]:
    """The evaluation with the highest mean reward, the first of equal ones, if there is one."""
    rewarded = [line for line in lines if line.metrics["reward"] is not None]
    return sorted(rewarded, key=lambda line: -(line.metrics["reward"] or 0.0))[:1]
