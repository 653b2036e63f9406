"""The user's reward functions as verified source, and as functions made of that very source.

A worker reads and verifies the files once, when it joins; its reward processes get the content, so
that a file which is edited during the run changes nothing.
"""

import sys
from collections.abc import Sequence
from pathlib import Path
from types import ModuleType

from msgspec import Struct

from volley.rollout.rewards import BUILTIN, Reward, RewardFunction, user_traceback
from volley.schemas.run_spec import RewardSpec
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes


class RewardCode(Struct, frozen=True):
    """A function of the user's by name, with the file that it is in."""

    name: str
    """`module:function`."""
    path: str
    content: bytes


def is_builtin(spec: RewardSpec) -> bool:
    """Whether the function is one of ours; raises Stop where it is one that we do not have."""
    if ":" in spec.name:
        return False
    if spec.name not in BUILTIN:
        raise Stop(ExitCode.CONFIG, f"reward {spec.name}: not built into this version")
    return True


def read_reward_code(spec: RewardSpec, code_folder: Path) -> RewardCode:
    """The code of a function of the user's, its hash that of the learner; raises Stop."""
    module_name, _, _ = spec.name.partition(":")
    path = code_folder / f"{module_name.replace('.', '/')}.py"
    fix = "give the folder that holds the run's reward code with --code"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Stop(
            ExitCode.CONFIG, f"reward {spec.name}: cannot read {path}: {error.strerror}: {fix}"
        ) from error
    if spec.file_hash != hash_bytes(content):
        raise Stop(
            ExitCode.CONFIG, f"reward {spec.name}: {path} is not the learner's version: {fix}"
        )
    return RewardCode(spec.name, str(path), content)


def import_rewards(codes: Sequence[RewardCode], code_folder: Path) -> tuple[Reward, ...]:
    """The functions in order, imported into this process; raises Stop with the traceback."""
    # Modules beside it may be imported.
    sys.path.insert(0, str(code_folder))
    modules: dict[str, ModuleType] = {}
    return tuple(Reward(code.name, _import_function(code, modules)) for code in codes)


def load_rewards(specs: Sequence[RewardSpec], code_folder: Path) -> tuple[Reward, ...]:
    """All functions in order, in this process, for whoever needs no protection from them."""
    codes = {s.name: read_reward_code(s, code_folder) for s in specs if not is_builtin(s)}
    imported = import_rewards(tuple(codes.values()), code_folder)
    functions = {**BUILTIN, **{reward.name: reward for reward in imported}}
    return tuple(functions[spec.name] for spec in specs)


def _import_function(code: RewardCode, modules: dict[str, ModuleType]) -> RewardFunction:
    module_name, _, function_name = code.name.partition(":")
    if module_name not in modules:
        modules[module_name] = _import_module(code, module_name)
    function: object = getattr(modules[module_name], function_name, None)
    if not callable(function):
        raise Stop(ExitCode.CONFIG, f"reward {code.name}: the module has no such function")
    return function


def _import_module(code: RewardCode, module_name: str) -> ModuleType:
    """The module made from the very bytes that were hashed."""
    module = ModuleType(f"reward_code.{module_name}")
    module.__file__ = code.path
    # Dataclasses look their module up.
    sys.modules[module.__name__] = module
    try:
        exec(compile(code.content, code.path, "exec"), module.__dict__)
    except Exception as error:
        traceback = user_traceback(error, __file__)
        raise Stop(
            ExitCode.CONFIG, f"reward {code.name}: importing {code.path} failed\n{traceback}"
        ) from error
    return module
