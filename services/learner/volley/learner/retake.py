"""`volley replay`: the steps of a run on the same groups, as they were or under other settings.

    snapshot -> steps before `first` as they were -> from `first` on: as they were, or the
    recorded settings with the overrides on top

As it was means that a step that was refused is left out, and poison is set aside. Under other
settings a step that was refused may be fine, so it is taken.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from volley.learner.identity import frozen_settings
from volley.learner.metrics_file import MetricsLine
from volley.learner.past_run import PastRun
from volley.learner.replay import Replay
from volley.learner.sealed import Damaged
from volley.learner.step_log import Outcome, Place
from volley.schemas.groups import Version
from volley.telemetry.stops import ExitCode, Stop


@dataclass(frozen=True, slots=True)
class Retaken:
    """A logged step that was applied again, beside what is on record."""

    line: MetricsLine
    recorded: Outcome

    @property
    def is_same(self) -> bool:
        """The weights afterwards are those of the record."""
        return self.line.root == self.recorded.root


class Retake:
    """Version steps `first` to `last` of a run, taken again."""

    def __init__(
        self, run: PastRun, first: int | None, last: int | None, overrides: Sequence[str]
    ) -> None:
        self._run = run
        self._overrides = overrides
        self._first = run.oldest_step + 1 if first is None else first
        self._start = run.snapshot_before(self._first - 1)
        self.places = run.places(self._start, last)
        self._check(last)

    def steps(self) -> Iterator[Retaken | None]:
        """One item for each of `places`, None where nothing wanted was applied; raises Stop."""
        replay = self._run.replay()
        if self._start is not None:
            replay.restore(self._start)
        for place in self.places:
            yield self._take(replay, place)

    def _take(self, replay: Replay, place: Place) -> Retaken | None:
        try:
            record, outcome = self._run.log.read(place), self._run.log.outcome(place)
        except Damaged as error:
            raise Stop(ExitCode.ENVIRONMENT, f"{error}: the step log is not whole") from error
        is_wanted = place.step >= self._first
        is_changed = is_wanted and bool(self._overrides)
        if outcome is None or not (outcome.applied or is_changed):
            return None
        if is_changed:
            replay.adopt(self._run.settings_of(record.config_hash, self._overrides))
        result = replay.take(record, replay.groups(record), outcome.set_aside)
        if not (is_wanted and result.applied):
            return None
        version = Version(outcome.version.epoch, place.step)
        return Retaken(MetricsLine(version, replay.root(), result.metrics), outcome)

    def _check(self, last: int | None) -> None:
        if not any(place.step >= self._first for place in self.places):
            steps = [place.step for place in self._run.log.places()]
            asked = f"--from {self._first}" + ("" if last is None else f" --to {last}")
            raise Stop(
                ExitCode.CONFIG,
                f"{asked}: the log has steps {self._run.oldest_step + 1} to "
                f"{max(steps, default=0)} to be taken again",
            )
        recorded = self._run.settings_of("")
        frozen = frozen_settings(recorded)
        for key, value in frozen_settings(self._run.settings_of("", self._overrides)).items():
            if value != frozen[key]:
                raise Stop(
                    ExitCode.CONFIG,
                    f"--set {key}: the groups were sampled under {key} = {frozen[key]}, and other "
                    "settings of it cannot be tried on them",
                )
