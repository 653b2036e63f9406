"""The user's functions and classes as verified source, and as what that very source makes.

A worker reads and verifies the files once, when it joins, so that a file which is edited during
the run changes nothing.
"""

import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

from msgspec import Struct

from volley.rollout.rewards import user_traceback
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes


class UserCode(Struct, frozen=True):
    """A function or class of the user's by name, with the file that it is in."""

    kind: str
    """What it is to us: reward, environment."""
    name: str
    """`module:function` or `module:Class`."""
    path: str
    content: bytes

    def __str__(self) -> str:
        return f"{self.kind} {self.name}"


def read_user_code(kind: str, name: str, file_hash: str | None, code_folder: Path) -> UserCode:
    """The code under that name, its hash that of the learner; raises Stop."""
    module_name, _, _ = name.partition(":")
    path = code_folder / f"{module_name.replace('.', '/')}.py"
    fix = "give the folder that holds the run's code with --code"
    try:
        content = path.read_bytes()
    except OSError as error:
        raise Stop(
            ExitCode.CONFIG, f"{kind} {name}: cannot read {path}: {error.strerror}: {fix}"
        ) from error
    if file_hash != hash_bytes(content):
        raise Stop(ExitCode.CONFIG, f"{kind} {name}: {path} is not the learner's version: {fix}")
    return UserCode(kind, name, str(path), content)


class Imports:
    """Functions and classes out of modules that are each imported once."""

    def __init__(self, code_folder: Path) -> None:
        # Modules beside it may be imported.
        sys.path.insert(0, str(code_folder))
        self._modules: dict[str, ModuleType] = {}

    def take(self, code: UserCode) -> Callable[..., object]:
        """What the name stands for; raises Stop with the traceback."""
        module_name, _, name = code.name.partition(":")
        if module_name not in self._modules:
            self._modules[module_name] = _import_module(code, module_name)
        found: object = getattr(self._modules[module_name], name, None)
        if not callable(found):
            raise Stop(ExitCode.CONFIG, f"{code}: the module has no such function or class")
        return found


def _import_module(code: UserCode, module_name: str) -> ModuleType:
    """The module made from the very bytes that were hashed."""
    module = ModuleType(f"user_code.{module_name}")
    module.__file__ = code.path
    # Dataclasses look their module up.
    sys.modules[module.__name__] = module
    try:
        exec(compile(code.content, code.path, "exec"), module.__dict__)
    except Exception as error:
        traceback = user_traceback(error, __file__)
        raise Stop(ExitCode.CONFIG, f"{code}: importing {code.path} failed\n{traceback}") from error
    return module
