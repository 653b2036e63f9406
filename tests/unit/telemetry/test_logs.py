"""Lines of the log, for people and for machines."""

import json
import logging

from volley.telemetry.logs import JsonFormatter, TextFormatter


def record(**fields: object) -> logging.LogRecord:
    return logging.makeLogRecord(
        {"levelname": "INFO", "name": "volley.x", "msg": "took step %d", "args": (7,), **fields}
    )


def test_text_has_four_digits_of_a_number_and_all_of_a_name():
    line = TextFormatter("learner").format(record(loss=-0.010121619328856468, version="1.7"))
    assert line.endswith("INFO learner took step 7 loss=-0.01012 version=1.7")


def test_json_has_all_digits():
    event = json.loads(JsonFormatter("learner").format(record(loss=-0.010121619328856468)))
    assert event["event"] == "took step 7"
    assert event["loss"] == -0.010121619328856468
