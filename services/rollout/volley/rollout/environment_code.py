"""The run's environment by its name: one of ours, or the user's from verified source."""

from collections.abc import Callable, Mapping
from functools import partial
from pathlib import Path
from typing import cast

from volley.rollout.environment import Environment
from volley.rollout.rewards import Prompt
from volley.rollout.search import load_search
from volley.rollout.tools import load_tools
from volley.rollout.user_code import Imports, read_user_code
from volley.schemas.run_spec import BUILTIN_ENVIRONMENTS, EnvironmentSpec
from volley.telemetry.stops import ExitCode, Stop

OpenEnvironment = Callable[[Prompt, Mapping[str, object]], Environment]

BUILTIN: Mapping[str, Callable[[EnvironmentSpec, Path], OpenEnvironment]] = {
    "search": lambda spec, code_folder: load_search(spec.options, code_folder),
    "tools": lambda spec, code_folder: load_tools(spec.options, spec.tools, code_folder),
}
"""Given the folder of the run's code, too, they load what all episodes share."""
assert tuple(BUILTIN) == BUILTIN_ENVIRONMENTS


def load_environment(spec: EnvironmentSpec, code_folder: Path) -> OpenEnvironment:
    """What begins an episode's environment; raises Stop where the code cannot be used."""
    if ":" in spec.name:
        code = read_user_code("environment", spec.name, spec.file_hash, code_folder)
        # Whatever it begins is looked at when it answers.
        return cast(OpenEnvironment, partial(Imports(code_folder).take(code), **spec.options))
    if spec.name not in BUILTIN:
        raise Stop(ExitCode.CONFIG, f"environment {spec.name}: not built into this version")
    return BUILTIN[spec.name](spec, code_folder)
