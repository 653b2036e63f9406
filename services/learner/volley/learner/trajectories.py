"""Trajectories of a run's step log, for people and programs; the run may go on meanwhile."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path

import msgspec

from volley.learner.detokenizer import Detokenizer
from volley.learner.sealed import Damaged
from volley.learner.selection import advantages_of
from volley.learner.settings import Settings, load_settings
from volley.learner.step_log import Outcome, Place, StepLog, StepRecord
from volley.learner.step_rules import selection_rules
from volley.learner.trajectory_record import Step, TrajectoryRecord, records_of
from volley.schemas.groups import Group
from volley.telemetry.stops import ExitCode, Stop


@dataclass(frozen=True, slots=True)
class Choice:
    """Which groups of the log are wanted."""

    step: int | None = None
    """None: of any step."""
    number: int | None = None
    """None: of any prompt."""
    last: int | None = None
    """Only so many of them, the newest; None: all."""


@dataclass(frozen=True, slots=True)
class Chosen:
    """A record of the log with the groups of it that are wanted."""

    record: StepRecord
    outcome: Outcome | None
    groups: tuple[Group, ...]
    """All of the record's."""
    wanted: tuple[Group, ...]


def read_trajectories(run_folder: Path, choice: Choice) -> Iterator[list[TrajectoryRecord]]:
    """The chosen groups in the order of the log, a list each; raises Stop where there is none."""
    if not (run_folder / "run.json").exists():
        raise Stop(
            ExitCode.CONFIG,
            f"RUN_DIR: {run_folder} holds no run: give a folder like runs/<name>-<time>",
        )
    chosen = choose(StepLog(run_folder / "trajectories"), choice)
    settings_of = cache(partial(settings_at, run_folder))
    detokenizer = Detokenizer(run_folder, settings_of(chosen[0].record.config_hash).model)
    for one in chosen:
        yield from _describe(one, settings_of(one.record.config_hash), detokenizer)


def choose(log: StepLog, choice: Choice) -> list[Chosen]:
    """Sorted by place, at least one group; raises Stop."""
    places = log.places()
    of_step = [place for place in places if choice.step in (None, place.step)]
    if not of_step:
        asked = "" if choice.step is None else f"step {choice.step} is not kept: "
        raise Stop(ExitCode.CONFIG, f"{asked}{_kept(places)}")
    chosen: list[Chosen] = []
    num_left = choice.last
    for place in reversed(of_step):
        found = _read(log, place, choice.number, num_left)
        if found.wanted:
            chosen.insert(0, found)
        if num_left is not None:
            num_left -= len(found.wanted)
            if num_left == 0:
                break
    if not chosen:
        where = f"step {choice.step}" if choice.step else f"any step that is kept: {_kept(places)}"
        raise Stop(ExitCode.CONFIG, f"number {choice.number} is not in {where}")
    return chosen


def _kept(places: Sequence[Place]) -> str:
    if not places:
        return "no step is logged yet"
    first, last = places[0].step, places[-1].step
    return f"{first} is" if first == last else f"{first} to {last} are"


def _read(log: StepLog, place: Place, number: int | None, num_groups: int | None) -> Chosen:
    try:
        record, outcome = log.read(place), log.outcome(place)
    except Damaged as error:
        raise Stop(ExitCode.ENVIRONMENT, f"{error}: see volley audit") from error
    except FileNotFoundError as error:
        raise Stop(
            ExitCode.ENVIRONMENT, f"step {place.step} has just been dropped: try again"
        ) from error
    groups = tuple(msgspec.msgpack.decode(body, type=Group) for body in record.groups)
    wanted = tuple(group for group in groups if number in (None, group.number))
    return Chosen(record, outcome, groups, wanted if num_groups is None else wanted[-num_groups:])


def settings_at(run_folder: Path, config_hash: str) -> Settings:
    """Of the steps that were logged under this configuration."""
    return load_settings(run_folder / "configs" / f"{config_hash}.toml", environment={})


def _describe(
    chosen: Chosen, settings: Settings, detokenizer: Detokenizer
) -> Iterator[list[TrajectoryRecord]]:
    record = chosen.record
    step = Step(
        run=record.run,
        epoch=record.head.epoch,
        step=record.place.step,
        attempt=record.place.attempt,
        functions=settings.reward.functions,
        weights=settings.reward.function_weights,
        answer_tag=str(settings.environment.options.get("answer_tag", "answer")),
        text_of=detokenizer.text_of,
    )
    advantages = advantages_in(chosen, settings)
    dispositions = chosen.outcome.dispositions if chosen.outcome else {}
    for group in chosen.wanted:
        advantages_G = advantages.get(group.number, (None,) * len(group.trajectories))
        yield [*records_of(group, step, dispositions.get(group.number), advantages_G)]


def advantages_in(chosen: Chosen, settings: Settings) -> dict[int, Sequence[float | None]]:
    """By number, as the step has computed them."""
    if settings.loss.has_reference_in_reward:
        return {}  # what is taken off for the distance to the reference is not logged
    set_aside = chosen.outcome.set_aside if chosen.outcome else ()
    groups = [group for group in chosen.groups if group.number not in set_aside]
    found = advantages_of(groups, selection_rules(settings))
    rows = zip(found.advantages_PG.tolist(), found.valid_PG.tolist(), strict=True)
    return {
        group.number: [a if is_valid else None for a, is_valid in zip(*row, strict=True)]
        for group, row in zip(groups, rows, strict=True)
    }
