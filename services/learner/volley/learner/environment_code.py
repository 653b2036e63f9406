"""Which environment a run has: its name, its limits and the hash of the code behind it."""

from pathlib import Path

from volley.learner.environment_settings import EnvironmentSettings
from volley.learner.tool_code import read_tool_specs
from volley.learner.user_code import hash_user_code
from volley.schemas.run_spec import BUILTIN_ENVIRONMENTS, EnvironmentSpec


def tool_schemas(environment: EnvironmentSpec | None) -> list[dict[str, object]]:
    """What the model is told that it may call."""
    return [tool.schema for tool in environment.tools] if environment else []


def read_environment_spec(
    settings: EnvironmentSettings, code_folder: Path
) -> EnvironmentSpec | None:
    """The run's environment, None where an episode is a single turn; raises Stop."""
    if settings.name is None:
        return None
    return EnvironmentSpec(
        name=settings.name,
        file_hash=hash_user_code(
            "environment.name", settings.name, BUILTIN_ENVIRONMENTS, code_folder
        ),
        options=settings.options,
        max_turns=settings.max_turns,
        timeout_s=settings.timeout_s,
        tools=read_tool_specs(settings.options, code_folder) if settings.name == "tools" else (),
    )
