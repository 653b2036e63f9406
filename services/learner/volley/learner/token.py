"""The bearer token of a run: given by the environment or a file, else made up."""

import ipaddress
import os
import secrets
from collections.abc import Mapping

from volley.learner.secret_file import read_secret_file
from volley.learner.settings import ServerSettings
from volley.telemetry.stops import ExitCode, Stop


def read_token(server: ServerSettings, environment: Mapping[str, str] = os.environ) -> str:
    """VOLLEY_TOKEN, else the content of VOLLEY_TOKEN_FILE, else a random one on loopback only."""
    given = environment.get("VOLLEY_TOKEN") or read_secret_file("VOLLEY_TOKEN_FILE", environment)
    if given:
        return given
    if not _is_loopback(server.host):
        raise Stop(
            ExitCode.CONFIG,
            f"server.host = {server.host} is reachable from elsewhere: set VOLLEY_TOKEN (or "
            "VOLLEY_TOKEN_FILE) to a secret of your own, for the workers to know as well",
        )
    return secrets.token_urlsafe(32)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
