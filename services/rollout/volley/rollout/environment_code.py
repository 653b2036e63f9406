"""The run's environment by its name: one of ours, or the user's from verified source."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

from volley.rollout.environment import Environment
from volley.rollout.rewards import Prompt
from volley.rollout.user_code import Imports, read_user_code
from volley.schemas.run_spec import EnvironmentSpec
from volley.telemetry.stops import ExitCode, Stop

OpenEnvironment = Callable[[Prompt, Mapping[str, object]], Environment]

BUILTIN: Mapping[str, Callable[..., object]] = {}


def load_environment(spec: EnvironmentSpec, code_folder: Path) -> OpenEnvironment:
    """What begins an episode's environment; raises Stop where the code cannot be used."""
    if ":" in spec.name:
        code = read_user_code("environment", spec.name, spec.file_hash, code_folder)
        found = Imports(code_folder).take(code)
    elif spec.name in BUILTIN:
        found = BUILTIN[spec.name]
    else:
        raise Stop(ExitCode.CONFIG, f"environment {spec.name}: not built into this version")
    # Whatever it begins is looked at when it answers.
    return cast(OpenEnvironment, partial(found, **spec.options))
