"""The groups of a run's step log as people are shown them; the run may go on meanwhile."""

from collections.abc import Callable, Iterator, Sequence
from functools import cache
from pathlib import Path
from typing import NamedTuple

from volley.learner.advantages import combine_rewards
from volley.learner.detokenizer import Detokenizer
from volley.learner.settings import Settings
from volley.learner.step_log import StepLog, StepRecord
from volley.learner.trajectories import Choice, Chosen, advantages_in, choose, settings_at
from volley.learner.trajectory_record import passages_of
from volley.schemas.groups import Group, Trajectory
from volley.schemas.past import (
    GroupDetails,
    GroupReport,
    GroupsPage,
    Segment,
    TrajectoryReport,
)
from volley.telemetry.stops import ExitCode, Stop


class _Logged(NamedTuple):
    """A group, and what its step has made of it."""

    record: StepRecord
    group: Group
    disposition: str | None
    advantages_G: Sequence[float | None]
    settings: Settings


class LoggedGroups:
    """Of one run; all raise Stop, with code CONFIG for what is not kept (any more)."""

    def __init__(self, run_folder: Path) -> None:
        self._log = StepLog(run_folder / "trajectories")

        @cache
        def settings_of(config_hash: str) -> Settings:
            return settings_at(run_folder, config_hash)

        @cache
        def detokenizer_of(config_hash: str) -> Detokenizer:
            return Detokenizer(run_folder, settings_of(config_hash).model)

        self._settings_of = settings_of
        self._detokenizer_of = detokenizer_of

    def page(self, step: int | None) -> GroupsPage:
        """All groups of a step, of the newest one that is logged if none is named."""
        wanted = self._newest() if step is None else step
        return GroupsPage(wanted, tuple(map(_report, self._read(Choice(step=wanted)))))

    def details(self, number: int, step: int | None) -> GroupDetails:
        """One group of a step, from its first token to its last."""
        wanted = self._newest() if step is None else step
        *_, logged = self._read(Choice(step=wanted, number=number))
        return self._details(logged)

    def newest(self, most: int) -> tuple[GroupDetails, ...]:
        """At most so many groups of the newest step that is logged, first those that teach."""
        groups = {one.group.number: one for one in self._read(Choice(step=self._newest()))}
        telling = sorted(groups.values(), key=lambda one: not any(one.advantages_G))
        return tuple(map(self._details, telling[:most]))

    def _details(self, logged: _Logged) -> GroupDetails:
        record, group = logged.record, logged.group
        text_of = self._detokenizer_of(record.config_hash).text_of
        return GroupDetails(
            step=record.place.step,
            number=group.number,
            attempt=record.place.attempt,
            worker=group.worker,
            disposition=logged.disposition,
            trajectories=tuple(_trajectories(logged, text_of)),
        )

    def _newest(self) -> int:
        places = self._log.places()
        if not places:
            raise Stop(ExitCode.CONFIG, "no step is logged yet: ask again after the first one")
        return places[-1].step

    def _read(self, choice: Choice) -> Iterator[_Logged]:
        for chosen in choose(self._log, choice):
            yield from self._in(chosen)

    def _in(self, chosen: Chosen) -> Iterator[_Logged]:
        settings = self._settings_of(chosen.record.config_hash)
        advantages = advantages_in(chosen, settings)
        dispositions = chosen.outcome.dispositions if chosen.outcome else {}
        for group in chosen.wanted:
            advantages_G = advantages.get(group.number, (None,) * len(group.trajectories))
            disposition = dispositions.get(group.number)
            yield _Logged(chosen.record, group, disposition, advantages_G, settings)


def _trajectories(
    logged: _Logged, text_of: Callable[[Sequence[int]], str]
) -> Iterator[TrajectoryReport]:
    group, settings = logged.group, logged.settings
    for trajectory, advantage in zip(group.trajectories, logged.advantages_G, strict=True):
        passages = passages_of(group.prompt_ids, trajectory, text_of)
        yield TrajectoryReport(
            segments=tuple(Segment(one.source, one.text, one.stop - one.start) for one in passages),
            rewards=dict(zip(settings.reward.functions, trajectory.rewards, strict=True)),
            reward=_reward(trajectory, settings),
            advantage=advantage,
            versions=_versions(trajectory),
            stop_reason=trajectory.stop_reason,
            turns=trajectory.num_turns,
            metrics=trajectory.metrics,
        )


def _report(logged: _Logged) -> GroupReport:
    trajectories = logged.group.trajectories
    return GroupReport(
        number=logged.group.number,
        attempt=logged.record.place.attempt,
        worker=logged.group.worker,
        disposition=logged.disposition,
        rewards=tuple(_reward(one, logged.settings) for one in trajectories),
        advantages=tuple(logged.advantages_G),
        num_tokens=tuple(one.num_tokens for one in trajectories),
    )


def _reward(trajectory: Trajectory, settings: Settings) -> float | None:
    return combine_rewards(trajectory.rewards, settings.reward.function_weights)


def _versions(trajectory: Trajectory) -> tuple[str, ...]:
    return tuple(dict.fromkeys(str(span.version) for span in trajectory.version_spans))
