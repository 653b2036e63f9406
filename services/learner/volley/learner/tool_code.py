"""Which tools the model of a run may call: the hash of their code, and what it is told of them."""

import subprocess
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import msgspec
from msgspec import Struct

from volley.learner.user_code import hash_user_code
from volley.schemas.run_spec import ToolSpec
from volley.telemetry.stops import ExitCode, Stop

KEY = "environment.options.functions"
IMPORT_S = 120.0
"""For all functions together; some libraries take their time."""


class Asked(Struct, frozen=True):
    """To the process that imports them: functions as `module:function`, and where they are."""

    code_folder: str
    names: list[str]


class Shown(Struct, frozen=True):
    """Its answer: a schema for each function in order, or what is wrong with one of them."""

    schemas: list[dict[str, object]] = []
    refusal: str | None = None


def read_tool_specs(options: Mapping[str, object], code_folder: Path) -> tuple[ToolSpec, ...]:
    """The functions that the options name, in order; raises Stop naming one and the fix."""
    names = _checked_names(options.get("functions"))
    hashes = [_hash(name, code_folder) for name in names]
    schemas = _ask_child(names, code_folder)
    return tuple(map(ToolSpec, names, hashes, schemas))


def _checked_names(functions: object) -> list[str]:
    if (
        not isinstance(functions, list)
        or not functions
        or not all(isinstance(name, str) for name in functions)
    ):
        raise Stop(
            ExitCode.CONFIG,
            f'{KEY}: the environment tools needs functions to call: ["my_tools:add"]',
        )
    called = [name.rpartition(":")[2] for name in functions]
    for name in called:
        if called.count(name) > 1:
            raise Stop(
                ExitCode.CONFIG,
                f"{KEY}: there are two functions {name!r}, and the model names them so: rename one",
            )
    return functions


def _hash(name: str, code_folder: Path) -> str:
    file_hash = hash_user_code(KEY, name, (), code_folder)
    assert file_hash is not None, "no tool is built in"
    return file_hash


def _ask_child(names: list[str], code_folder: Path) -> Sequence[dict[str, object]]:
    """What transformers makes of the functions, in a process that may import them."""
    asked = msgspec.json.encode(Asked(str(code_folder.resolve()), names))
    command = [sys.executable, "-m", "volley.learner.tool_child"]
    try:
        child = subprocess.run(
            command, input=asked, capture_output=True, timeout=IMPORT_S, check=False
        )
    except subprocess.TimeoutExpired as error:
        raise Stop(
            ExitCode.CONFIG,
            f"{KEY}: importing {', '.join(names)} took more than {IMPORT_S:g} s: leave slow work "
            "to the first call",
        ) from error
    if child.returncode != 0:
        said = child.stderr.decode(errors="replace").strip()
        raise Stop(ExitCode.CONFIG, f"{KEY}: importing {', '.join(names)} failed\n{said}")
    shown = msgspec.json.decode(child.stdout, type=Shown)
    if shown.refusal is not None:
        raise Stop(ExitCode.CONFIG, f"{KEY}: {shown.refusal}")
    return shown.schemas
