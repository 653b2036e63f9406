"""A worker's own few settings; the rest it learns from the learner."""

import os
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from urllib.parse import urlsplit

from volley.telemetry.stops import ExitCode, Stop


class EngineName(StrEnum):
    TRANSFORMERS = "transformers"


@dataclass(frozen=True, slots=True)
class WorkerSettings:
    """Everything that is decided where the worker runs."""

    learner_url: str
    token: str
    redis_url: str | None
    """Instead of the address that the learner gives; see `redis_address`."""
    engine: EngineName
    device: str
    """cpu, cuda:0, ...; auto takes the first accelerator there is."""
    num_threads: int
    code_folder: Path | None
    """Where reward modules lie; None for the learner's hint, else the current folder."""
    max_num_seqs: int
    """Most sequences sampled at once."""


def read_token(environment: Mapping[str, str] = os.environ) -> str:
    """VOLLEY_TOKEN, else the content of VOLLEY_TOKEN_FILE; raises Stop without either."""
    token, path = environment.get("VOLLEY_TOKEN"), environment.get("VOLLEY_TOKEN_FILE")
    if not token and path:
        try:
            token = Path(path).read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise Stop(
                ExitCode.CONFIG, f"VOLLEY_TOKEN_FILE: cannot read {path}: {error}"
            ) from error
    if not token:
        raise Stop(
            ExitCode.CONFIG, "set VOLLEY_TOKEN (or VOLLEY_TOKEN_FILE) to the token of the learner"
        )
    return token


def check_learner_url(url: str) -> str:
    """The URL itself; raises Stop where it is none."""
    parts = urlsplit(url)
    if parts.scheme not in ("http", "https") or not parts.hostname:
        raise Stop(ExitCode.CONFIG, f"--learner {url}: write it as http://HOST:PORT")
    return url


def redis_address(override: str | None, given: str) -> str:
    """The override, with the credentials of the URL that the learner gave unless it has its own."""
    if override is None:
        return given
    own, learners = urlsplit(override), urlsplit(given)
    credentials, at, _ = learners.netloc.rpartition("@")
    if own.password is not None or not at:
        return override
    return own._replace(netloc=f"{credentials}@{own.netloc}").geturl()
