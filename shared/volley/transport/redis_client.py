"""The one place that talks to Redis: explicit timeouts, bounded retries, errors with a fix.

    QueueError
      QueueUnavailable     Redis cannot be reached, or did not answer in time: try again
      QueueForgotten       Redis may have lost what it was given: the learner must reconcile
      QueueFenced          another learner with a higher epoch acts for this run: stop
      QueueMisconfigured   it will not work until a person changes something; the text says what
      QueueFull            Redis has reached maxmemory: it recovers as results are dropped

A command whose reply was lost may have been carried out. So nothing is retried here but the
scripts in lua/, each of which says in its header why repeating it is harmless.
"""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from importlib.resources import files
from typing import TypeVar
from urllib.parse import urlsplit

import msgspec
import redis
from redis.backoff import NoBackoff
from redis.maint_notifications import MaintNotificationsConfig
from redis.retry import Retry
from tenacity import Retrying, retry_if_exception_type, stop_after_attempt, wait_random_exponential

CONNECT_TIMEOUT_S = 5.0
MAX_BLOCK_S = 5.0
"""Longest a command may wait inside Redis; well below REPLY_TIMEOUT_S, or waiting looks broken."""
REPLY_TIMEOUT_S = 10.0
IDLE_CHECK_S = 30.0
"""A connection idle for longer is tried with PING before it is used."""
SCRIPT_ATTEMPTS = 3

Entries = list[tuple[bytes, dict[bytes, bytes]]]
"""Id and fields of each entry of a stream."""

_Answer = TypeVar("_Answer")


class QueueError(Exception):
    """The queue did not do what was asked."""


class QueueUnavailable(QueueError):
    """Redis cannot be reached, or did not answer in time; nothing is known about the command."""


class QueueForgotten(QueueError):
    """Redis may have lost what it was given; `reconcile` repairs it."""


class QueueFenced(QueueError):
    """Another learner with a higher epoch acts for this run."""


class QueueMisconfigured(QueueError):
    """It will not work until a person changes something."""


class QueueFull(QueueError):
    """Redis has reached maxmemory and refused to take more."""


_BY_CODE = (
    ("FORGOTTEN", QueueForgotten, "Redis may have lost the queue of this run: reconcile"),
    ("NOGROUP", QueueForgotten, "Redis has lost the queue of this run: the learner reconciles"),
    ("UNBLOCKED", QueueForgotten, "the queue was deleted while waiting: the learner reconciles"),
    ("FENCED", QueueFenced, "this learner was overtaken: stop it, its successor has the run"),
    ("OOM", QueueFull, "it is full: raise maxmemory, or lower what is outstanding"),
    ("MISCONF", QueueUnavailable, "it cannot write to its disk: make room there"),
    ("READONLY", QueueUnavailable, "it is a replica: give the address of the primary"),
    ("NOPERM", QueueMisconfigured, "its user may not do this: allow it in the ACL"),
)


def connect(url: str) -> redis.Redis:
    """A client for `url`; connections are made when they are first needed."""
    try:
        return redis.Redis.from_url(
            url,
            protocol=2,
            socket_connect_timeout=CONNECT_TIMEOUT_S,
            socket_timeout=REPLY_TIMEOUT_S,
            socket_keepalive=True,
            health_check_interval=IDLE_CHECK_S,
            retry=Retry(NoBackoff(), 0),
            maint_notifications_config=MaintNotificationsConfig(enabled=False),
        )
    except ValueError:
        # Not in its words: they repeat parts of the address, of a password with a slash for one.
        raise QueueMisconfigured(
            "queue.redis_url or VOLLEY_REDIS_URL is no address of a Redis: write it as "
            "redis://[:password@]host:port/0, with %2F for a slash in the password, and so on"
        ) from None


class RedisClient:
    """A client whose failures are QueueErrors; safe to share between threads."""

    def __init__(self, url: str) -> None:
        self.commands = connect(url)
        self._address = _without_password(url)

    @contextmanager
    def translating(self) -> Iterator[None]:
        """Raise a QueueError for whatever Redis or the network answers inside."""
        try:
            yield
        except redis.AuthenticationError as error:
            raise QueueMisconfigured(
                f"Redis at {self._address} refused the password ({error}): "
                "give the right one in queue.redis_url or VOLLEY_REDIS_URL"
            ) from error
        except (redis.ConnectionError, redis.TimeoutError) as error:
            raise QueueUnavailable(
                f"Redis at {self._address} cannot be reached ({error}): is it running there?"
            ) from error
        except redis.ResponseError as error:
            raise self._refused(error) from error

    def run(
        self,
        *parts: str,
        keys: Sequence[str],
        args: Sequence[str | bytes | int],
        answer: type[_Answer],
    ) -> _Answer:
        """The answer of a script made of `parts` of lua/; tried again when a reply is lost."""
        script = self.commands.register_script("\n".join(map(_source, parts)))
        for attempt in Retrying(
            retry=retry_if_exception_type(QueueUnavailable),
            stop=stop_after_attempt(SCRIPT_ATTEMPTS),
            wait=wait_random_exponential(multiplier=0.1, max=1.0),
            reraise=True,
        ):
            with attempt, self.translating():
                reply = script(keys=keys, args=args)
        return msgspec.convert(reply, answer)

    def close(self) -> None:
        """Close the connections, when no other thread is in a call."""
        self.commands.close()

    def _refused(self, error: redis.ResponseError) -> QueueError:
        text = " ".join(filter(None, (error.status_code, str(error))))
        for code, kind, advice in _BY_CODE:
            # Redis 6.2 wraps an error inside a script in a sentence of its own.
            if text.startswith(code) or f"-{code} " in text:
                return kind(f"Redis at {self._address}: {advice} ({text})")
        return QueueError(f"Redis at {self._address} refused: {text}")


def run_key(run: str, name: str) -> str:
    """A key of `run`; the braces keep its keys in one slot of a Redis Cluster."""
    return f"volley:{{{run}}}:{name}"


def evaluation_stream(run: str) -> str:
    """The name under which the held-out prompts of a run are queued."""
    return f"{run}:evaluation"


def block_ms(block_s: float) -> int:
    """BLOCK of a read; at least 1, because BLOCK 0 would wait for ever."""
    return max(1, round(min(block_s, MAX_BLOCK_S) * 1000))


def entries_of(reply: object) -> Entries:
    """The entries in the answer to a read of one stream."""
    streams = msgspec.convert(reply, list[tuple[bytes, Entries]])
    return streams[0][1] if streams else []


@cache
def _source(part: str) -> str:
    return (files("volley.transport") / "lua" / f"{part}.lua").read_text(encoding="ascii")


def _without_password(url: str) -> str:
    parts = urlsplit(url)
    return f"{parts.scheme}://{parts.netloc.rpartition('@')[2]}{parts.path}"
