"""The address of Redis, with its password where that is kept in a file."""

import os
from collections.abc import Mapping
from urllib.parse import quote, urlsplit

from volley.learner.secret_file import read_secret_file
from volley.learner.settings import QueueSettings
from volley.telemetry.stops import ExitCode, Stop

PASSWORD_FILE = "VOLLEY_REDIS_PASSWORD_FILE"


def read_redis_url(queue: QueueSettings, environment: Mapping[str, str] = os.environ) -> str | None:
    """VOLLEY_REDIS_URL, else queue.redis_url, else None; the password may come from a file."""
    url = environment.get("VOLLEY_REDIS_URL") or queue.redis_url
    password = read_secret_file(PASSWORD_FILE, environment)
    if password is None:
        return url
    if url is None:
        raise Stop(
            ExitCode.CONFIG,
            f"{PASSWORD_FILE} is set but no Redis: set VOLLEY_REDIS_URL or queue.redis_url too",
        )
    return _with_password(url, password)


def _with_password(url: str, password: str) -> str:
    try:
        parts = urlsplit(url)
    except ValueError:
        # Its own words repeat the address, and with it a password.
        raise Stop(
            ExitCode.CONFIG,
            "VOLLEY_REDIS_URL or queue.redis_url is no URL: write it as redis://host:port",
        ) from None
    if parts.password is not None:
        raise Stop(
            ExitCode.CONFIG,
            f"{PASSWORD_FILE} is set and the URL of Redis has a password too: remove one of them",
        )
    user, _, address = parts.netloc.rpartition("@")
    return parts._replace(netloc=f"{user}:{quote(password, safe='')}@{address}").geturl()
