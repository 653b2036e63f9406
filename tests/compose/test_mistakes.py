"""A stranger's mistakes: compose names the service, and its log says what to do, on one screen."""

import json
import socket
from pathlib import Path

import pytest

from tests.compose.stack import ROOT, inspect, run, stack
from tests.processes import write_run
from tests.waiting import wait_until

pytestmark = pytest.mark.e2e

GIVES_UP_S = 120.0
SCREEN_LINES = 24


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """A run of one's own, that everybody may read."""
    path = tmp_path / "project"
    path.mkdir()
    write_run(path)
    # Weights are written for their owner alone.
    (path / "model" / "model.safetensors").chmod(0o644)
    return path


def last_words(project: str, service: str, **variables: Path) -> str:
    """What a service has said when it stays down, as `docker compose logs` shows it."""
    with stack(project, **{name: str(path) for name, path in variables.items()}) as one:
        up = one.try_compose("up", "--detach", "--no-build")
        assert up.returncode != 0
        assert service in up.stderr.splitlines()[-1]
        (container,) = one.containers(service)
        wait_until(lambda: inspect(container, "{{.State.Status}}") == "exited", GIVES_UP_S)
        words = one.logs(service)
    assert len(words.splitlines()) <= SCREEN_LINES
    return words


def test_secrets_that_are_not_there_are_named(project, tmp_path):
    words = last_words(project, "secrets", VOLLEY_SECRETS=tmp_path / "secrets")
    assert "there is no file token" in words
    assert "openssl rand -hex 32" in words


def test_a_folder_without_a_config_is_named(project, tmp_path):
    words = last_words(project, "project", VOLLEY_PROJECT=tmp_path / "projekt")
    assert "projekt: there is no file config.toml" in words


def test_a_file_that_the_containers_cannot_read_is_named(project, folder):
    (folder / "model" / "model.safetensors").chmod(0o600)
    words = last_words(project, "project", VOLLEY_PROJECT=folder)
    assert "cannot read model/model.safetensors" in words
    assert "chmod -R a+rX" in words


def test_a_model_that_does_not_exist_is_named_a_few_times_and_then_left(project, folder):
    config = folder / "config.toml"
    config.write_text(config.read_text().replace('"model"', '"./absent"'))
    words = last_words(project, "learner", VOLLEY_PROJECT=folder)
    assert words.count("model.path: there is no folder /project/absent") == 4


def test_runs_that_cannot_be_written_are_named(project, folder, tmp_path):
    runs = tmp_path / "runs"
    runs.mkdir()
    words = last_words(project, "learner", VOLLEY_PROJECT=folder, VOLLEY_RUNS=runs)
    assert "run folder /runs/demo" in words
    assert "make this one writable" in words


def test_a_busy_port_is_said_by_up(project, folder):
    with (
        stack(project, VOLLEY_PROJECT=str(folder)) as one,
        socket.create_server(("127.0.0.1", one.port)),
    ):
        up = one.try_compose("up", "--detach", "--no-build")
    assert up.returncode != 0
    assert f"127.0.0.1:{one.port}" in up.stderr
    assert "address already in use" in up.stderr


def test_the_gpu_file_wants_a_project_and_reserves_a_gpu_for_learner_and_worker(engine):
    files = ["--file", "docker-compose.yml", "--file", "docker-compose.gpu.yml"]
    config = ["docker", "compose", *files, "config"]
    asked = run(config)
    assert asked.returncode != 0
    assert "VOLLEY_PROJECT is missing a value: name the folder with" in asked.stderr
    variables = {"VOLLEY_PROJECT": str(ROOT / "examples/original"), "VOLLEY_ROLLOUT_GPU": "1"}
    merged = run([*config, "--format=json"], variables)
    services = json.loads(merged.stdout)["services"]
    reserved = {
        name: service["deploy"]["resources"]["reservations"]["devices"][0]["device_ids"]
        for name, service in services.items()
        if "deploy" in service
    }
    assert reserved == {"learner": ["0"], "rollout": ["1"]}
    assert {services[name]["build"]["args"]["DEVICE"] for name in reserved} == {"gpu"}
