"""Logs of every process: JSON lines, or text for people, on standard error.

An event is a sentence in the past tense plus fields, given as `extra`:

    logger.info("published weights", extra={"version": "1.7", "duration_s": 0.2})
"""

import logging
import sys
import time
from typing import Literal

import msgspec

_OWN_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _OWN_FIELDS}


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, role, logger, event and the fields of the event."""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "role": self._role,
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(event, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """`12:30:01 INFO learner published weights version=1.7 duration_s=0.2`"""

    def __init__(self, role: str) -> None:
        super().__init__()
        self._role = role

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        fields = "".join(f" {key}={_short(value)}" for key, value in _fields(record).items())
        line = f"{clock} {record.levelname} {self._role} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value)


def set_up_logs(role: str, level: str = "INFO", style: Literal["json", "text"] = "json") -> None:
    """Send this process's logs to standard error, one line an event."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(JsonFormatter(role) if style == "json" else TextFormatter(role))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.getLogger("volley").setLevel(level)
