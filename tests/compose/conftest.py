"""A Docker engine, and the images, for every test that wants containers."""

import os
import shutil
import time
import uuid
from collections.abc import Iterator

import pytest

from tests.compose.stack import Stack, run
from tests.compose.story import Story

STORY = pytest.StashKey[Story]()
BUILD_S = 1800.0


def pytest_configure(config: pytest.Config) -> None:
    config.stash[STORY] = Story()


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    for item in items:
        # The first of them builds the images, and installs two engines for that.
        item.add_marker(pytest.mark.timeout(BUILD_S))


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    terminalreporter.write(str(config.stash[STORY]))


@pytest.fixture(scope="session")
def story(pytestconfig: pytest.Config) -> Story:
    """The rows of the table that is shown at the end."""
    return pytestconfig.stash[STORY]


@pytest.fixture(scope="session")
def engine() -> None:
    """Skips on a laptop without a Docker engine, fails where CI is set."""
    missing = what_is_missing()
    if missing and "CI" in os.environ:
        pytest.fail(missing)
    if missing:
        pytest.skip(missing)


def what_is_missing() -> str | None:
    if shutil.which("docker") is None:
        return "no docker on PATH: install Docker Engine with its compose plugin"
    if run(["docker", "compose", "version"]).returncode:
        return "no compose plugin: install docker-compose-plugin"
    if run(["docker", "info"]).returncode:
        return "no Docker engine answers: start one, or set DOCKER_HOST"
    return None


@pytest.fixture(scope="session")
def project(engine: None, story: Story) -> Iterator[str]:
    """A project name that nobody else has, its images built; they are forgotten in the end."""
    stack = Stack(f"volley-test-{uuid.uuid4().hex[:8]}")
    started = time.monotonic()
    stack.compose("--profile", "*", "build")
    story.tell("built the images", time.monotonic() - started)
    yield stack.project
    stack.forget_images()
    assert stack.leftovers() == []
