"""Sampled groups become results: text, rewards, message, delivered from threads of their own.

Neither a slow reward nor an absent Redis stops the sampling; a group waits here meanwhile.
"""

import logging
import queue
import threading
import time
from collections.abc import Callable, Mapping, Sequence
from typing import Protocol

from tenacity import (
    RetryCallState,
    RetryError,
    Retrying,
    retry_if_exception_type,
    sleep_using_event,
    stop_when_event_set,
    wait_random_exponential,
)

from volley.rollout.episode import Episode
from volley.rollout.leases import LeasedTask, Leases
from volley.rollout.outage import Outage
from volley.rollout.reward_pool import RewardsClosed
from volley.rollout.rewards import Prompt, RewardFailed, Score
from volley.schemas.codec import encode
from volley.schemas.groups import (
    SCHEMA_VERSION,
    Failure,
    FailureReason,
    Group,
    Task,
    Trajectory,
    pack_logprobs,
    pack_token_ids,
)
from volley.telemetry.failpoints import reach
from volley.transport.redis_stream import Lease, QueueError, WorkerQueue

logger = logging.getLogger(__name__)

NUM_THREADS = 4
MAX_PAUSE_S = 2.0


class Rewarding(Protocol):
    """A reward function as it is called here, from several threads at once."""

    def score(
        self, prompt: Prompt, completions: Sequence[str], columns: Mapping[str, object]
    ) -> Sequence[Score]:
        """One score per completion; raises RewardFailed where none has a reward, RewardsClosed."""
        ...


class Scoring:
    """Scores and delivers groups in the order of `submit`, some at a time.

    A group or failure is delivered until the queue takes it or `abandon` is called.
    """

    def __init__(
        self,
        worker: str,
        rewards: Sequence[Rewarding],
        text_of: Callable[[Sequence[int]], str],
        results: WorkerQueue,
        leases: Leases,
        redis_outage: Outage,
        reward_on_failure: float | None = None,
    ) -> None:
        self._worker = worker
        self._rewards = rewards
        self._text_of = text_of
        self._results = results
        self._leases = leases
        self._redis_outage = redis_outage
        self._reward_on_failure = reward_on_failure
        self._waiting: queue.SimpleQueue[Callable[[], None] | None] = queue.SimpleQueue()
        self._taken = threading.Condition()
        self._abandoned = threading.Event()
        self._broken: BaseException | None = None
        # Daemons: a group that is being scored must not keep the process from leaving.
        self._threads = [
            threading.Thread(target=self._work, name=f"scoring-{index}", daemon=True)
            for index in range(NUM_THREADS)
        ]
        for thread in self._threads:
            thread.start()

    def submit(self, leased: LeasedTask, episodes: Sequence[Episode]) -> None:
        """Score the episodes of a task and deliver the group, or why there is none."""
        self._leases.begin_scoring(leased.id)
        self._waiting.put(lambda: self._deliver(leased.lease, self._score(leased, episodes)))

    def submit_failure(self, lease: Lease, failure: Failure) -> None:
        """Deliver a failure."""
        self._waiting.put(lambda: self._deliver(lease, failure))

    def has_room(self, num_groups: int, timeout_s: float) -> bool:
        """Whether fewer groups than that wait for their turn, now or within `timeout_s`."""
        with self._taken:
            return self._taken.wait_for(lambda: self._waiting.qsize() < num_groups, timeout_s)

    def check(self) -> None:
        """Raise what broke a thread, if anything did: that is a mistake in Volley."""
        if self._broken is not None:
            raise self._broken

    def close(self, timeout_s: float) -> None:
        """Finish what was submitted within `timeout_s`, leave the rest undelivered."""
        deadline = time.monotonic() + timeout_s
        for _ in self._threads:
            self._waiting.put(None)
        for thread in self._threads:
            thread.join(max(0.0, deadline - time.monotonic()))
        self._abandoned.set()

    def _work(self) -> None:
        try:
            while job := self._take():
                job()
        except RewardsClosed:
            logger.debug("left a group unscored")
        except BaseException as error:
            self._broken = error

    def _take(self) -> Callable[[], None] | None:
        job = self._waiting.get()
        with self._taken:
            self._taken.notify()
        return job

    def _score(self, leased: LeasedTask, episodes: Sequence[Episode]) -> Group | Failure:
        task = leased.task
        texts = [self._text_of(episode.token_ids) for episode in episodes]

        def advance() -> None:
            self._leases.advance_reward(leased.id)
            reach("mid-reward", task.number)

        try:
            scores_G = score_episodes(task, episodes, texts, self._rewards, advance)
        except RewardFailed as error:
            return failure_of(task, self._worker, FailureReason.REWARD, str(error))
        rewards_G = [settle(scores, self._reward_on_failure) for scores in scores_G]
        return group_of(task, self._worker, episodes, texts, rewards_G)

    def _deliver(self, lease: Lease, result: Group | Failure) -> None:
        body = encode(result)
        retrying = Retrying(
            retry=retry_if_exception_type(QueueError),
            wait=wait_random_exponential(multiplier=0.5, max=MAX_PAUSE_S),
            stop=stop_when_event_set(self._abandoned),
            sleep=sleep_using_event(self._abandoned),
            after=self._note_outage,
        )
        try:
            accepted = retrying(self._results.complete, lease, body)
        except RetryError:
            return
        reach("after-complete", lease.number)
        self._redis_outage.worked()
        self._leases.release(lease.task_id, completed=accepted and isinstance(result, Group))
        fields = {"number": lease.number, "accepted": accepted}
        if isinstance(result, Group):
            logger.debug("delivered a group", extra=fields)
        else:
            logger.warning("delivered a failure: %s", result.reason, extra=fields)

    def _note_outage(self, state: RetryCallState) -> None:
        if state.outcome is not None:
            self._redis_outage.failed(state.outcome.exception())


def score_episodes(
    task: Task,
    episodes: Sequence[Episode],
    texts: Sequence[str],
    rewards: Sequence[Rewarding],
    advance: Callable[[], None],
) -> list[tuple[Score, ...]]:
    """One score per function, for each of G episodes; `advance` is called after each function.

    Raises RewardFailed where none has a reward.
    """
    whole = [g for g, episode in enumerate(episodes) if episode.failure is None]
    scores_G: list[tuple[Score, ...]] = [
        () if episode.failure is None else (RewardFailed(episode.failure),) * len(rewards)
        for episode in episodes
    ]
    for reward in rewards:
        scores = reward.score(task.prompt, [texts[g] for g in whole], task.columns)
        for g, score in zip(whole, scores, strict=True):
            scores_G[g] = (*scores_G[g], score)
        advance()
    return scores_G


def settle(scores: Sequence[Score], on_failure: float | None) -> tuple[float | None, ...]:
    """What is sent for a sample: of one with a failure nothing, unless that is given a reward.

    Without the failed function the others would make a sum that is not comparable.
    """
    rewards = [on_failure if isinstance(score, RewardFailed) else score for score in scores]
    has_failed = any(isinstance(score, RewardFailed) for score in scores)
    return (None,) * len(scores) if has_failed and on_failure is None else tuple(rewards)


def group_of(
    task: Task,
    worker: str,
    episodes: Sequence[Episode],
    texts: Sequence[str],
    rewards_G: Sequence[tuple[float | None, ...]],
) -> Group:
    """The message that `task` is done."""
    return Group(
        schema_version=SCHEMA_VERSION,
        run=task.run,
        number=task.number,
        attempt=task.attempt,
        worker=worker,
        prompt_ids=task.prompt_ids,
        trajectories=tuple(map(_trajectory, episodes, texts, rewards_G)),
    )


def failure_of(task: Task, worker: str, reason: FailureReason, detail: str) -> Failure:
    """The message that `task` came to nothing."""
    return Failure(SCHEMA_VERSION, task.run, task.number, task.attempt, worker, reason, detail)


def _trajectory(episode: Episode, text: str, rewards: tuple[float | None, ...]) -> Trajectory:
    assert episode.stop_reason is not None, "an episode is scored when it is over"
    return Trajectory(
        token_bytes=pack_token_ids(episode.token_ids),
        logprob_bytes=pack_logprobs(episode.logprobs),
        version_spans=tuple(episode.version_spans),
        inserted_spans=tuple(episode.inserted_spans),
        stop_reason=episode.stop_reason,
        text=text,
        rewards=rewards,
        metrics=episode.metrics,
    )
