"""Secrets that the environment gives, as they are or as the path of a file."""

import os
from collections.abc import Mapping
from pathlib import Path

from volley.telemetry.stops import ExitCode, Stop


def given_secret(variable: str, environment: Mapping[str, str] = os.environ) -> str | None:
    """What `variable` says, else the content of the file that `<variable>_FILE` names."""
    return environment.get(variable) or read_secret_file(f"{variable}_FILE", environment)


def read_secret_file(variable: str, environment: Mapping[str, str]) -> str | None:
    """The content of the file that `variable` names, stripped; None where it names none."""
    path = environment.get(variable)
    if not path:
        return None
    try:
        secret = Path(path).read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Stop(ExitCode.CONFIG, f"{variable}: cannot read {path}: {_reason(error)}") from error
    if not secret:
        raise Stop(ExitCode.CONFIG, f"{variable}: {path} is empty: write the secret into it")
    return secret


def _reason(error: OSError | UnicodeDecodeError) -> str:
    """Without the bytes that could not be decoded: they are the secret."""
    return str(error) if isinstance(error, OSError) else "it is not UTF-8"
