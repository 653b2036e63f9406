"""Which reward functions a run has: names, weights and the hash of the code behind them.

The learner never imports the code, workers do; it reads the file, so that every worker can be
held to the same bytes and a misspelt function is found before anything starts.
"""

import ast
from pathlib import Path

from volley.learner.settings import RewardSettings
from volley.schemas.run_spec import BUILTIN_REWARDS, RewardLimits, RewardSpec
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes


def read_reward_specs(settings: RewardSettings, code_folder: Path) -> tuple[RewardSpec, ...]:
    """The run's reward functions in order; raises Stop naming the function and the fix."""
    return tuple(
        RewardSpec(name, weight, _file_hash(name, code_folder))
        for name, weight in zip(settings.functions, settings.function_weights, strict=True)
    )


def reward_limits(settings: RewardSettings) -> RewardLimits:
    """What workers allow these functions."""
    return RewardLimits(
        timeout_s=settings.timeout_s,
        max_memory_bytes=settings.max_memory_bytes,
        num_processes=settings.num_processes,
        on_failure=None if settings.on_failure == "skip" else settings.on_failure,
    )


def _file_hash(name: str, code_folder: Path) -> str | None:
    module, colon, function = name.partition(":")
    if not colon:
        if name not in BUILTIN_REWARDS:
            raise Stop(
                ExitCode.CONFIG,
                f"reward.functions: {name!r} is not built in ({', '.join(BUILTIN_REWARDS)}): "
                "write your own as module:function",
            )
        return None
    path = code_folder / f"{module.replace('.', '/')}.py"
    try:
        content = path.read_bytes()
        tree = ast.parse(content)
    except OSError as error:
        raise Stop(
            ExitCode.CONFIG,
            f"reward.functions: {name!r} needs {path}: {error.strerror}: "
            "put the module beside the config file",
        ) from error
    except (SyntaxError, ValueError) as error:
        raise Stop(ExitCode.CONFIG, f"reward.functions: {path} is not Python: {error}") from error
    if function not in _top_level_names(tree):
        raise Stop(ExitCode.CONFIG, f"reward.functions: {path} has no function {function!r}")
    return hash_bytes(content)


def _top_level_names(tree: ast.Module) -> set[str]:
    defined = {
        node.name
        for node in tree.body
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef)
    }
    assigned = {
        target.id
        for node in tree.body
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    imported = {
        alias.asname or alias.name
        for node in tree.body
        if isinstance(node, ast.ImportFrom)
        for alias in node.names
    }
    return defined | assigned | imported
