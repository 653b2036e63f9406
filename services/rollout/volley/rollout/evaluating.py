"""Held-out prompts of the version that serves, answered beside the training.

They come from a stream of their own, and the weights stay as long as it has any: a version is
evaluated as a whole or not at all. One of them is always in hand until the stream is empty, so that
they come to an end; more only where the training has nothing to do. That is the case at the
latest when this worker has kept its weights for so long that they are too old to train on.
"""

import logging
import traceback

from volley.rollout.episodes import Episodes, EpisodesFailed, EpisodesRequest, EpisodesStep
from volley.rollout.leases import LeasedTask
from volley.rollout.scoring import failure_of
from volley.rollout.task_stream import TaskStream
from volley.schemas.codec import encode
from volley.schemas.groups import FailureReason
from volley.schemas.manifest import Manifest
from volley.transport.redis_stream import QueueError

logger = logging.getLogger(__name__)

MARK = "evaluation/"
"""Begins the ids of these requests among the episodes, where task ids of two streams meet."""


class Evaluating:
    """The evaluation of the version at hand; used from the worker's loop."""

    def __init__(self, worker: str, episodes: Episodes, stream: TaskStream) -> None:
        self._worker = worker
        self._episodes = episodes
        self._queue, self._leases = stream.queue, stream.leases
        self._scoring, self._intake = stream.scoring, stream.intake
        self._root: str | None = None
        """Of the weights that serve, if they are evaluated."""
        self._keeps_weights = False
        self._sampling: dict[str, LeasedTask] = {}

    @property
    def keeps_weights(self) -> bool:
        """There may be more prompts for the weights that serve."""
        return self._keeps_weights

    @property
    def is_sampling(self) -> bool:
        return bool(self._sampling)

    def check(self) -> None:
        """Raise what broke the scoring, if anything did."""
        self._scoring.check()

    def begin(self, serving: Manifest) -> None:
        """Another version serves."""
        self._root = serving.root if serving.evaluate else None
        self._keeps_weights = serving.evaluate

    def take(self, limit: int) -> bool:
        """Whether there were prompts, of which at most `limit` are being answered now.

        What has failed is asked once more, maybe after the others are answered: so this looks for
        prompts as long as the same weights serve, even if it does not keep them for that.
        """
        if self._root is None:
            return False
        taken = self._intake.take(limit, block_s=0.0)
        for leased in taken:
            self._leases.add(leased)
            self._start(leased)
        self._keeps_weights = bool(taken or self._sampling) and self._root is not None
        return bool(taken)

    def split(self, step: EpisodesStep) -> EpisodesStep:
        """Take what is ours out of a step; the rest of it."""
        ours = {name: count for name, count in step.num_tokens.items() if name in self._sampling}
        self._leases.advance({self._sampling[name].id: count for name, count in ours.items()})
        waiting = self._episodes.waiting
        self._leases.wait(
            frozenset(leased.id for name, leased in self._sampling.items() if name in waiting)
        )
        for ended in step.ended:
            leased = self._sampling.pop(ended.id, None)
            if leased is None:
                continue
            if isinstance(ended, EpisodesFailed):
                self._fail(leased, ended.reason, ended.detail)
            else:
                self._scoring.submit(leased, ended.episodes)
        return EpisodesStep(
            tuple(ended for ended in step.ended if not ended.id.startswith(MARK)),
            {name: count for name, count in step.num_tokens.items() if name not in ours},
        )

    def drop_lost(self) -> None:
        """Let go of what others have by now."""
        for task_id in self._leases.take_lost():
            if self._sampling.pop(MARK + task_id, None):
                self._episodes.abort(MARK + task_id)
                self._leases.release(task_id, completed=False)

    def break_off(self) -> None:
        """The engine has failed; what it had in hand comes to nothing."""
        for leased in self._sampling.values():
            self._fail(leased, FailureReason.ENGINE, traceback.format_exc())

    def leave(self, timeout_s: float) -> None:
        """Deliver what is sampled, hand back the rest."""
        self._scoring.close(timeout_s)
        try:
            for leased in self._leases.held():
                failure = failure_of(
                    leased.task, self._worker, FailureReason.HANDED_BACK, "the worker is leaving"
                )
                self._queue.complete(leased.lease, encode(failure))
        except QueueError as error:
            logger.warning("could not hand held-out prompts back: %s", error)

    def _start(self, leased: LeasedTask) -> None:
        task = leased.task
        if task.root != self._root or task.sampling is None:
            # Of a newer version: for whoever serves that, and this worker is to load it.
            self._root = None
            self._fail(leased, FailureReason.HANDED_BACK, "other weights serve here")
            return
        self._sampling[MARK + leased.id] = leased
        self._episodes.begin(
            EpisodesRequest(
                MARK + leased.id,
                task.prompt,
                task.prompt_ids,
                task.columns,
                task.seed,
                task.sampling,
            )
        )

    def _fail(self, leased: LeasedTask, reason: FailureReason, detail: str) -> None:
        self._scoring.submit_failure(
            leased.lease, failure_of(leased.task, self._worker, reason, detail)
        )
