"""Lines of the log, for people and for machines."""

import json
import logging
import subprocess
import sys

import pytest

from volley.telemetry.logs import JsonFormatter, TextFormatter

WARN = """
import logging, warnings
from volley.telemetry.logs import on_every_line, set_up_logs
set_up_logs("rollout", style="{style}")
on_every_line(worker=lambda: "0123456789abcdef", step=lambda: 7)
logging.getLogger("volley.x").info("took a step", extra={{"step": 8}})
logging.getLogger("volley.x").debug("a prompt")
logging.getLogger("urllib3").info("a library's chatter")
warnings.warn("a library's worry")
"""


def record(**fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"levelname": "INFO", "name": "volley.x", "msg": "took step %d", "args": (7,), **fields}
    )


def test_text_has_four_digits_of_a_number_and_all_of_a_name():
    line = TextFormatter("learner").format(record(loss=-0.010121619328856468, version="1.7"))
    assert line.endswith("INFO learner took step 7 loss=-0.01012 version=1.7")


def test_an_event_is_one_line_of_text_even_if_a_field_has_several():
    line = TextFormatter("learner").format(record(detail="no\nanswer"))
    assert line.endswith(r"INFO learner took step 7 detail=no\nanswer")


def test_json_has_all_digits():
    event = json.loads(JsonFormatter("learner").format(record(loss=-0.010121619328856468)))
    assert event["event"] == "took step 7"
    assert event["loss"] == -0.010121619328856468


@pytest.fixture
def lines():
    """What a process of its own writes, in the style asked for."""

    def write(style):
        program = [sys.executable, "-c", WARN.format(style=style)]
        return subprocess.run(program, capture_output=True, text=True).stderr.splitlines()

    return write


def test_every_line_says_who_wrote_it_and_where_its_run_was(lines):
    step, warning = map(json.loads, lines("json"))
    assert (step["role"], step["worker"], step["step"]) == ("rollout", "0123456789abcdef", 8)
    assert (warning["level"], warning["logger"], warning["step"]) == ("WARNING", "py.warnings", 7)


def test_in_text_a_worker_has_the_start_of_its_name(lines):
    step, *_ = lines("text")
    assert step.endswith("INFO rollout took a step step=8 worker=01234567")
