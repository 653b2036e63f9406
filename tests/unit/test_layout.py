"""The rules of the tree, kept by the tree."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
SOURCES = sorted([*ROOT.glob("services/**/*.py"), *ROOT.glob("shared/**/*.py")])
MAX_FILE_LINES = 400
MAX_FUNCTION_LINES = 50
SERVICES = ("torch", "vllm", "transformers", "fastapi")


def test_volley_is_a_namespace_without_init_files():
    strays = [path for path in ROOT.rglob("volley/__init__.py") if ".venv" not in path.parts]
    assert strays == []


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.name)
def test_files_and_functions_stay_small(path: Path):
    text = path.read_text()
    assert text.count("\n") <= MAX_FILE_LINES
    functions = [
        node
        for node in ast.walk(ast.parse(text))
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    long = [
        node.name
        for node in functions
        if (node.end_lineno or 0) - node.lineno + 1 > MAX_FUNCTION_LINES
    ]
    assert long == []


@pytest.mark.parametrize(
    "module",
    [
        "volley.schemas.codec",
        "volley.transport.redis_stream",
        "volley.transport.learner_client",
        "volley.telemetry.metrics",
        "volley.launcher.__main__",
        "volley.learner.__main__",
        "volley.rollout.__main__",
    ],
)
def test_light_modules_import_nothing_heavy(module: str):
    program = f"import sys, {module}; print(*sorted(sys.modules))"
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.split()).isdisjoint(SERVICES)


def test_vllm_is_imported_for_its_own_engine_only():
    program = "import sys, volley.rollout.assembly; sys.exit('vllm' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", program], timeout=120).returncode == 0
