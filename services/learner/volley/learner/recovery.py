"""Back to where the run was: the newest whole checkpoint, and the logged steps after it again.

    checkpoint -> every logged step:  applied     train it again, compare the root
                                      refused     leave it out again
                                      no outcome  the process died in it: train it, conclude it

On the same build, device and number of threads the roots are equal bit for bit; where they are
not, that is said, and the run goes on from the weights at hand: every start begins a new epoch, so
the head gets a name of its own anyway.
"""

import logging
import threading
import time
from collections.abc import Callable

from volley.learner.history import History, Reached
from volley.learner.replay import Replay
from volley.learner.sealed import Damaged
from volley.learner.step_log import Outcome, Place, StepRecord
from volley.schemas.groups import Group, Version
from volley.telemetry.stops import ExitCode, Stop

logger = logging.getLogger(__name__)

TELL_INTERVAL_S = 2.0


class Recovery:
    """Brings policy, optimiser and bookkeeping to where the run folder says they were."""

    def __init__(self, history: History, replay: Replay, epoch: int, *, rewind: bool) -> None:
        self._history = history
        self._replay = replay
        self._epoch = epoch
        self._rewind = rewind
        self._num_differing = 0
        self.taken: list[Outcome] = []
        """Of the steps that were taken again, in their order."""
        self.concluded: Outcome | None = None
        """Of the one in which the process died, if it died in one."""

    def run(
        self, start: Reached, stopping: threading.Event, tell: Callable[[str], None]
    ) -> Reached:
        """How far the run had come; `start` is where one without a checkpoint begins.

        Told to stop it returns early, and the next start begins again. Raises Stop.
        """
        reached = self._restore(start)
        places = [place for place in self._history.log.places() if place >= reached.place]
        began_s = time.monotonic()
        told_s = began_s - TELL_INTERVAL_S
        for num_done, place in enumerate(places):
            if stopping.is_set():
                return reached
            now_s = time.monotonic()
            if now_s - told_s >= TELL_INTERVAL_S:
                tell(_progress(num_done, len(places), now_s - began_s))
                told_s = now_s
            try:
                self._take_again(place, reached)
            except Damaged as error:
                self._give_up_from(reached.place, error)
                break
        self._history.go_on_from(reached.place)
        if places:
            logger.info(
                "took logged steps again",
                extra={
                    "num_steps": len(places),
                    "num_with_another_root": self._num_differing,
                    "duration_s": round(time.monotonic() - began_s, 1),
                },
            )
        return reached

    def _restore(self, start: Reached) -> Reached:
        self._history.log.remove_leftovers()
        self._history.checkpoints.remove_leftovers()
        checkpoint = next(self._history.checkpoints.valid(), None)
        if checkpoint is None:
            return start
        self._replay.restore(checkpoint)
        state = checkpoint.state
        self._history.restored(state.place)
        logger.info("loaded a checkpoint", extra={"step": state.version.step})
        return Reached(
            version=state.version,
            root=state.root,
            place=state.place,
            ledger=state.ledger,
            closed=dict(state.closed),
            num_samples=state.num_samples,
            num_tokens=state.num_tokens,
        )

    def _take_again(self, place: Place, reached: Reached) -> None:
        """Do what the log says about `place`, and move `reached` on."""
        record, outcome = self._read(place, reached)
        groups = self._replay.groups(record)
        if outcome is None:
            outcome = self._conclude(record, groups, reached)
        elif outcome.applied:
            self._repeat(record, groups, outcome)
        reached.follow(record, outcome, groups)
        self.taken.append(outcome)

    def _read(self, place: Place, reached: Reached) -> tuple[StepRecord, Outcome | None]:
        log = self._history.log
        if place != reached.place:
            raise Damaged(log.path(reached.place), "it is not there")
        return log.read(place), log.outcome(place)

    def _give_up_from(self, place: Place, error: Damaged) -> None:
        """Take the rest of the log out of the run, if a person said so; else raise Stop."""
        if not self._rewind:
            raise Stop(
                ExitCode.ENVIRONMENT,
                f"{error}: restore it from a backup of the run folder, or give up the steps "
                f"from {place.step} on, and have them sampled and trained anew, with --rewind",
            ) from error
        logger.warning("gave up the steps from %s on: %s", place.step, error)
        self._history.log.abandon(place, f"given-up-in-epoch-{self._epoch}")

    def _repeat(self, record: StepRecord, groups: list[Group], outcome: Outcome) -> None:
        self._replay.take(record, groups, outcome.set_aside)
        root = self._replay.root()
        if root != outcome.root:
            self._num_differing += 1
            logger.warning(
                "another root than recorded: other build, device or number of threads",
                extra={"step": record.place.step, "root": root, "recorded": outcome.root},
            )

    def _conclude(self, record: StepRecord, groups: list[Group], reached: Reached) -> Outcome:
        """Train the step in which the process died, without what killed it thrice."""
        place, mark = record.place, self._history.mark
        poison = mark.poison(place)
        if poison:
            logger.warning("set numbers aside as poison", extra={"numbers": sorted(poison)})
        self._history.go_on_from(place)
        result = self._replay.take(
            record, groups, poison, lambda numbers: mark.name(place, numbers)
        )
        version, root = reached.version, reached.root
        if result.applied:
            version, root = Version(self._epoch, place.step), self._replay.root()
        self.concluded = self._history.conclude(result, version, root)
        return self.concluded


def _progress(num_done: int, num_steps: int, spent_s: float) -> str:
    left = f", about {spent_s / num_done * (num_steps - num_done):.0f} s left" if num_done else ""
    return f"{num_done} of {num_steps} logged steps taken again{left}"
