"""`volley dead` on a run folder with dead letters in it."""

import pytest
from typer.testing import CliRunner

from volley.launcher.__main__ import app
from volley.learner.dead import DeadLetters
from volley.learner.ledger import Disposition
from volley.telemetry.stops import ExitCode


@pytest.fixture
def folder(tmp_path):
    (tmp_path / "run.json").write_text("{}")
    return tmp_path


@pytest.fixture
def letters(folder):
    letters = DeadLetters(folder / "dead")
    letters.add_number(17, Disposition.SKIPPED, "failed", "ValueError: [no]", 5, "sort ba=\n[b]")
    letters.add_number(42, Disposition.REFUSED, "poison", "three deaths", 1)
    letters.add_message(9, b"nonsense", "not msgpack")
    return letters


def answer(*arguments: object) -> tuple[int, str]:
    """Exit code, and what a wide terminal shows."""
    words = ["dead", *map(str, arguments)]
    result = CliRunner().invoke(app, words, env={"COLUMNS": "160", "TERM": "dumb"})
    return result.exit_code, result.output


def rows(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines() if line.split()]


def test_the_list_has_a_row_for_every_number_and_message(folder, letters):
    code, text = answer(folder, "ls")
    assert code == 0
    words = {row[0]: row for row in rows(text)}
    assert words["17"][1:4] == ["skipped", "failed", "5"]
    assert words["17"][-2:] == ["sort", "ba=\\n[b]"]
    assert words["42"][1:4] == ["refused", "poison", "1"]
    assert words["dead/message-0.bin"][1:3] == ["9", "8"]


def test_of_a_run_that_gave_up_nothing_it_says_so(folder):
    assert answer(folder, "ls") == (0, "No prompt was given up, and every answer could be read.\n")


def test_a_number_is_shown_with_its_traceback(folder, letters):
    code, text = answer(folder, "show", 17)
    assert code == 0
    assert "detail: ValueError: [no]" in text


def test_named_numbers_are_requeued(folder, letters):
    code, text = answer(folder, "requeue", 17)
    assert (code, text[:20]) == (0, "1 to be tried again:")
    assert [letter.number for letter in letters.numbers()] == [42]
    assert [letter.number for letter in letters.take_requeued()] == [17]


def test_all_numbers_are_requeued(folder, letters):
    assert answer(folder, "requeue", "--all")[0] == 0
    assert [letter.number for letter in letters.take_requeued()] == [17, 42]


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["show", 3], "number 3 is not among the dead letters"),
        (["requeue", 17, 3], "number 3 is not among the dead letters"),
        (["requeue"], "name numbers that `ls` lists"),
    ],
)
def test_a_number_that_is_not_there_is_refused(folder, letters, words, message):
    code, text = answer(folder, *words)
    assert code == ExitCode.CONFIG
    assert message in text
    assert letters.take_requeued() == []


def test_a_folder_that_is_not_a_run_is_refused(tmp_path):
    code, text = answer(tmp_path / "nowhere", "ls")
    assert code == ExitCode.CONFIG
    assert "nowhere has no run.json: give the folder of a run" in text
