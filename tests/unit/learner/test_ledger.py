import msgspec
import pytest

from volley.learner.ledger import Delivery, Disposition, Ledger, LedgerState, closing


def sums_meet(ledger: Ledger) -> bool:
    counts = ledger.counts()
    return counts.issued == (
        counts.open + counts.trained + counts.filtered + counts.refused + counts.skipped
    )


def test_every_number_is_open_or_in_one_state():
    ledger = Ledger()
    assert list(ledger.issue(4)) == [0, 1, 2, 3]
    assert list(ledger.issue(2)) == [4, 5]
    ledger.close({0: Disposition.TRAINED, 1: Disposition.FILTERED})
    ledger.close(closing([2, 3], Disposition.SKIPPED))
    counts = ledger.counts()
    assert (counts.issued, counts.open, counts.trained, counts.skipped) == (6, 2, 1, 2)
    assert ledger.open == {4, 5}
    assert sums_meet(ledger)


def test_a_number_cannot_be_closed_twice():
    ledger = Ledger()
    ledger.issue(1)
    ledger.close(closing([0], Disposition.TRAINED))
    with pytest.raises(KeyError):
        ledger.close(closing([0], Disposition.TRAINED))


def test_a_number_in_hand_is_open_but_not_wanted():
    ledger = Ledger()
    ledger.issue(2)
    ledger.take(0)
    assert ledger.open == {0, 1}
    assert ledger.wanted == {1}


def test_a_retry_without_a_strike_counts_as_an_attempt_only():
    ledger = Ledger()
    ledger.issue(1)
    assert ledger.retry(0, "handed_back", strike=False) == 0
    assert ledger.retry(0, "lease", strike=True) == 1
    assert ledger.attempt(0) == 2
    assert ledger.deliveries(0).retried == {"handed_back": 1, "lease": 1}


def test_only_what_came_too_late_is_a_strike_without_being_a_failure():
    ledger = Ledger()
    ledger.issue(1)
    ledger.retry(0, "handed_back", strike=False)
    assert ledger.failures(0) == 0
    ledger.retry(0, "stale", strike=True)
    assert ledger.failures(0) == 0
    ledger.retry(0, "lease", strike=True)
    assert ledger.failures(0) == 1


def test_deliveries_are_counted_by_kind():
    ledger = Ledger()
    ledger.count(Delivery.STALE)
    ledger.count(Delivery.STALE)
    ledger.count(Delivery.INVALID)
    deliveries = ledger.deliveries(duplicate=3)
    assert (deliveries.duplicate, deliveries.stale, deliveries.invalid) == (3, 2, 1)


def test_a_ledger_comes_back_from_its_state():
    ledger = Ledger()
    ledger.issue(4)
    ledger.retry(1, "lease", strike=True)
    ledger.retry(1, "handed_back", strike=False)
    ledger.count(Delivery.STALE)
    ledger.close({0: Disposition.TRAINED})
    ledger.take(2)
    state = msgspec.msgpack.decode(msgspec.msgpack.encode(ledger.state()), type=LedgerState)
    again = Ledger.of(state)
    assert again.state() == ledger.state()
    assert again.counts() == ledger.counts()
    assert again.deliveries(0) == ledger.deliveries(0)
    assert again.attempt(1) == 2
    assert again.retry(1, "lease", strike=True) == 2
    assert again.wanted == {1, 2, 3}, "nothing is in the hands of a process that has just begun"
    assert list(again.issue(1)) == [4]


def test_a_state_stays_what_it_was_when_the_ledger_goes_on():
    ledger = Ledger()
    ledger.issue(2)
    state = ledger.state()
    ledger.close({0: Disposition.TRAINED})
    ledger.retry(1, "lease", strike=True)
    assert Ledger.of(state).counts().open == 2
    assert Ledger.of(state).attempt(1) == 0


def test_a_number_that_is_reopened_has_its_attempts_but_no_strikes():
    ledger = Ledger()
    ledger.issue(3)
    ledger.close(closing([0, 1], Disposition.SKIPPED))
    ledger.reopen(1, Disposition.SKIPPED, num_attempts=5)
    counts = ledger.counts()
    assert (counts.issued, counts.open, counts.skipped) == (3, 2, 1)
    assert sums_meet(ledger)
    assert ledger.wanted == {1, 2}
    assert ledger.attempt(1) == 5, "its next samples are drawn with another seed"
    assert ledger.retry(1, "lease", strike=True) == 1
    ledger.close({1: Disposition.TRAINED})
    assert sums_meet(ledger)


def test_a_number_is_reopened_once_however_often_it_is_asked_for():
    ledger = Ledger()
    ledger.issue(1)
    ledger.close({0: Disposition.REFUSED})
    for _ in range(2):
        ledger.reopen(0, Disposition.REFUSED, num_attempts=1)
    assert ledger.counts().open == 1
    assert sums_meet(ledger)


def test_a_number_that_was_never_closed_like_that_cannot_be_reopened():
    ledger = Ledger()
    ledger.issue(1)
    ledger.close({0: Disposition.TRAINED})
    with pytest.raises(AssertionError):
        ledger.reopen(0, Disposition.SKIPPED, num_attempts=1)


def test_no_number_is_issued_where_more_than_enough_are_open():
    ledger = Ledger()
    ledger.issue(2)
    assert list(ledger.issue(-1)) == []
    assert list(ledger.issue(1)) == [2]
