"""A reward process as its worker sees it: started, asked, ended with all that it has started."""

import logging
import os
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Mapping
from typing import IO

from volley.rollout.reward_messages import Call, Message, Setup, receive, send
from volley.rollout.rewards import FailureKind, RewardFailed

logger = logging.getLogger(__name__)

PROGRAM = (sys.executable, "-P", "-u", "-m", "volley.rollout.reward_process")
KEPT_VARIABLES = (
    *("PATH", "HOME", "USER", "LANG", "LC_ALL", "LC_CTYPE", "TZ", "TMPDIR"),
    *("PYTHONPATH", "VIRTUAL_ENV", "LD_LIBRARY_PATH", "SSL_CERT_FILE"),
    *("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "TOKENIZERS_PARALLELISM"),
    *("CUDA_VISIBLE_DEVICES", "HF_HOME", "HF_HUB_OFFLINE"),
)
"""What a reward process finds in its environment: nothing that is a secret."""
MAX_ANSWER_BYTES = 2**20
MAX_OUTPUT_CHARS = 2_000
"""Kept of what a process writes: the end of it, for the message that it has died."""
OUTPUT_END_S = 0.5


class RewardChild:
    """A reward process that was started a moment ago."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self._channel, theirs = socket.socketpair()
        with theirs:
            self._process = subprocess.Popen(
                [*PROGRAM, str(theirs.fileno())],
                stdin=subprocess.DEVNULL,
                stdout=subprocess.PIPE,
                stderr=subprocess.STDOUT,
                bufsize=0,
                pass_fds=[theirs.fileno()],
                env={name: environment[name] for name in KEPT_VARIABLES if name in environment},
                start_new_session=True,  # a process group of its own, to be ended as one
            )
        assert self._process.stdout is not None
        self._output = _Output(self._process.stdout)
        self._lock = threading.Lock()

    def ask(self, message: Setup | Call) -> Message:
        """Its answer; raises RewardFailed with TIMED_OUT or DIED, and is of no use after that."""
        deadline = time.monotonic() + message.timeout_s
        try:
            send(self._channel, message, deadline)
            return receive(self._channel, MAX_ANSWER_BYTES, deadline)
        except TimeoutError as error:
            text = f"no answer within {message.timeout_s:g} s"
            raise RewardFailed(text, FailureKind.TIMED_OUT) from error
        except (OSError, EOFError, ValueError) as error:
            self._end()
            raise RewardFailed(self._last_words(), FailureKind.DIED) from error

    def kill(self) -> None:
        """End it with all that it has started; for any thread, while another may be asking."""
        with self._lock:
            # Once it is waited for, its number may be that of another process.
            if self._process.returncode is None:
                os.killpg(self._process.pid, signal.SIGKILL)

    def close(self) -> None:
        """Leave nothing of it; for the thread that asks."""
        self._end()
        self._channel.close()
        self._output.wait()

    def _end(self) -> None:
        self.kill()
        with self._lock:
            # One that was ending by itself keeps its own exit code.
            self._process.wait()

    def _last_words(self) -> str:
        code = self._process.returncode
        how = f"a signal, {signal.strsignal(-code)}" if code < 0 else f"exit code {code}"
        self._output.wait()
        return f"its process ended with {how}; it last wrote:\n{self._output.end or '(nothing)'}"


class _Output:
    """What a process writes, read so that it never has to wait for that."""

    def __init__(self, stream: IO[bytes]) -> None:
        self.end = ""
        self._stream = stream
        self._thread = threading.Thread(target=self._read, name="reward-output", daemon=True)
        self._thread.start()

    def wait(self) -> None:
        """Return when all is read, or somebody outside the process group may still write."""
        self._thread.join(OUTPUT_END_S)

    def _read(self) -> None:
        with self._stream:
            while part := self._stream.read(2**16):
                text = part.decode(errors="replace")
                self.end = (self.end + text)[-MAX_OUTPUT_CHARS:]
                logger.debug("a reward wrote", extra={"text": text[-MAX_OUTPUT_CHARS:]})
