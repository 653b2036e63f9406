"""The tokens of a run: one to join and to look, one to command."""

import ipaddress
import os
import secrets
from collections.abc import Mapping
from dataclasses import dataclass

from volley.learner.secret_file import given_secret
from volley.learner.settings import ServerSettings
from volley.telemetry.stops import ExitCode, Stop


@dataclass(frozen=True, slots=True)
class Tokens:
    """What a request must bring along."""

    reader: str
    """To join the run as a worker, and to see everything."""
    admin: str
    """To do all that as well, and to pause, stop and the like."""


def read_tokens(server: ServerSettings, environment: Mapping[str, str] = os.environ) -> Tokens:
    """Both tokens, as the environment gives them or made up."""
    return Tokens(read_token(server, environment), read_admin_token(environment))


def read_token(server: ServerSettings, environment: Mapping[str, str] = os.environ) -> str:
    """VOLLEY_TOKEN, else the content of VOLLEY_TOKEN_FILE, else a random one on loopback only."""
    given = given_secret("VOLLEY_TOKEN", environment)
    if given:
        return given
    if not _is_loopback(server.host):
        raise Stop(
            ExitCode.CONFIG,
            f"server.host = {server.host} is reachable from elsewhere: set VOLLEY_TOKEN (or "
            "VOLLEY_TOKEN_FILE) to a secret of your own, for the workers to know as well",
        )
    return secrets.token_urlsafe(32)


def read_admin_token(environment: Mapping[str, str] = os.environ) -> str:
    """VOLLEY_ADMIN_TOKEN, else the content of VOLLEY_ADMIN_TOKEN_FILE, else a random one.

    On any address: whoever may command can read it in the run folder.
    """
    return given_secret("VOLLEY_ADMIN_TOKEN", environment) or secrets.token_urlsafe(32)


def _is_loopback(host: str) -> bool:
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"
