"""The file behind a name of the user's, and its hash.

The learner never imports the code, workers do; it reads the file, so that every worker can be
held to the same bytes and a misspelt name is found before anything starts.
"""

import ast
from collections.abc import Collection
from pathlib import Path

from volley.telemetry.stops import ExitCode, Stop
from volley.transport.tensors import hash_bytes


def hash_user_code(key: str, name: str, builtin: Collection[str], code_folder: Path) -> str | None:
    """BLAKE3 of the file behind `module:name`, None for a built-in one; raises Stop under `key`."""
    module, colon, wanted = name.partition(":")
    if not colon:
        if name not in builtin:
            raise Stop(
                ExitCode.CONFIG,
                f"{key}: {name!r} is not built in ({', '.join(builtin) or 'nothing is'}): "
                "write your own as module:name",
            )
        return None
    if module.endswith(".py"):
        fix = f"write it as {module.removesuffix('.py')}:{wanted}"
        raise Stop(ExitCode.CONFIG, f"{key}: {name!r} names a file and not a module: {fix}")
    path = code_folder / f"{module.replace('.', '/')}.py"
    try:
        content = path.read_bytes()
        tree = ast.parse(content, path)
    except OSError as error:
        raise Stop(
            ExitCode.CONFIG,
            f"{key}: {name!r} needs {path}: {error.strerror}: "
            "put the module beside the config file",
        ) from error
    except (SyntaxError, ValueError) as error:
        raise Stop(ExitCode.CONFIG, f"{key}: {path} is not Python: {error}") from error
    if wanted not in _top_level_names(tree):
        there_is = ", ".join(sorted(_top_level_names(tree))) or "nothing"
        raise Stop(ExitCode.CONFIG, f"{key}: {path} has no {wanted!r}: it has {there_is}")
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
