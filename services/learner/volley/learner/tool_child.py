"""`python -m volley.learner.tool_child`: what a model is told of functions, away from the learner.

The learner never imports the user's code. This process does, reads type hints and docstrings, and
ends: `Asked` on standard input, `Shown` on standard output, both as JSON.
"""

import contextlib
import importlib.util
import os
import sys
from pathlib import Path
from types import ModuleType

import msgspec
from transformers.utils.chat_template_utils import (
    DocstringParsingException,
    TypeHintParsingException,
    get_json_schema,
)

from volley.learner.tool_code import Asked, Shown


def show(asked: Asked) -> Shown:
    """The functions' schemas; raises what the modules raise."""
    sys.path.insert(0, asked.code_folder)
    modules: dict[str, ModuleType] = {}
    schemas = []
    for name in asked.names:
        module, _, function = name.partition(":")
        if module not in modules:
            modules[module] = _import(module, Path(asked.code_folder))
        try:
            schemas.append(get_json_schema(getattr(modules[module], function)))
        except (DocstringParsingException, TypeHintParsingException) as error:
            return Shown(refusal=f"{name} needs type hints and a docstring with Args: {error}")
    return Shown(schemas)


def _import(name: str, code_folder: Path) -> ModuleType:
    """The module of this very file, whatever else has its name."""
    path = code_folder / f"{name.replace('.', '/')}.py"
    found = importlib.util.spec_from_file_location(f"user_code.{name}", path)
    assert found is not None, "it is a .py file"
    assert found.loader is not None, "so it can be loaded"
    module = importlib.util.module_from_spec(found)
    # Dataclasses look their module up.
    sys.modules[module.__name__] = module
    found.loader.exec_module(module)
    return module


def main() -> None:
    """Answer one question."""
    asked = msgspec.json.decode(sys.stdin.buffer.read(), type=Asked)
    # What a module prints while it is imported is no answer.
    with contextlib.redirect_stdout(sys.stderr):
        shown = show(asked)
    sys.stdout.buffer.write(msgspec.json.encode(shown))
    sys.stdout.flush()
    # Threads that a module has started are nobody's concern any more.
    os._exit(0)


if __name__ == "__main__":
    main()
