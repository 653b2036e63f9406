"""A stack of containers, driven by the commands that a person would type."""

import os
import socket
import subprocess
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from pathlib import Path

from tests.waiting import wait_until
from volley.schemas.groups import Version
from volley.schemas.status import StatusReport, WorkerReport
from volley.transport.learner_client import LearnerClient, LearnerUnavailable

ROOT = Path(__file__).parents[2]
COMMAND_S = 600.0
POLL_S = 10.0
"""Of one long-poll: the learner answers as soon as there is another version."""


class Stack:
    """The services of docker-compose.yml under a project name of their own."""

    def __init__(self, project: str, **variables: str) -> None:
        self.project = project
        self.port = free_port()
        self._variables = {"VOLLEY_PORT": str(self.port), **variables}
        self._client: LearnerClient | None = None

    def try_compose(self, *arguments: str) -> subprocess.CompletedProcess[str]:
        """`docker compose ARGUMENTS`, whatever comes of it."""
        command = ["docker", "compose", "--project-name", self.project, *arguments]
        return run(command, self._variables)

    def compose(self, *arguments: str) -> str:
        """What `docker compose ARGUMENTS` wrote; fails the test if it failed."""
        done = self.try_compose(*arguments)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    def logs(self, service: str) -> str:
        """All that a service has said."""
        return self.compose("logs", "--no-color", "--no-log-prefix", service)

    def containers(self, service: str) -> list[str]:
        """Ids of a service's containers, stopped ones too."""
        return self.compose("ps", "--all", "--quiet", service).split()

    def token(self) -> str:
        """The run's token, as a person would look it up."""
        return self.compose("exec", "--no-TTY", "learner", "cat", "/secrets/token")

    def status(self) -> StatusReport:
        """The run at a glance."""
        return self._learner().status()

    def wait_for_steps(self, num_steps: int, deadline_s: float = 120.0) -> StatusReport:
        """The status as soon as that many more steps are taken."""
        return self.wait_for_step(self.status().version.step + num_steps, deadline_s)

    def wait_for_step(self, wanted: int, deadline_s: float = 120.0) -> StatusReport:
        """The status as soon as this step is taken; a learner that is away is waited for."""
        head: Version | None = None

        def look() -> StatusReport | None:
            nonlocal head
            try:
                manifest = self._learner().manifest(head, POLL_S)
                head = manifest.version if manifest else head
                return self.status() if head and head.step >= wanted else None
            except LearnerUnavailable:
                return None

        return wait_until(look, deadline_s)

    def wait_for_workers(
        self, is_as_wanted: Callable[[Sequence[WorkerReport]], bool], deadline_s: float = 120.0
    ) -> StatusReport:
        """The status after the first step at which those that have completed groups are so."""
        ends = time.monotonic() + deadline_s
        while True:
            status = self.wait_for_steps(1)
            if is_as_wanted([worker for worker in status.workers if worker.num_groups]):
                return status
            assert time.monotonic() < ends, status.workers

    def down(self) -> None:
        """Stop everything and remove all but the images."""
        if self._client is not None:
            self._client.close()
            self._client = None
        self.compose("--profile", "*", "down", "--volumes", "--remove-orphans")

    @property
    def label(self) -> str:
        """What Docker puts on everything that is of this project."""
        return f"com.docker.compose.project={self.project}"

    def leftovers(self) -> list[str]:
        """Containers, volumes and networks that there still are."""
        kinds = (["ps", "--all"], ["volume", "ls"], ["network", "ls"])
        listings = [
            ["docker", *kind, "--quiet", "--filter", f"label={self.label}"] for kind in kinds
        ]
        return [name for listing in listings for name in run(listing).stdout.split()]

    def forget_images(self) -> None:
        """Remove the project's images; what they were built of stays in the engine's cache."""
        prune = ["docker", "image", "prune", "--all", "--force", "--filter", f"label={self.label}"]
        assert run(prune).returncode == 0

    def _learner(self) -> LearnerClient:
        if self._client is None:
            self._client = LearnerClient(f"http://127.0.0.1:{self.port}", self.token())
        return self._client


@contextmanager
def stack(project: str, **variables: str) -> Iterator[Stack]:
    """A stack that is not up yet, and gone afterwards with its volumes."""
    one = Stack(project, **variables)
    try:
        yield one
    finally:
        one.down()


def run(
    command: list[str], variables: Mapping[str, str] | None = None
) -> subprocess.CompletedProcess[str]:
    """Run a command to its end, without this shell's own settings of a stack."""
    inherited = {key: value for key, value in os.environ.items() if not key.startswith("VOLLEY_")}
    return subprocess.run(
        command,
        cwd=ROOT,
        env={**inherited, **(variables or {})},
        capture_output=True,
        text=True,
        timeout=COMMAND_S,
    )


def inspect(container: str, template: str) -> str:
    """What the engine knows about a container, as a Go template has it."""
    return run(["docker", "inspect", "--format", template, container]).stdout.strip()


def free_port() -> int:
    """A port of the loopback that nobody listens on."""
    with closing(socket.create_server(("127.0.0.1", 0))) as server:
        port: int = server.getsockname()[1]
        return port
