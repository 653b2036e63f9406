from dataclasses import replace

import pytest

from tests.reports import REPORT, WORKER
from volley.learner.api_page import amount, figure, ledger_shares, span
from volley.learner.health import lag
from volley.schemas.groups import Version
from volley.schemas.status import LedgerCounts

DASH = "\N{EN DASH}"


@pytest.mark.parametrize(
    ("written", "as_read"),
    [
        (figure(None), DASH),
        (figure(0.41251), "0.413"),
        (figure(12345.6, 0), "12,346"),
        (amount(9472), "9,472"),
        (span(None), DASH),
        (span(0.0316), "32 ms"),
        (span(89.4), "89 s"),
        (span(179), "2 min"),
        (span(3 * 3600 + 5 * 60), "3 h 05 min"),
    ],
)
def test_numbers_are_written_for_people(written, as_read):
    assert written == as_read


def test_the_ledger_is_shown_in_shares_of_what_was_issued():
    assert ledger_shares(REPORT) == [
        ("trained", 30, 30.0),
        ("open", 64, 64.0),
        ("filtered", 6, 6.0),
    ]


def test_a_ledger_of_a_run_that_has_not_begun_has_no_shares():
    nothing = LedgerCounts(issued=0, open=0, trained=0, filtered=0, refused=0, skipped=0)
    assert ledger_shares(replace(REPORT, ledger=nothing)) == []


def test_a_worker_is_behind_by_versions_once_it_has_one():
    assert lag(REPORT, replace(WORKER, version=Version(1, 35))) == 2
    assert lag(REPORT, replace(WORKER, version=None)) is None
