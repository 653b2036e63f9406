import json

import pytest

from tests.full_disk import full_disk
from volley.learner.metrics_file import MetricsFile, MetricsLine, MetricsPages
from volley.schemas.groups import Version

FIRST = MetricsLine(Version(1, 1), "aa", {"loss": 0.5, "kl": None})
SECOND = MetricsLine(Version(2, 2), "bb", {"loss": 0.25, "kl": 0.1})


def test_lines_are_flat_for_those_who_read_them(tmp_path):
    MetricsFile(tmp_path / "metrics.jsonl").append(FIRST)
    assert json.loads((tmp_path / "metrics.jsonl").read_text()) == {
        "epoch": 1,
        "step": 1,
        "root": "aa",
        "loss": 0.5,
        "kl": None,
    }


def test_what_was_written_is_read(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    assert file.read() == []
    file.append(FIRST)
    file.append(SECOND)
    assert file.read() == [FIRST, SECOND]
    file.rewrite([SECOND])
    assert file.read() == [SECOND]
    assert [path.name for path in tmp_path.iterdir()] == ["metrics.jsonl"]


def test_a_line_that_was_cut_short_does_not_count(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(FIRST)
    with (tmp_path / "metrics.jsonl").open("a") as cut:
        cut.write('{"epoch": 1, "step": 2')
    assert file.read() == [FIRST]


def test_a_line_that_does_not_fit_on_the_disk_leaves_nothing(tmp_path):
    file = MetricsFile(tmp_path / "metrics.jsonl")
    file.append(FIRST)
    long = MetricsLine(Version(1, 2), "b" * 5000, {})
    with full_disk(max_file_bytes=1000), pytest.raises(OSError, match=r"File too large|No space"):
        file.append(long)
    assert (tmp_path / "metrics.jsonl").read_bytes().endswith(b"}\n")
    file.append(SECOND)
    assert file.read() == [FIRST, SECOND]


def line(epoch: int, step: int) -> MetricsLine:
    return MetricsLine(Version(epoch, step), "aa", {"loss": step / 2})


@pytest.fixture
def path(tmp_path):
    return tmp_path / "metrics.jsonl"


def test_pages_end_where_the_file_does(path):
    pages = MetricsPages(path)
    assert pages.after(-1, 10) == ([], False)
    assert pages.newest() == Version(0, 0)
    lines = [line(1, step) for step in range(5)]
    MetricsFile(path).rewrite(lines)
    assert pages.after(-1, 3) == (lines[:3], True)
    assert pages.after(2, 2) == (lines[3:], False)
    assert pages.after(4, 1) == ([], False)


def test_pages_follow_a_file_that_grows(path):
    file, pages = MetricsFile(path), MetricsPages(path)
    file.append(line(1, 1))
    assert pages.newest() == Version(1, 1)
    file.append(line(1, 2))
    assert pages.behind(Version(1, 1), 10) == [line(1, 2)]
    assert pages.behind(Version(1, 2), 10) == []


def test_a_line_is_on_no_page_before_it_is_whole(path):
    MetricsFile(path).append(line(1, 1))
    pages = MetricsPages(path)
    with path.open("a") as cut:
        cut.write('{"epoch": 1, "step": 2, "root": "aa"')
        cut.flush()
        assert pages.after(-1, 10) == ([line(1, 1)], False)
        cut.write(', "loss": 1.0}\n')
        cut.flush()
        assert pages.after(-1, 10) == ([line(1, 1), line(1, 2)], False)


def test_pages_are_those_of_the_file_that_a_resume_has_written(path):
    file, pages = MetricsFile(path), MetricsPages(path)
    file.rewrite([line(1, 1), line(1, 2), line(1, 3)])
    assert pages.newest() == Version(1, 3)
    file.rewrite([line(1, 1), line(1, 2)])
    file.append(line(2, 3))
    assert pages.after(1, 10) == ([line(1, 2), line(2, 3)], False)
    # Who had the third step hears that there is another one.
    assert pages.behind(Version(1, 3), 10) == [line(2, 3)]


def test_a_page_reads_only_its_own_lines(path):
    MetricsFile(path).rewrite([line(1, 1), line(1, 2)])
    pages = MetricsPages(path)
    assert len(pages.after(-1, 10)[0]) == 2
    with path.open("r+b") as overwritten:
        overwritten.write(b"?" * 20)
    assert pages.after(1, 10) == ([line(1, 2)], False)
