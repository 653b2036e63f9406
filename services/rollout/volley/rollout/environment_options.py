"""The options of an environment that is built in, checked against its model."""

from collections.abc import Mapping
from typing import TypeVar

from pydantic import BaseModel, ValidationError

from volley.telemetry.stops import ExitCode, Stop

Options = TypeVar("Options", bound=BaseModel)


def read_options(kind: type[Options], options: Mapping[str, object]) -> Options:
    """What `[environment.options]` holds; raises Stop naming the keys that are wrong."""
    try:
        return kind.model_validate(options)
    except ValidationError as error:
        raise Stop(ExitCode.CONFIG, _explain(error)) from error


def _explain(error: ValidationError) -> str:
    return "\n".join(
        f"{'.'.join(('environment.options', *map(str, one['loc'])))}: {one['msg']}"
        for one in error.errors()
    )
