"""A Redis server described, for a person who wants to know whether it will do."""

from contextlib import closing
from dataclasses import dataclass
from urllib.parse import urlsplit

import msgspec

from volley.transport.redis_client import QueueError, QueueUnavailable, RedisClient

DEFAULT_PORT = 6379


class _Info(msgspec.Struct):
    """What is read of INFO."""

    redis_version: str
    maxmemory_policy: str
    aof_enabled: int


@dataclass(frozen=True, slots=True)
class ServerFacts:
    """What matters about a server that holds a queue."""

    address: str
    """Host and port."""
    version: str
    maxmemory_policy: str
    appendonly: bool
    appendfsync: str | None
    """None where it does not tell, as managed servers do not."""
    asks_for_password: bool


def describe_server(url: str) -> ServerFacts:
    """Facts about the server at `url`; raises QueueError where it does not answer."""
    with closing(RedisClient(url)) as client:
        with client.translating():
            info = msgspec.convert(client.commands.info(), _Info)
        appendfsync = _appendfsync(client)
    parts = urlsplit(url)
    return ServerFacts(
        address=f"{parts.hostname}:{parts.port or DEFAULT_PORT}",
        version=info.redis_version,
        maxmemory_policy=info.maxmemory_policy,
        appendonly=bool(info.aof_enabled),
        appendfsync=appendfsync,
        asks_for_password=_refuses(_without_credentials(url)),
    )


def _appendfsync(client: RedisClient) -> str | None:
    try:
        with client.translating():
            answer = client.commands.config_get("appendfsync")
    except QueueUnavailable:
        raise
    except QueueError:
        return None
    return msgspec.convert(answer, dict[str, str]).get("appendfsync")


def _refuses(url: str) -> bool:
    """Whether the server has no word for those who come with this URL."""
    with closing(RedisClient(url)) as client:
        try:
            with client.translating():
                client.commands.ping()
        except QueueUnavailable:
            raise
        except QueueError:
            return True
    return False


def _without_credentials(url: str) -> str:
    parts = urlsplit(url)
    return parts._replace(netloc=parts.netloc.rpartition("@")[2]).geturl()
