"""Logs of every process: text for people, or JSON lines, on standard error.

An event is a sentence in the past tense plus fields, given as `extra`:

    logger.info("published weights", extra={"version": "1.7", "duration_s": 0.2})

Above DEBUG no line holds a prompt, a completion, or what a user's code has said.
"""

import logging
import sys
import time
from collections.abc import Callable, Mapping
from types import MappingProxyType
from typing import Literal

import msgspec

LogFormat = Literal["json", "text"]
Context = Mapping[str, Callable[[], object]]

SHORT_CHARS = 8
"""Of a field that every line carries, in text: enough of a worker's name to tell it from others."""

_OWN_FIELDS = frozenset(logging.makeLogRecord({}).__dict__) | {"message", "asctime", "taskName"}
_context: dict[str, Callable[[], object]] = {}


def set_up_logs(role: str, level: str = "INFO", style: LogFormat = "text") -> None:
    """Send this process's logs to standard error, one line an event."""
    _context.clear()
    formatter = JsonFormatter if style == "json" else TextFormatter
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter(role, _context))
    logging.basicConfig(level=logging.WARNING, handlers=[handler], force=True)
    logging.captureWarnings(True)
    logging.getLogger("volley").setLevel(level)


def on_every_line(**fields: Callable[[], object]) -> None:
    """Let all lines of this process carry these from now on; an event's own fields come first."""
    _context.update(fields)


class JsonFormatter(logging.Formatter):
    """One JSON object a line: time, level, role, logger, event and the fields of the event."""

    def __init__(self, role: str, context: Context = MappingProxyType({})) -> None:
        super().__init__()
        self._role = role
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        event: dict[str, object] = {
            "time": time.strftime("%Y-%m-%dT%H:%M:%S", time.gmtime(record.created))
            + f".{int(record.msecs):03d}Z",
            "level": record.levelname,
            "role": self._role,
            **{key: look() for key, look in self._context.items()},
            "logger": record.name,
            "event": record.getMessage(),
            **_fields(record),
        }
        if record.exc_info:
            event["traceback"] = self.formatException(record.exc_info)
        return msgspec.json.encode(event, enc_hook=str).decode()


class TextFormatter(logging.Formatter):
    """`12:30:01 INFO learner published weights version=1.7 duration_s=0.2 step=7`"""

    def __init__(self, role: str, context: Context = MappingProxyType({})) -> None:
        super().__init__()
        self._role = role
        self._context = context

    def format(self, record: logging.LogRecord) -> str:
        clock = time.strftime("%H:%M:%S", time.localtime(record.created))
        own = _fields(record)
        everywhere = {
            key: str(look())[:SHORT_CHARS] for key, look in self._context.items() if key not in own
        }
        fields = "".join(f" {key}={_short(value)}" for key, value in (own | everywhere).items())
        line = f"{clock} {record.levelname} {self._role} {record.getMessage()}{fields}"
        return f"{line}\n{self.formatException(record.exc_info)}" if record.exc_info else line


def _fields(record: logging.LogRecord) -> dict[str, object]:
    return {key: value for key, value in record.__dict__.items() if key not in _OWN_FIELDS}


def _short(value: object) -> str:
    return f"{value:.4g}" if isinstance(value, float) else str(value).replace("\n", "\\n")
