from pathlib import Path

import msgspec
import pytest

from volley.learner.identity import Identity, changed_settings, frozen_settings, hash_config
from volley.learner.settings import Settings
from volley.telemetry.stops import ExitCode, Stop


def settings(**sections) -> Settings:
    tree = {"model": {"path": "m"}, "data": {"train": Path("train.jsonl")}}
    return Settings.model_validate(tree | sections)


def identity(**fields) -> Identity:
    began = Identity(1, "sums-1", "d" * 64, "c" * 64, "r" * 64, frozen_settings(settings()))
    return msgspec.structs.replace(began, **fields)


def test_the_same_run_is_the_same():
    identity().check(identity())


@pytest.mark.parametrize(
    ("field", "named"),
    [("data_hash", "data.train"), ("code_hash", "reward.functions"), ("start_root", "model.path")],
)
def test_changed_files_are_named(field, named):
    with pytest.raises(Stop, match=f"^{named}.*has changed since run sums-1 began.*--fresh") as end:
        identity().check(identity(**{field: "x" * 64}))
    assert end.value.code is ExitCode.CONFIG


def test_changed_sampling_is_named():
    other = settings(sampling={"temperature": 0.5})
    with pytest.raises(Stop, match=r"^sampling.temperature is 0.5, run sums-1 began with 1.0"):
        identity().check(identity(frozen=frozen_settings(other)))


def test_the_learning_rate_may_change_and_is_said():
    before, after = settings(), settings(optim={"learning_rate": 3e-6})
    identity().check(identity(frozen=frozen_settings(after)))
    assert hash_config(before) != hash_config(after)
    assert changed_settings(before, after) == ["optim.learning_rate: 1e-06 -> 3e-06"]


def test_where_things_lie_and_how_they_are_watched_changes_no_step():
    moved = settings(
        model={"path": "/elsewhere/m"},
        run={"folder": "/elsewhere"},
        server={"port": 8000},
        logging={"level": "DEBUG"},
        checkpoint={"every_steps": 7},
    )
    assert hash_config(settings()) == hash_config(moved)
    assert changed_settings(settings(), moved) == []
