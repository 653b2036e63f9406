"""The user's reward functions, and slow ones of ours, in processes of their own, a few per worker.

A group is scored in one call. If that fails, its completions are scored one at a time, so that the
others keep their rewards; one that fails again has its failure in the place of a reward. A process
that hangs, has filled its memory or has died is ended, with all that it started, and replaced.
"""

import logging
import queue
import threading
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path

from volley.rollout.builtin_rewards import BUILTIN
from volley.rollout.reward_child import RewardChild
from volley.rollout.reward_code import is_trusted, read_reward_code
from volley.rollout.reward_messages import Call, Failed, Message, Scored, Setup
from volley.rollout.rewards import FailureKind, Prompt, Reward, RewardFailed, Score
from volley.rollout.user_code import UserCode
from volley.schemas.run_spec import RewardLimits, RewardSpec
from volley.telemetry.stops import ExitCode, Stop

logger = logging.getLogger(__name__)

IMPORT_S = 300.0
"""For the reward code to be imported, with the libraries that it needs, from a slow disk."""
CLOSE_S = 2.0


class RewardsClosed(Exception):
    """The worker is leaving: nothing is scored any more."""


class RewardPool:
    """A run's functions, in order: quick ones of ours in this process, others in the pool's."""

    def __init__(
        self, specs: Sequence[RewardSpec], code_folder: Path, limits: RewardLimits
    ) -> None:
        """Return when a first process has imported the code; a Stop says why it could not."""
        code_by_name = {
            spec.name: read_reward_code(spec, code_folder) for spec in specs if not is_trusted(spec)
        }
        pooled = {
            name: PooledReward(name, index, self, limits.timeout_s)
            for index, name in enumerate(code_by_name)
        }
        codes = tuple(code_by_name.values())
        self.rewards: tuple[Reward | PooledReward, ...] = tuple(
            pooled.get(spec.name) or BUILTIN[spec.name] for spec in specs
        )
        self._places = [_Place(codes, code_folder, limits) for _ in range(limits.num_processes)]
        self._free: queue.LifoQueue[_Place | None] = queue.LifoQueue()
        for place in self._places:
            self._free.put(place)
        self._lock = threading.Lock()
        self._failed: Counter[FailureKind] = Counter()
        if codes:
            self._import_code()

    @property
    def failed(self) -> Mapping[str, int]:
        """Completions left without a reward, by how that came."""
        with self._lock:
            return {kind: self._failed[kind] for kind in FailureKind}

    def call(self, call: Call) -> tuple[float | None, ...]:
        """One reward per completion; raises RewardFailed or RewardsClosed."""
        with self._place() as place:
            return place.call(call)

    def count(self, failures: Sequence[RewardFailed]) -> None:
        """Add to `failed`."""
        with self._lock:
            self._failed.update(failure.kind for failure in failures)

    def close(self) -> None:
        """End all processes; what is being scored raises RewardsClosed."""
        for place in self._places:
            place.give_up()
        try:
            for _ in self._places:
                if (free := self._free.get(timeout=CLOSE_S)) is not None:
                    free.end()
        except queue.Empty:
            logger.warning("left a reward process behind")
        self._free.put(None)

    def _import_code(self) -> None:
        try:
            with self._place() as place:
                place.start()
        except RewardFailed as error:
            self.close()
            raise Stop(ExitCode.CONFIG, str(error)) from error

    @contextmanager
    def _place(self) -> Iterator["_Place"]:
        place = self._free.get()
        try:
            if place is None:
                raise RewardsClosed
            yield place
        finally:
            self._free.put(place)


class PooledReward:
    """A function in a process of its own; scores as one in this would, but for single failures."""

    def __init__(self, name: str, function: int, pool: RewardPool, timeout_s: float) -> None:
        self.name = name
        self._function = function
        self._pool = pool
        self._timeout_s = timeout_s

    def score(
        self, prompt: Prompt, completions: Sequence[str], columns: Mapping[str, object]
    ) -> tuple[Score, ...]:
        """One score per completion; raises RewardFailed where none has a reward."""

        def call(*completions: str) -> tuple[float | None, ...]:
            return self._pool.call(
                Call(self._function, prompt, completions, dict(columns), self._timeout_s)
            )

        def call_alone(completion: str) -> Score:
            try:
                return call(completion)[0]
            except RewardFailed as failure:
                return failure

        try:
            return call(*completions)
        except RewardFailed as error:
            together = error
        scores = tuple(call_alone(completion) for completion in completions)
        self._judge(scores, together)
        return scores

    def _judge(self, scores: Sequence[Score], together: RewardFailed) -> None:
        """Count and tell what failed; raise `together` if the function is to blame for it."""
        failures = [score for score in scores if isinstance(score, RewardFailed)]
        self._pool.count(failures)
        logger.warning(
            "a reward failed for a group",
            extra={"reward": self.name, "kind": together.kind, "num_failed": len(failures)},
        )
        # Right about each alone, by luck: it does not look at how many there are.
        miscounts = together.kind is FailureKind.MISCOUNTED and not failures
        if miscounts or len(failures) == len(scores):
            raise together


class _Place:
    """Room for one process, which is there when it is first needed."""

    def __init__(self, codes: Sequence[UserCode], code_folder: Path, limits: RewardLimits) -> None:
        self._names = [code.name for code in codes]
        self._limits = limits
        self._setup = Setup(
            codes=tuple(codes),
            code_folder=str(code_folder),
            max_memory_bytes=limits.max_memory_bytes,
            timeout_s=IMPORT_S,
        )
        self._lock = threading.Lock()
        self._child: RewardChild | None = None
        self._is_given_up = False

    def start(self) -> None:
        """Have a process that has imported the code; raises RewardFailed or RewardsClosed."""
        with self._lock:
            if self._is_given_up:
                raise RewardsClosed
            if self._child is not None:
                return
            try:
                self._child = RewardChild()
            except OSError as error:
                # Other processes may have used up what the machine has.
                text = f"cannot start a reward process: {error}"
                raise RewardFailed(text, FailureKind.DIED) from error
        answer = self._ask(self._setup, "importing the reward code")
        if isinstance(answer, Failed):
            self.end()
            raise RewardFailed(answer.text, answer.kind)

    def call(self, call: Call) -> tuple[float | None, ...]:
        """One reward per completion; raises RewardFailed or RewardsClosed."""
        self.start()
        name = self._names[call.function]
        answer = self._ask(call, f"reward {name}")
        if isinstance(answer, Scored):
            return answer.rewards
        assert isinstance(answer, Failed), "it scores or says why not"
        if answer.kind is not FailureKind.OUT_OF_MEMORY:
            raise RewardFailed(answer.text, answer.kind)
        self.end()
        limit = f"reward.max_memory_bytes is {self._limits.max_memory_bytes}"
        raise RewardFailed(f"{answer.text}\n{limit}", answer.kind)

    def give_up(self) -> None:
        """Kill the process, and start none again; for any thread."""
        with self._lock:
            self._is_given_up = True
            if self._child is not None:
                self._child.kill()

    def end(self) -> None:
        """Have no process, until `start`."""
        with self._lock:
            child, self._child = self._child, None
        if child is not None:
            child.close()

    def _ask(self, message: Setup | Call, what: str) -> Message:
        assert self._child is not None, "it was started"
        try:
            return self._child.ask(message)
        except RewardFailed as error:
            self.end()
            if self._is_given_up:
                raise RewardsClosed from error
            raise RewardFailed(f"{what}: {error}", error.kind) from error
