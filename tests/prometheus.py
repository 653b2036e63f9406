"""A real Prometheus, with the configuration of deploy/ and other targets."""

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import NamedTuple

import pytest
import urllib3
import yaml

from tests.compose.stack import free_port
from tests.waiting import wait_until
from volley.launcher.parent_death import die_with_parent

DEPLOYED = Path(__file__).parents[1] / "deploy" / "prometheus"


def find_program(name: str) -> str:
    """`make prometheus` leaves it beside Python; skips on a laptop without one, fails in CI."""
    folders = [str(Path(sys.executable).parent), os.environ["PATH"]]
    found = shutil.which(name, path=os.pathsep.join(folders))
    if found:
        return found
    missing = f"no {name}: make prometheus, or your system's package"
    if "CI" in os.environ:
        pytest.fail(missing)
    pytest.skip(missing)


class Rule(NamedTuple):
    """An alert as Prometheus has last evaluated it."""

    name: str
    expression: str
    health: str
    state: str
    severity: str


class Prometheus:
    """A server that scrapes and evaluates every second."""

    def __init__(self, url: str) -> None:
        self._url = url
        self._http = urllib3.PoolManager(retries=False)

    def num_series(self, expression: str) -> int:
        """Of what an expression comes to now; fails the test where Prometheus does not take it."""
        answer = self._ask("/api/v1/query", query=expression)
        assert answer.status == 200, f"{expression}: {answer.data.decode()}"
        return len(json.loads(answer.data)["data"]["result"])

    def rules(self) -> list[Rule]:
        """All alert rules."""
        groups = json.loads(self._ask("/api/v1/rules").data)["data"]["groups"]
        return [
            Rule(one["name"], one["query"], one["health"], one["state"], one["labels"]["severity"])
            for group in groups
            for one in group["rules"]
        ]

    def is_up(self) -> bool:
        try:
            return self._ask("/-/ready").status == 200
        except urllib3.exceptions.HTTPError:
            return False

    def _ask(self, path: str, **fields: str) -> urllib3.BaseHTTPResponse:
        return self._http.request("GET", f"{self._url}{path}", fields=fields)


@contextmanager
def prometheus(folder: Path, token: str, targets: Mapping[str, str]) -> Iterator[Prometheus]:
    """One that scrapes the address given for each job, and keeps what it knows in `folder`."""
    program, port = find_program("prometheus"), free_port()
    folder.mkdir()
    (folder / "token").write_text(token)
    (folder / "prometheus.yml").write_text(_configuration(folder, targets))
    command = [
        *(program, f"--config.file={folder / 'prometheus.yml'}"),
        *(f"--storage.tsdb.path={folder / 'data'}", f"--web.listen-address=127.0.0.1:{port}"),
    ]
    with (
        (folder / "log").open("w") as log,
        subprocess.Popen(
            command,
            stderr=log,
            preexec_fn=die_with_parent,  # noqa: PLW1509 - one system call, takes no lock
        ) as process,
    ):
        try:
            server = Prometheus(f"http://127.0.0.1:{port}")
            wait_until(server.is_up)
            yield server
        finally:
            process.kill()


def _configuration(folder: Path, targets: Mapping[str, str]) -> str:
    """The deployed one, in a hurry, and for targets here."""
    configuration = yaml.safe_load((DEPLOYED / "prometheus.yml").read_text())
    configuration["global"] = {"scrape_interval": "1s", "evaluation_interval": "1s"}
    configuration["rule_files"] = [str(DEPLOYED / name) for name in configuration["rule_files"]]
    for job in configuration["scrape_configs"]:
        job.pop("dns_sd_configs", None)
        job["static_configs"] = [{"targets": [targets[job["job_name"]]]}]
        job["authorization"]["credentials_file"] = str(folder / "token")
    return str(yaml.safe_dump(configuration))
