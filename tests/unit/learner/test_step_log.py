import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.builders import RUN, make_group
from tests.full_disk import full_disk
from volley.learner.ledger import Attempts, Disposition, LedgerState
from volley.learner.sealed import Damaged, read_sealed
from volley.learner.step_log import Outcome, Place, StepLog, StepRecord
from volley.schemas.codec import encode
from volley.schemas.groups import SCHEMA_VERSION, Version
from volley.telemetry.stops import ExitCode, Stop


def record(place: Place, num_groups: int = 2) -> StepRecord:
    return StepRecord(
        schema_version=SCHEMA_VERSION,
        run=RUN,
        place=place,
        head=Version(1, place.step - 1),
        config_hash="c",
        code_hash="d",
        data_hash="e",
        closed={7: Disposition.SKIPPED},
        reopened={},
        ledger=LedgerState(next_number=9, open={8: Attempts(2, 1)}),
        groups=tuple(encode(make_group(number=number)) for number in range(num_groups)),
    )


def outcome(*, applied: bool = True) -> Outcome:
    return Outcome(
        schema_version=SCHEMA_VERSION,
        applied=applied,
        reason=None if applied else "loss is nan",
        version=Version(1, 1),
        root="f00d",
        dispositions={0: Disposition.TRAINED, 1: Disposition.FILTERED},
        set_aside=(),
        metrics={"loss": 0.1, "kl": None},
    )


def log_of(folder, *places: Place) -> StepLog:
    """A log with a record and an outcome at each of these places."""
    log = StepLog(folder)
    for place in places:
        log.append(record(place))
        log.conclude(place, outcome())
    return log


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_the_place_moves_to_the_next_step_only_when_one_was_applied():
    assert Place(4, 1).after(applied=False) == Place(4, 2)
    assert Place(4, 2).after(applied=True) == Place(5, 0)


def test_a_record_and_its_outcome_come_back(tmp_path):
    log = StepLog(tmp_path)
    place = Place(12, 0)
    log.append(record(place))
    assert log.outcome(place) is None
    log.conclude(place, outcome())
    again = StepLog(tmp_path)
    assert again.read(place) == record(place)
    assert again.outcome(place) == outcome()
    assert names(tmp_path) == ["step-00000012-0.outcome", "step-00000012-0.vly"]


def test_an_outcome_can_be_read_by_people(tmp_path):
    log_of(tmp_path, Place(1, 0))
    assert b'\n  "applied": true,\n' in read_sealed(tmp_path / "step-00000001-0.outcome")


@given(st.sets(st.builds(Place, st.integers(0, 10**9), st.integers(0, 20)), max_size=8))
def test_places_are_sorted_as_numbers(tmp_path_factory, places):
    log = StepLog(tmp_path_factory.mktemp("log"))
    for place in places:
        log.append(record(place, num_groups=0))
    assert log.places() == sorted(places)


def test_a_place_that_is_taken_means_another_learner(tmp_path):
    log = log_of(tmp_path, Place(1, 0))
    for write in (
        lambda: log.append(record(Place(1, 0), num_groups=0)),
        lambda: log.conclude(Place(1, 0), outcome(applied=False)),
    ):
        with pytest.raises(Stop, match="another learner works on this run folder") as caught:
            write()
        assert caught.value.code is ExitCode.ANOTHER_LEARNER
    assert log.read(Place(1, 0)) == record(Place(1, 0))
    assert log.outcome(Place(1, 0)) == outcome()


def test_damage_is_found_out_in_both_files(tmp_path):
    log = log_of(tmp_path, Place(1, 0))
    for path in tmp_path.iterdir():
        path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Damaged, match=r"step-00000001-0\.vly"):
        log.read(Place(1, 0))
    with pytest.raises(Damaged, match=r"step-00000001-0\.outcome"):
        log.outcome(Place(1, 0))


def test_what_stands_before_the_oldest_checkpoint_is_pruned(tmp_path):
    log = log_of(tmp_path, Place(1, 0), Place(1, 1), Place(2, 0), Place(10, 0))
    log.prune(Place(2, 0))
    assert log.places() == [Place(2, 0), Place(10, 0)]
    assert len(names(tmp_path)) == 4


def test_abandoned_places_are_kept_aside_and_can_be_written_anew(tmp_path):
    log = log_of(tmp_path, Place(1, 0), Place(2, 0), Place(2, 1))
    log.abandon(Place(2, 0), "abandoned-2")
    assert log.places() == [Place(1, 0)]
    assert log.outcome(Place(2, 0)) is None
    assert names(tmp_path / "abandoned-2") == [
        "step-00000002-0.outcome",
        "step-00000002-0.vly",
        "step-00000002-1.outcome",
        "step-00000002-1.vly",
    ]
    log.append(record(Place(2, 0), num_groups=0))
    assert log.read(Place(2, 0)) == record(Place(2, 0), num_groups=0)


def test_an_abandonment_that_was_cut_short_left_no_hole_and_is_finished_later(tmp_path):
    log = log_of(tmp_path, Place(1, 0), Place(2, 0), Place(3, 0))
    # A folder in the way of the third of the six moves.
    (tmp_path / "aside" / "step-00000002-0.outcome").mkdir(parents=True)
    with pytest.raises(OSError, match=r"step-00000002-0\.outcome"):
        log.abandon(Place(1, 0), "aside")
    assert log.places() == [Place(1, 0), Place(2, 0)]
    assert log.outcome(Place(2, 0)) is not None
    log.abandon(Place(1, 0), "aside-again")
    assert log.places() == []


def test_a_full_disk_leaves_no_record_and_the_place_free(tmp_path):
    log = StepLog(tmp_path)
    with full_disk(max_file_bytes=20_000), pytest.raises(OSError, match="File too large"):
        log.append(record(Place(1, 0), num_groups=200))
    assert names(tmp_path) == []
    log.append(record(Place(1, 0)))
    assert log.places() == [Place(1, 0)]


def test_leftovers_are_no_part_of_the_log(tmp_path):
    log = log_of(tmp_path, Place(1, 0))
    (tmp_path / ".step-00000002-0.vly.8vk2x1").write_bytes(b"")
    assert log.places() == [Place(1, 0)]
    log.remove_leftovers()
    assert len(names(tmp_path)) == 2
