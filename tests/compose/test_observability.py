"""What the profile `observability` adds to the stack, as compose understands it; none is started.

Its images come from elsewhere: tests/e2e/test_watched_run.py runs a Prometheus of the system's.
"""

import json

import pytest

from tests.compose.stack import ROOT, run

NAMES = ("prometheus", "grafana")


@pytest.fixture(scope="module")
def services(engine) -> dict[str, dict[str, object]]:
    profile = ["--profile", "observability"]
    done = run(["docker", "compose", *profile, "config", "--format", "json"])
    assert done.returncode == 0, done.stderr
    found: dict[str, dict[str, object]] = json.loads(done.stdout)["services"]
    return {name: found[name] for name in NAMES}


def test_both_are_pinned_and_reached_from_this_machine_alone(services):
    for service in services.values():
        assert ":latest" not in service["image"]
        assert ":" in service["image"]
        assert [port["host_ip"] for port in service["ports"]] == ["127.0.0.1"]


def test_every_file_that_they_are_pointed_to_is_there(services):
    texts = [*services["prometheus"]["command"], *services["grafana"]["environment"].values()]
    paths = [text.partition("=")[2] or text for text in texts if "/deploy/" in text]
    assert len(paths) == 3
    assert [path for path in paths if not (ROOT / path.removeprefix("/")).exists()] == []


def test_nothing_else_is_there_without_the_profile(engine):
    done = run(["docker", "compose", "config", "--services"])
    assert set(NAMES).isdisjoint(done.stdout.split())
