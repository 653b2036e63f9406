"""Each check of the audit is silent about a good run, and sees what it is for."""

import json

import msgspec
import pytest

from tests.solo_learner import SoloLearner, group_of, write_config
from volley.learner.audit import audit
from volley.learner.ledger import Attempts, Disposition, LedgerState
from volley.learner.past_run import open_run
from volley.learner.sealed import write_sealed
from volley.learner.step_log import Outcome, Place, StepLog, StepRecord
from volley.learner.update import StepResult
from volley.schemas.codec import encode
from volley.telemetry.stops import Stop

CHECKS = ["sums", "once", "roots", "versions", "leftovers"]


@pytest.fixture
def folder(tmp_path, qwen3_folder):
    """A run of four steps, one of them refused, over two starts and with two checkpoints."""
    config = write_config(tmp_path, qwen3_folder)
    first = SoloLearner(config)
    first.take(0, 1)
    first.save()
    first.log(group_of(2, "run"))
    metrics = first.train().metrics
    first.conclude(StepResult(False, {2: Disposition.REFUSED}, (), metrics))
    first.die()
    second = SoloLearner(config)
    second.take(3, 4)
    second.take(5, 6)
    second.save()
    second.die()
    return second.folder.path


def faults_of(folder, *, from_start=True):
    with open_run(folder) as run:
        findings = audit(run, run.oldest_kept(from_start=from_start))
    assert [finding.check for finding in findings] == CHECKS
    return {finding.check: list(finding.faults) for finding in findings if finding.faults}


def forge_record(folder, place: Place, **fields: object) -> None:
    """A record with a good seal and another content."""
    log = StepLog(folder / "trajectories")
    record: StepRecord = msgspec.structs.replace(log.read(place), **fields)
    log.path(place).unlink()
    write_sealed(log.path(place), msgspec.msgpack.encode(record))


def forge_outcome(folder, place: Place, **fields: object) -> None:
    log = StepLog(folder / "trajectories")
    outcome = log.outcome(place)
    assert outcome is not None
    forged: Outcome = msgspec.structs.replace(outcome, **fields)
    path = log.path(place, ".outcome")
    path.unlink()
    write_sealed(path, msgspec.json.encode(forged))


def ledger_of(folder, place: Place) -> LedgerState:
    return StepLog(folder / "trajectories").read(place).ledger


def test_a_run_that_keeps_its_promises_has_no_faults(folder):
    assert faults_of(folder) == {}
    assert faults_of(folder, from_start=False) == {}


def test_what_was_looked_at_is_said_and_every_replayed_step_told(folder):
    told: list[int] = []
    with open_run(folder) as run:
        findings = audit(run, run.oldest_kept(from_start=True), told.append)
    assert told == [1, 2, 3]
    looked_at = {finding.check: finding.looked_at for finding in findings}
    assert looked_at["sums"] == "7 numbers"
    assert looked_at["once"] == "7 closed numbers"
    assert looked_at["roots"] == "3 steps replayed"
    assert looked_at["versions"] == "3 versions"


def test_from_the_oldest_kept_checkpoint_only_later_steps_are_replayed(folder):
    with open_run(folder) as run:
        findings = {one.check: one for one in audit(run, run.oldest_kept())}
    assert findings["roots"].looked_at == "2 steps replayed"


def test_a_number_that_is_counted_nowhere_is_seen_by_the_sums(folder):
    ledger = ledger_of(folder, Place(3, 0))
    lost = msgspec.structs.replace(ledger, next_number=ledger.next_number + 1)
    forge_record(folder, Place(3, 0), ledger=lost)
    faults = faults_of(folder)
    assert faults.keys() == {"sums"}
    assert "does not add up" in faults["sums"][0]


def test_a_number_that_changed_its_state_in_silence_is_seen_by_the_sums(folder):
    ledger = ledger_of(folder, Place(3, 0))
    moved = msgspec.structs.replace(ledger, closed={Disposition.TRAINED: 5})
    forge_record(folder, Place(3, 0), ledger=moved)
    faults = faults_of(folder)
    assert faults.keys() == {"sums"}
    assert "do not follow from those before" in faults["sums"][0]


def test_a_number_that_is_trained_without_being_open_is_seen_by_the_sums(folder):
    ledger = ledger_of(folder, Place(3, 0))
    still_open = {number: tries for number, tries in ledger.open.items() if number != 5}
    lost = msgspec.structs.replace(ledger, next_number=ledger.next_number - 1, open=still_open)
    forge_record(folder, Place(3, 0), ledger=lost)
    assert faults_of(folder) == {"sums": ["step 3-0: it trains a number that is not open"]}


def test_a_group_in_two_applied_steps_is_seen(folder):
    record = StepLog(folder / "trajectories").read(Place(3, 0))
    # Issued twice, so that the sums meet; without a signal, so that the weights are the same.
    ledger = msgspec.structs.replace(
        record.ledger,
        next_number=record.ledger.next_number + 1,
        open=record.ledger.open | {0: Attempts()},
    )
    again = encode(group_of(0, "run", rewards=(1.0, 1.0)))
    forge_record(folder, Place(3, 0), ledger=ledger, groups=(*record.groups, again))
    assert faults_of(folder) == {"once": ["number 0 was trained in steps 1-0, 3-0"]}


def test_a_number_that_gets_two_states_is_seen(folder):
    ledger = ledger_of(folder, Place(3, 0))
    ledger = msgspec.structs.replace(
        ledger,
        next_number=ledger.next_number + 1,
        closed=ledger.closed | {Disposition.SKIPPED: 1},
    )
    forge_record(folder, Place(3, 0), ledger=ledger, closed={1: Disposition.SKIPPED})
    assert faults_of(folder) == {"once": ["number 1 was closed in steps 1-0, 3-0"]}


def test_other_groups_than_those_that_were_trained_are_seen_by_the_roots(folder):
    forged = tuple(encode(group_of(number, "run", rewards=(0.0, 1.0))) for number in (3, 4))
    forge_record(folder, Place(2, 1), groups=forged)
    faults = faults_of(folder)
    assert faults.keys() == {"roots"}
    assert faults["roots"][0].startswith("step 2-1: replayed root ")


def test_a_version_with_two_contents_is_seen(folder):
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    line = json.loads(lines[1]) | {"root": "0" * 64}
    (folder / "metrics.jsonl").write_text("\n".join([lines[0], json.dumps(line), lines[2], ""]))
    faults = faults_of(folder)
    assert faults.keys() == {"versions"}
    assert "version 2.2 has 2 roots" in faults["versions"][0]
    assert "metrics.jsonl" in faults["versions"][0]


def test_a_temporary_file_is_seen(folder):
    (folder / "trajectories" / ".step-00000009-0.vly.8vk2x1").write_text("half")
    name = "trajectories/.step-00000009-0.vly.8vk2x1"
    assert faults_of(folder) == {"leftovers": [f"{name}: temporary"]}


def test_half_a_checkpoint_is_seen(folder):
    half = folder / "checkpoints" / ".step-00000009-0003"
    half.mkdir()
    (half / "state.safetensors").write_text("half")
    assert faults_of(folder) == {"leftovers": ["checkpoints/.step-00000009-0003: temporary"]}


def test_a_step_that_is_missing_is_seen(folder):
    for suffix in (".vly", ".outcome"):
        (folder / "trajectories" / f"step-00000002-0{suffix}").unlink()
    # The state that it gave is said to have come without it, so that the sums meet.
    forge_record(folder, Place(2, 1), closed={2: Disposition.REFUSED})
    assert faults_of(folder) == {"leftovers": ["step 2-1 follows where 2-0 should be"]}


def test_a_step_that_cannot_be_read_ends_the_audit(folder):
    path = folder / "trajectories" / "step-00000002-1.vly"
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(Stop, match="the step log is not whole"):
        faults_of(folder)


def test_an_outcome_with_another_root_is_seen(folder):
    forge_outcome(folder, Place(3, 0), root="f" * 64)
    faults = faults_of(folder)
    assert "recorded ffffffffffff" in faults["roots"][0]
    assert faults.keys() == {"roots", "versions"}
