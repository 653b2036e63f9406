import json

import pytest

from volley.learner.dead import MAX_BODY_BYTES, MAX_MESSAGES, MAX_TEXT, DeadLetters
from volley.learner.ledger import Disposition
from volley.telemetry.stops import ExitCode, Stop


@pytest.fixture
def dead(tmp_path):
    return DeadLetters(tmp_path / "dead")


def add(dead: DeadLetters, *numbers: int) -> None:
    for number in numbers:
        dead.add_number(number, Disposition.SKIPPED, "failed", "ValueError: no", 5, "sort ba=")


def test_nothing_is_dead_where_nothing_was_given_up(dead, tmp_path):
    assert (dead.numbers(), dead.messages(), dead.take_requeued()) == ([], [], [])
    assert list(tmp_path.iterdir()) == []


def test_a_number_is_kept_with_the_reason(dead, tmp_path):
    dead.add_number(7, Disposition.REFUSED, "poison", "three deaths", 1)
    letter = dead.show(7)
    assert (letter.number, letter.disposition, letter.reason) == (7, Disposition.REFUSED, "poison")
    assert (letter.detail, letter.num_attempts, letter.prompt) == ("three deaths", 1, "")
    written = json.loads((tmp_path / "dead" / "number-7.json").read_text())
    assert written["disposition"] == "refused"
    assert written["time"].endswith("+00:00")


def test_numbers_are_listed_in_their_order(dead):
    add(dead, 10, 9, 2)
    assert [letter.number for letter in dead.numbers()] == [2, 9, 10]


def test_of_a_long_detail_the_end_is_kept_for_that_is_where_a_traceback_says_it(dead):
    dead.add_number(1, Disposition.SKIPPED, "failed", "x" * MAX_TEXT + "ValueError", 5)
    assert len(dead.show(1).detail) == MAX_TEXT
    assert dead.show(1).detail.endswith("ValueError")


def test_a_number_that_is_not_dead_cannot_be_shown(dead):
    add(dead, 1)
    with pytest.raises(Stop, match="number 2 is not among the dead letters") as caught:
        dead.show(2)
    assert caught.value.code is ExitCode.CONFIG


def test_a_requeued_number_stays_to_be_taken_until_it_is_forgotten(dead):
    add(dead, 1, 2, 3)
    dead.requeue([3, 1])
    assert [letter.number for letter in dead.numbers()] == [2]
    for _ in range(2):
        assert [letter.number for letter in dead.take_requeued()] == [1, 3]
    dead.forget([1])
    assert [letter.number for letter in dead.take_requeued()] == [3]
    with pytest.raises(Stop):
        dead.show(1)


def test_a_number_may_be_requeued_twice_before_it_is_taken(dead):
    add(dead, 1)
    dead.requeue([1])
    dead.requeue([1])
    assert [letter.number for letter in dead.take_requeued()] == [1]


def test_of_numbers_of_which_one_is_not_dead_none_is_requeued(dead):
    add(dead, 1)
    with pytest.raises(Stop, match="number 2"):
        dead.requeue([1, 2])
    assert dead.take_requeued() == []
    assert [letter.number for letter in dead.numbers()] == [1]


def test_a_number_that_dies_again_can_be_requeued_again(dead):
    add(dead, 1)
    dead.requeue([1])
    dead.forget([1])
    dead.add_number(1, Disposition.SKIPPED, "stale", "", 10)
    assert [letter.reason for letter in dead.numbers()] == ["stale"]
    dead.requeue([1])
    assert [letter.num_attempts for letter in dead.take_requeued()] == [10]


def test_a_number_that_is_opened_is_not_listed_as_dead_too(dead):
    add(dead, 1)
    dead.requeue([1])
    dead.take_requeued()
    add(dead, 1)  # given up again, but the learner dies before it has logged that
    assert [letter.number for letter in dead.take_requeued()] == [1]
    assert dead.numbers() == []


def test_an_unreadable_message_is_kept_with_the_beginning_of_its_bytes(dead, tmp_path):
    dead.add_message(4, b"\xff" * (MAX_BODY_BYTES + 1), "not msgpack")
    (message,) = dead.messages()
    assert (message.number, message.reason) == (4, "not msgpack")
    assert message.num_bytes == MAX_BODY_BYTES + 1
    assert (tmp_path / "dead" / "message-0.bin").read_bytes() == b"\xff" * MAX_BODY_BYTES


def test_only_the_newest_messages_are_kept(dead, tmp_path):
    for number in range(MAX_MESSAGES + 3):
        dead.add_message(number, b"%d" % number, "not msgpack")
    assert [message.number for message in dead.messages()] == list(range(3, MAX_MESSAGES + 3))
    assert len(list((tmp_path / "dead").iterdir())) == 2 * MAX_MESSAGES
    assert (tmp_path / "dead" / f"message-{MAX_MESSAGES + 2}.bin").read_bytes() == b"102"


def test_a_disk_that_takes_no_more_costs_the_letter_and_not_the_run(dead, tmp_path, caplog):
    (tmp_path / "dead").write_text("a file where the folder would be")
    add(dead, 1)
    assert "could not keep a dead letter" in caplog.text
