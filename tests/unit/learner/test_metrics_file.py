import json

from volley.learner.metrics_file import MetricsFile, MetricsLine
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
